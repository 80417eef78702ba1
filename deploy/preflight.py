"""What `make setup` looks at before it fetches anything; needs nothing but Python itself.

python deploy/preflight.py VENV
"""

import os
import platform
import shutil
import sys

DISK_GIB, MEMORY_GIB = 12, 8


def faults(venv: str) -> list[str]:
    """What this machine lacks for an environment in `venv`, each with the way out."""
    found = []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        found.append(f"{platform.system()} on {platform.machine()} is not supported: use Linux on x86-64, or the containers in deploy/")
    if sys.version_info[:2] != (3, 11):
        found.append(f"Python {platform.python_version()} is not 3.11, which the locked packages need: make PYTHON=/path/to/python3.11")
    folder = os.path.abspath(venv)
    installed = os.path.exists(os.path.join(folder, ".ready"))
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not installed and (free := shutil.disk_usage(folder).free >> 30) < DISK_GIB:
        found.append(f"{free} GiB of disk are free at {folder}, {DISK_GIB} are needed: make VENV=/other/disk/venv, or free some")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    if memory < MEMORY_GIB * 0.95:
        found.append(f"{memory:.1f} GiB of memory, {MEMORY_GIB} are needed for training beside serving")
    return found


if __name__ == "__main__":
    missing = faults(sys.argv[1])
    for fault in missing:
        print(f"can't set up: {fault}", file=sys.stderr)
    sys.exit(1 if missing else 0)
