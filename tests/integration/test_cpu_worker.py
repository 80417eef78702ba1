"""The engine's worker on a CPU, without an engine around it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from inference.engines.cpu_worker import Worker
from inference.engines.threads import TURN, TURNS, Threads

MOST = 2


def test_a_step_runs_on_the_threads_that_are_chosen_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ran_on: list[int] = []
    monkeypatch.setattr(CPUWorker, "execute_model", lambda _, __: ran_on.append(torch.get_num_threads()))
    worker, before = Worker.__new__(Worker), torch.get_num_threads()
    worker._threads = Threads(MOST)
    try:
        for _ in range(2 * TURN * TURNS):
            worker.execute_model(SimpleNamespace(total_num_scheduled_tokens=7))
        assert ran_on == ([1] * TURN + [MOST] * TURN) * TURNS
        (chosen,) = worker.threads_of_steps().values()
        worker.execute_model(SimpleNamespace(total_num_scheduled_tokens=0))
        worker.execute_model(SimpleNamespace(total_num_scheduled_tokens=4))
        assert ran_on[-1] == chosen
    finally:
        torch.set_num_threads(before)
