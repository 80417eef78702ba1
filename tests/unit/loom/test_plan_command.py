"""`loom plan --gpu`: what fits on a GPU that is elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loom.cli import app
from runtime.errors import SettingsError

BASE = str(Path(__file__).parents[3] / "models/base")


def test_a_small_base_fits_and_says_how_many_requests() -> None:
    plan = json.loads(CliRunner().invoke(app, ["plan", "--gpu", "24GB", "--base", BASE, "--adapters", "4", "--rank", "16", "--json"]).stdout)
    assert plan["serving"]["token_bytes"] == 8 << 10
    assert plan["serving"]["requests"] == pytest.approx(plan["serving"]["cache_tokens"] / 1024, rel=1e-3)
    shown = CliRunner().invoke(app, ["plan", "--gpu", "24", "--base", BASE, "--adapters", "4", "--rank", "16"]).stdout
    assert "slots of 4 adapters of rank 16" in shown
    assert "requests of 1024 tokens at once" in shown


def test_what_does_not_fit_ends_with_the_way_out() -> None:
    ended = CliRunner().invoke(app, ["plan", "--gpu", "1GiB", "--base", BASE, "--adapters", "4", "--rank", "16"])
    assert (ended.exit_code, "take a larger GPU" in ended.stdout) == (1, True)


@pytest.mark.parametrize(("options", "reason"), [(["--gpu", "much"], "such as 24GB"), (["--rank", "4"], "say --gpu too")])
def test_odd_options_are_one_clear_line(options: list[str], reason: str) -> None:
    ended = CliRunner().invoke(app, ["plan", *options, "--base", BASE, "--adapters", "4"])
    assert isinstance(ended.exception, SettingsError)
    assert reason in str(ended.exception)
