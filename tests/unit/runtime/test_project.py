"""The project file and settings: every fault at once, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.project import load_project
from runtime.settings import load_settings

ROOT = Path(__file__).parents[3]


def test_the_example_is_valid() -> None:
    project = load_project(ROOT / "examples/pebblewire/loom.toml")
    assert {"tool", "classifier", "ner", "chat"} <= project.adapters.keys()
    assert {"datasets.tool", "results.sentiment", "results.completed", "dead-letters"} <= project.topics.keys()


def test_partitions_are_as_many_as_the_project_says(tmp_path: Path) -> None:
    (tmp_path / "loom.toml").write_text("[kafka]\npartitions = 24")
    topics = load_project(tmp_path / "loom.toml").topics
    assert (topics["documents"].partitions, topics["datasets.cpt"].partitions, topics["adapters"].partitions) == (24, 24, 1)


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("[adapters.a]\ntask = 'classify'\nresult = 'a'\nlabel = ['x']", ["unknown key, did you mean 'labels'?"]),
        ("[adapters.a]\ntask = 'sing'\nresult = 'a'", ["adapters.a.task"]),
        ("[adapters.a]\ntask = 'tool'\nresult = 'a'", ["needs `tools`"]),
        ("[adapters.A]\ntask = 'chat'\nresult = 'Bad Name'", ["adapters.A", "result"]),
        ("[adapters.a]\ntask = 'chat'\nresult = 'a'\n[adapters.a.recipe]\nrank = 64", ["adapters.a.recipe.rank"]),
        ("[adapters.a]\ntask = 'classify'\nresult = 'a'\nlabels = ['x']\n[adapters.a.gate]\njudged = 9", ["`judged` is for `chat`"]),
        ("[adapters.a]\ntask = 'chat'\nresult = 'a'\n[adapters.a.gate]\nmin_judge_score = 0.5", ["min_judge_score needs `judged`"]),
        ("nonsense", ["loom.toml"]),
    ],
)
def test_faults_are_named_with_their_place(tmp_path: Path, text: str, faults: list[str]) -> None:
    (tmp_path / "loom.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_project(tmp_path / "loom.toml")
    assert [fault for fault in faults if fault not in str(caught.value)] == []


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--project"):
        load_project(tmp_path / "none.toml")


def test_environment_overrides_and_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_HTTP_PORT", "9000")
    monkeypatch.setenv("LOOM_DATABASE", "postgresql://u:secret@h/d")
    settings = load_settings()
    assert settings.http_port == 9000
    assert "secret" not in repr(settings)
    monkeypatch.setenv("LOOM_HTTP_PORT", "many")
    with pytest.raises(SettingsError, match="LOOM_HTTP_PORT"):
        load_settings()


def test_the_file_that_init_writes_is_valid(tmp_path: Path) -> None:
    (tmp_path / "loom.toml").write_text((ROOT / "loom/template.toml").read_text())
    assert load_project(tmp_path / "loom.toml").adapters.keys() == {"tool", "classifier"}


def test_sources_are_url_prefixes(tmp_path: Path) -> None:
    (tmp_path / "loom.toml").write_text('[documents]\nsources = ["manuals/"]\n')
    with pytest.raises(SettingsError, match="is no URL prefix such as s3://"):
        load_project(tmp_path / "loom.toml")
