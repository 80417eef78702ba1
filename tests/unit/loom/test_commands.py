"""The command line: every command explains itself, odd input gets one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from loom.cli import app
from loom.commands.exchange import read_context
from runtime.errors import SettingsError
from runtime.project import load_project

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [[name, *sub] for name, c in COMMANDS.items() for sub in ([[s] for s in c.commands] if hasattr(c, "commands") else [[]])], ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    shown = CliRunner().invoke(app, [*command, "--help"])
    assert (shown.exit_code, "Example:" in shown.output) == (0, True)


def test_no_command_is_summed_up_in_half_a_sentence() -> None:
    assert "..." not in CliRunner().invoke(app, ["--help"], terminal_width=80).output.split("Commands:")[1]


def test_init_writes_a_project_that_loads_and_overwrites_none(tmp_path: Path) -> None:
    path = tmp_path / "loom.toml"
    assert CliRunner().invoke(app, ["init", str(path)]).exit_code == 0
    assert "tool" in load_project(path).adapters
    assert isinstance(CliRunner().invoke(app, ["init", str(path)]).exception, SettingsError)


def test_context_is_read_from_pairs_and_files(tmp_path: Path) -> None:
    (tmp_path / "manual.txt").write_text("It lasts two years.")
    assert read_context([]) == {"user_id": "current"}
    assert read_context(["user_id=7", f"passage=@{tmp_path / 'manual.txt'}", "a=b=c"]) == {"user_id": "7", "passage": "It lasts two years.", "a": "b=c"}


@pytest.mark.parametrize("pair", ["passage", "=x", "passage=@/nowhere/at/all"])
def test_odd_context_is_refused(pair: str) -> None:
    with pytest.raises(SettingsError):
        read_context([pair])
