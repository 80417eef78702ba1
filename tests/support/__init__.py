"""Factories, and small programs that tests kill."""
