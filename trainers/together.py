"""A training that several processes of this machine share: torchrun starts them, PyTorch's DDP keeps them alike (Li et al. 2020, arXiv:2006.15704).

What they learn from goes to them through a socket, never to disk, and what the first of them says comes back through it. They end with the process
that started them: their end of the socket tells.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from runtime.errors import InvalidInput
from trainers.conditions import BACKENDS, Conditions
from trainers.progress import Moment, Report

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()
ATTEMPTS = 4
"""Processes of which one is killed are started again together, and go on from the last checkpoint: so often."""
START_SECONDS = 1.0
END_SECONDS = 30.0
WELL, SILENT = "well", "silent"
Training = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of a process; `lost_another` where it is no more than that it can't reach another one."""

    words: str
    short_of_memory: bool
    lost_another: bool


def is_member() -> bool:
    """Whether this process is one of those that share a training."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks and writes: it trains alone, or is the first of those that share a training."""
    return os.environ.get("RANK", "0") == "0"


def is_shared(batch: int, conditions: Conditions) -> bool:
    """Whether other processes are to be started that carry the training out: several, or one of its own, which its backend needs. Raises InvalidInput as `share_of`."""
    share_of(batch, conditions)
    return (conditions.processes > 1 or BACKENDS[conditions.backend]) and not is_member()


def share_of(batch: int, conditions: Conditions) -> int:
    """How many of `batch` rows each process takes. Pure. Raises InvalidInput where they can't be shared equally."""
    if batch % conditions.processes:
        raise InvalidInput(f"a step of {batch} rows can't be shared equally by {conditions.processes} processes: set batch_size in the recipe, or LOOM_RUN_PROCESSES")
    return batch // conditions.processes


def agreed(due: bool, device: torch.device) -> bool:
    """What the first process says, in all of them."""
    import torch

    word = torch.tensor([int(due)], device=device)
    torch.distributed.broadcast(word, src=0)
    return bool(word.item())


def together(training: Training, arguments: tuple[Any, ...], report: Report, conditions: Conditions) -> None:
    """Has `training(*arguments, report=…, conditions=…)`, a function of a module, carried out by `conditions.processes` processes; what it makes is in its folder.

    Raises:
        MemoryError: memory was short in one of them.
        RuntimeError: one of them failed with another error, or was killed again and again.
    """
    for attempt in range(1, ATTEMPTS + 1):
        words = _attempt(training, arguments, report, conditions)
        if all(word == WELL for word in words):
            return
        for word in words:
            if isinstance(word, Failure) and not word.lost_another:
                raise (MemoryError if word.short_of_memory else RuntimeError)(word.words)
        log.warning("training.goes_on", attempt=attempt, reason="one of its processes was killed")
    raise RuntimeError(f"one of {conditions.processes} processes was killed, {ATTEMPTS} times in a row")


def _attempt(training: Training, arguments: tuple[Any, ...], report: Report, conditions: Conditions) -> list[Failure | str]:
    """The last word of each process; of one that was killed, or ended since another had failed, there is none, and SILENT stands for it."""
    with _launched(conditions.processes) as members:
        for member in members:
            member.send((training, arguments, conditions))
        last: dict[Connection, Failure | str] = dict.fromkeys(members, SILENT)
        talking = list(members)
        while talking:
            heard = wait(talking)
            for member in [one for one in talking if one in heard]:
                try:
                    word = member.recv()
                except (EOFError, ConnectionError):
                    talking.remove(member)
                    continue
                if isinstance(word, Moment):
                    report(word)
                else:
                    last[member] = word
        return list(last.values())


@contextmanager
def _launched(count: int) -> Iterator[list[Connection]]:
    """torchrun with `count` processes, each of which has connected; all are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, socket.socket(socket.AF_UNIX) as listener:  # a folder that is ours alone
        address = str(Path(folder) / "run")
        listener.bind(address)
        listener.listen(count)
        listener.settimeout(START_SECONDS)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", "trainers.member", address]
        launcher = subprocess.Popen(command)
        members: list[Connection] = []
        try:
            while len(members) < count and launcher.poll() is None:
                try:
                    members.append(Connection(listener.accept()[0].detach()))
                except TimeoutError:
                    continue
            if len(members) < count:
                raise RuntimeError(f"torchrun ended with {launcher.returncode} before its {count} processes began")
            yield members
        finally:
            for member in members:
                member.close()
            launcher.terminate()
            try:
                launcher.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                launcher.kill()
                launcher.wait()
