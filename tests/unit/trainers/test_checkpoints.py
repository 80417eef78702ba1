"""Which checkpoint a run goes on from."""

from __future__ import annotations

from pathlib import Path

from trainers.checkpoints import STATE, last_whole


def checkpoint(folder: Path, step: int, state: str | None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "optimizer.pt").write_bytes(b"x")
    if state is not None:
        (path / STATE).write_text(state)
    return path


def test_the_newest_that_was_written_to_its_end_and_no_other_stays(tmp_path: Path) -> None:
    checkpoint(tmp_path, 9, '{"global_step": 9}')
    whole = checkpoint(tmp_path, 80, '{"global_step": 80}')
    checkpoint(tmp_path, 90, '{"global_st')
    checkpoint(tmp_path, 100, None)
    assert last_whole(tmp_path) == whole
    assert list(tmp_path.iterdir()) == [whole]


def test_where_nothing_was_kept_there_is_none(tmp_path: Path) -> None:
    assert last_whole(tmp_path / "nowhere") is None
    checkpoint(tmp_path, 5, None)
    assert last_whole(tmp_path) is None
