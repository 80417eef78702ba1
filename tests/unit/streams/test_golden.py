"""Real documents: what must come out of each. They are not part of the project; without them this is skipped."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from streams.parse import BlockKind, parse

DATA = Path(__file__).parents[4] / "shared" / "data"
GOLDEN: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "golden.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_real_document(name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not at {DATA}")
    expected = GOLDEN[name]
    found = parse(expected["media_type"], (DATA / name).read_bytes())
    headings = [[b.text, b.level, *([b.page] if b.page else [])] for b in found if b.kind is BlockKind.HEADING]
    assert [h for h in expected["headings"] if h not in headings] == []
    assert [s for s in expected["sentences"] if not any(s in b.text for b in found)] == []
    rows = {row for b in found if b.kind is BlockKind.TABLE for row in b.text.splitlines()}
    assert [row for row in expected.get("rows", []) if row not in rows] == []
    assert [(a, b) for a in expected["absent"] for b in found if a in b.text] == []
