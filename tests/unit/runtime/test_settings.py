"""What docs/settings.md says is what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.settings import Settings

DOCS = (Path(__file__).parents[3] / "docs/settings.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_docs_as_it_is(name: str) -> None:
    default = Settings.model_fields[name].default
    shown = "" if default in (None, "") else f"`{default}`"
    assert f"| `LOOM_{name.upper()}` | {shown} | {Settings.model_fields[name].description} |" in DOCS
