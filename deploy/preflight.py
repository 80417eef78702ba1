"""What `make setup` looks at before it fetches anything; needs nothing but Python itself."""

import os
import platform
import shutil
import sys

DISK_GIB, MEMORY_GIB = 12, 8


def faults() -> list[str]:
    """What this machine lacks, each with the way out."""
    found = []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        found.append(f"{platform.system()} on {platform.machine()} is not supported: use Linux on x86-64, or the containers in deploy/")
    if sys.version_info[:2] != (3, 11):
        found.append(f"Python {platform.python_version()} is not 3.11, which the locked packages need: make PYTHON=/path/to/python3.11")
    installed = os.path.exists(".venv/.ready")  # noqa: PTH110 - the oldest form, for the oldest Python
    if not installed and (free := shutil.disk_usage(".").free >> 30) < DISK_GIB:
        found.append(f"{free} GiB of disk are free here, {DISK_GIB} are needed: make VENV=/other/disk/venv, or free some")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    if memory < MEMORY_GIB * 0.95:
        found.append(f"{memory:.1f} GiB of memory, {MEMORY_GIB} are needed for training beside serving")
    return found


if __name__ == "__main__":
    for fault in faults():
        print(f"can't set up: {fault}", file=sys.stderr)
    sys.exit(1 if faults() else 0)
