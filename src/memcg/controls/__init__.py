"""What the directory of one group offers: every control file of each cgroup version, declared once."""
