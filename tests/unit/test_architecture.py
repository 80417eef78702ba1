"""Imports point down: schemas, runtime, the three stages side by side, loom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {"schemas": 0, "runtime": 1, "streams": 2, "trainers": 2, "inference": 2, "loom": 3}


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", FLOORS)
def test_imports_point_down(package: str) -> None:
    faults = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in (ROOT / package).rglob("*.py")
        for other in imports(path)
        if other in FLOORS and other != package and FLOORS[other] >= FLOORS[package]
    ]
    assert faults == []


@pytest.mark.parametrize(
    ("does", "without"),
    [
        ("import loom.cli", ["torch", "vllm", "trl", "faust", "transformers", "distilabel", "aiokafka"]),
        ("import streams.chunk, streams.intake, streams.format, streams.rebuild, streams.shell, loom.processes", ["torch", "transformers", "distilabel", "pandas", "alembic"]),
    ],
    ids=["the command", "the workers of streams"],
)
def test_nothing_heavy_is_imported_for_nothing(does: str, without: list[str]) -> None:
    import subprocess
    import sys

    code = f"{does}; import sys; print([m for m in {without} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
