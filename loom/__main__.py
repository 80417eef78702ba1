"""`python -m loom`."""

from loom.cli import main

main()
