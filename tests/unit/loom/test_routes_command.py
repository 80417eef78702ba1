"""`loom routes`: fitted to a file of requests, shown, explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from loom.cli import app
from loom.doctor import checks
from runtime.errors import InvalidInput, LoomError, SettingsError
from runtime.settings import load_settings

PROJECT = Path(__file__).parents[3] / "examples/pebblewire/loom.toml"
PHRASINGS = Path(__file__).parents[2] / "phrasings/requests.jsonl"


@pytest.fixture(autouse=True)
def logs_go_on() -> Iterator[None]:
    """What a command logs to is closed when its runner ends."""
    yield
    structlog.reset_defaults()


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception:
        raise result.exception
    return result.output


def requests(target: Path) -> Path:
    """The phrasings as rows of intents: those that hold one call, or none."""
    rows = [json.loads(line) for line in PHRASINGS.read_text().splitlines()]
    target.write_text("".join(json.dumps({"text": row["text"], "intents": [f"tool/{call['tool']}" for call in row["calls"]]}) + "\n" for row in rows if len(row["calls"]) < 2))
    return target


def test_the_threshold_of_declared_utterances_is_fitted_reported_and_taken_by_the_project(tmp_path: Path) -> None:
    out = tmp_path / "router"
    fitted = json.loads(invoke("routes", "fit", "--validation", requests(tmp_path / "rows.jsonl"), "--out", out, "--project", PROJECT, "--json"))
    assert fitted["report"]["rows"] == 180
    assert fitted["report"]["best_is_right"] > 0.9
    project = tmp_path / "loom.toml"
    project.write_text(PROJECT.read_text().replace('"../../models/base"', json.dumps(str(PROJECT.parents[2] / "models/base"))) + '\n[router]\nfitted = "router"\n')
    shown = json.loads(invoke("routes", "--project", project, "--json"))
    assert shown["report"] == fitted["report"]
    assert {row["threshold"] for row in shown["routes"]} == {fitted["threshold"]}
    assert {row["route"] for row in shown["routes"]} >= {"tool/reset_password_flow", "chat", "ner"}
    decision = json.loads(invoke("routes", "explain", "I'm frustrated with the login error, can you reset my password?", "--project", project, "--json"))
    assert (decision["status"], [intent["adapter"] for intent in decision["intents"]]) == ("classified", ["classifier", "tool"])
    assert decision["intents"][1]["nearest"] == "reset my password"


def test_the_doctor_looks_at_fitted_routes_and_keys(tmp_path: Path) -> None:
    project, keys = tmp_path / "loom.toml", tmp_path / "keys.toml"
    project.write_text('[adapters.chat]\ntask = "chat"\nresult = "chat"\nutterances = ["hello there"]\n[router]\nfitted = "router"\n')
    keys.write_text("[keys]")
    found = {check.name: check for check in checks(load_settings(project=project, data=tmp_path, api_keys=keys))}
    assert (found["routes"].ok, "router.json is missing: loom routes fit writes them" in found["routes"].detail) == (False, True)
    assert (found["keys"].ok, "`loom keys NAME` makes one" in found["keys"].detail) == (False, True)


def test_routes_that_are_declared_are_shown_and_explained() -> None:
    assert {row["of"] for row in json.loads(invoke("routes", "--project", PROJECT, "--json"))["routes"]} == {"cosine"}
    told = invoke("routes", "explain", "My cat likes the sofa.", "--project", PROJECT)
    assert told.splitlines() == ["unknown", "  classifier: 'My cat likes the sofa.' (sees every message)"]


def test_an_adapter_for_whole_messages_is_explained_without_a_margin(tmp_path: Path) -> None:
    project = tmp_path / "loom.toml"
    project.write_text('[adapters.mood]\ntask = "classify"\nresult = "mood"\nlabels = ["A", "B"]\nwhole_message = true\nutterances = ["I am so angry"]\n')
    assert "mood: 'I am so angry' (score 0.98" in (told := invoke("routes", "explain", "I am so angry", "--project", project))
    assert "nearest 'I am so angry')" in told


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ([], SettingsError, "name --train, --validation, or both"),
        (["--validation", "ROWS", "--epochs", "3"], SettingsError, "--epochs teach the encoder by the rows of --train"),
        (["--train", "ROWS", "--encoder", "distilbert"], SettingsError, "--encoder is taught by --epochs"),
        (["--train", "STRANGE"], SettingsError, "strange.jsonl: 'shop' is no adapter that is declared: one of tool, classifier, ner, chat"),
        (["--train", "ODD"], InvalidInput, "row 1 is not of the form"),
        (["--train", "NOWHERE"], SettingsError, "can't be read"),
    ],
)
def test_what_can_not_be_fitted_is_one_clear_line(tmp_path: Path, options: list[str], error: type[LoomError], reason: str) -> None:
    (tmp_path / "strange.jsonl").write_text('{"text": "a hat", "intents": ["shop"]}\n')
    (tmp_path / "odd.jsonl").write_text('{"text": "a hat"}\n')
    files = {"ROWS": requests(tmp_path / "rows.jsonl"), "STRANGE": tmp_path / "strange.jsonl", "ODD": tmp_path / "odd.jsonl", "NOWHERE": tmp_path / "nowhere.jsonl"}
    with pytest.raises(error, match=reason):
        invoke("routes", "fit", *(files.get(option, option) for option in options), "--out", tmp_path / "router", "--project", PROJECT)
    assert not (tmp_path / "router").exists()
