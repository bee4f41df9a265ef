"""What a group does when it is out of memory, and who decides."""
