"""One of the processes that share a training (`trainers.together`), as torchrun starts it."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Client, Connection

import torch

from runtime.machine import cores
from trainers.memory import is_out_of_memory
from trainers.together import WELL, Failure, is_first

GLOO = "gloo/transport"


def _end_with(channel: Connection) -> None:
    try:
        channel.recv()
    except (EOFError, OSError):
        os._exit(1)


def _has_lost_another(error: Exception) -> bool:
    """PyTorch has errors of its own for this with NCCL; what Gloo says of it is a plain RuntimeError."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and GLOO in str(error))


def main(address: str) -> None:
    """What to do comes through the socket at `address`, and what to say goes there."""
    channel = Client(address, "AF_UNIX")
    training, arguments, conditions = channel.recv()
    threading.Thread(target=_end_with, args=(channel,), daemon=True).start()
    torch.set_num_threads(max(1, (conditions.threads or cores()) // conditions.processes))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        training(*arguments, report=channel.send if is_first() else lambda _: None, conditions=conditions)
        channel.send(WELL)
    except Exception as error:
        channel.send(Failure(f"{type(error).__name__}: {error}", is_out_of_memory(error), _has_lost_another(error)))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
