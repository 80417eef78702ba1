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
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from runtime.errors import InvalidInput
from runtime.machine import cores
from trainers.conditions import Conditions
from trainers.progress import Moment, Report

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

log = structlog.get_logger()
ATTEMPTS = 4
"""Processes of which one is killed are started again together, and go on from the last checkpoint: so often."""
START_SECONDS = 1.0
END_SECONDS = 30.0
Training = Callable[..., "PeftModel"]


def is_member() -> bool:
    """Whether this process is one of those that share a training."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process is the one that speaks and writes: it trains alone, or is the first of those that share a training."""
    return os.environ.get("RANK", "0") == "0"


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
        trouble = _attempt(training, arguments, report, conditions)
        if trouble is None:
            return
        words, is_short_of_memory = trouble
        if words:
            raise MemoryError(words) if is_short_of_memory else RuntimeError(words)
        log.warning("training.goes_on", attempt=attempt, reason="one of its processes was killed")
    raise RuntimeError(f"one of {conditions.processes} processes was killed, {ATTEMPTS} times in a row")


def _attempt(training: Training, arguments: tuple[Any, ...], report: Report, conditions: Conditions) -> tuple[str, bool] | None:
    """None when all ended well; else the first error's words, none where a process was killed, and whether memory was short. Each process says one last word: its error, or None."""
    with _launched(conditions.processes) as members:
        for member in members:
            member.send((training, arguments, conditions))
        trouble: tuple[str, bool] | None = None
        talking, silent = list(members), len(members)
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
                    continue
                silent -= 1
                trouble = trouble or word
    return ("", False) if silent else trouble  # who is killed says nothing, the others that they have lost it


@contextmanager
def _launched(count: int) -> Iterator[list[Connection]]:
    """torchrun with `count` processes, each of which has connected; all are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="loom-") as folder, socket.socket(socket.AF_UNIX) as listener:  # a folder that is ours alone
        address = str(Path(folder) / "run")
        listener.bind(address)
        listener.listen(count)
        listener.settimeout(START_SECONDS)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m", __name__, address]
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


def _end_with(channel: Connection) -> None:
    try:
        channel.recv()
    except (EOFError, OSError):
        os._exit(1)


def main(address: str) -> None:
    """One of the processes: what to do comes through the socket at `address`, and what to say goes there."""
    import torch

    from trainers.memory import is_out_of_memory

    channel = Client(address, "AF_UNIX")
    training, arguments, conditions = channel.recv()
    threading.Thread(target=_end_with, args=(channel,), daemon=True).start()
    torch.set_num_threads(max(1, (conditions.threads or cores()) // conditions.processes))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        training(*arguments, report=channel.send if is_first() else lambda _: None, conditions=conditions)
        channel.send(None)
    except Exception as error:
        channel.send((f"{type(error).__name__}: {error}", is_out_of_memory(error)))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
