"""A training keeps the number type that it began with."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainers import precision


def test_a_training_that_is_gone_on_with_computes_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_bfloat16_faster", lambda: True)
    assert precision.uses_bfloat16(tmp_path / "begun")
    monkeypatch.setattr(precision, "is_bfloat16_faster", lambda: False)
    assert precision.uses_bfloat16(tmp_path / "begun")
    assert not precision.uses_bfloat16(tmp_path / "other")
    assert [path.name for path in (tmp_path / "begun").iterdir()] == [precision.NOTE]
