"""The cgroup file systems: where they are mounted, one directory of theirs, and the text in their files."""
