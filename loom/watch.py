"""Progress of streams and runs on a terminal, or in lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.progress import Progress, TaskID

TALLY_SECONDS = 10.0


class Watch:
    """Says what is new: counts now and then, runs as they change, a bar while one trains."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self._told = time.monotonic()

    def show(self, tally: str, runs: Sequence[Mapping[str, Any]]) -> None:
        """Shows the state of all."""
        if time.monotonic() - self._told > TALLY_SECONDS:
            self._told = time.monotonic()
            self._say("tally", tally)
        for run in runs:
            name = f"{run['adapter']}@{run['version']}"
            if run["status"] == "progress":
                if run["run_id"] not in self._bars:
                    self._bars[run["run_id"]] = self._progress.add_task(name)
                self._progress.update(self._bars[run["run_id"]], completed=run["step"], total=run["steps"], description=f"{name} loss {run['loss']:.2f}")
            else:
                if run["run_id"] in self._bars:
                    self._progress.update(self._bars[run["run_id"]], visible=False)
                self._say(run["run_id"], f"{name} {run['status']}" + (f": {run['reason']}" if run["reason"] else ""))

    def _say(self, key: str, words: str) -> None:
        if self._said.get(key) != words:
            self._progress.console.print(f"  {words}", highlight=False, soft_wrap=True)
            self._said[key] = words
