"""What others may begin with."""
