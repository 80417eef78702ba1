"""How a training is carried out, apart from what it learns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from shutil import which

from runtime.errors import SettingsError
from runtime.project import TeacherLimits

BACKENDS = {"trl": False, "unsloth": True, "axolotl": False}
"""Who carries a training out (`trainers.backends`), by name: whether it needs a process of its own. Unsloth rewrites transformers where it is imported, by which versions are judged."""


@dataclass(frozen=True, slots=True)
class LlmJudge:
    """A model at an OpenAI-compatible endpoint; of `limits` the requests at once, the timeout and the prices are its too."""

    url: str
    model: str
    key: str = field(repr=False)
    limits: TeacherLimits


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine and its operator have a say in; the recipe says what is learned.

    Where memory was short, `halvings` times half as many rows are in it at once; gradients are accumulated to the recipe's batch.
    `processes` share each step of a training, on a GPU each where there are GPUs; on a CPU they share `threads` threads, all where it is None. Where they are
    `sharded` and all weights of a base are trained, each holds its part of weights, gradients and the optimiser's state alone.
    `backend` is one of BACKENDS, `axolotl` the command of that one.
    A checkpoint is written each time that `checkpoint_seconds` have passed.
    `judge` scores answers where a gate wants that; nobody does where it is None.
    Losses go to the experiment trackers in `report_to`, by the names that transformers gives them, as `name` and the kind of training.
    """

    halvings: int = 0
    processes: int = 1
    sharded: bool = False
    threads: int | None = None
    gpu_memory: float | None = None
    backend: str = "trl"
    axolotl: str = "axolotl"
    checkpoint_seconds: float = 30.0
    report_to: tuple[str, ...] = ()
    name: str = ""
    judge: LlmJudge | None = None

    def halved(self) -> Conditions:
        """The same with half as many rows in memory at once."""
        return replace(self, halvings=self.halvings + 1)


def check_backend(conditions: Conditions) -> None:
    """Raises SettingsError where the backend is not installed here, with the way out."""
    if conditions.backend == "axolotl" and not which(conditions.axolotl):
        raise SettingsError(f"LOOM_RUN_BACKEND=axolotl: there is no command {conditions.axolotl!r} here: install axolotl in an environment of its own and name its command in LOOM_AXOLOTL")
    if not find_spec(conditions.backend) and conditions.backend != "axolotl":
        raise SettingsError(f"LOOM_RUN_BACKEND={conditions.backend}: the package {conditions.backend} is not installed where the trainer runs: requirements-gpu.txt has it")


def check_sharded(conditions: Conditions) -> None:
    """Raises SettingsError where processes are to share weights and can't: accelerate shards on GPUs alone, and the other backends hold whole models."""
    if not conditions.sharded:
        return
    if conditions.processes == 1 or conditions.backend != "trl":
        raise SettingsError("LOOM_RUN_SHARDED=1 needs LOOM_RUN_PROCESSES above 1, and LOOM_RUN_BACKEND=trl")
    import torch

    if torch.cuda.device_count() < conditions.processes:
        raise SettingsError(f"LOOM_RUN_SHARDED=1: {conditions.processes} processes need a GPU each, there are {torch.cuda.device_count()}: without it each holds all weights")


ALONE = Conditions()
"""One process, nobody told."""


def missing_trackers(report_to: tuple[str, ...]) -> list[str]:
    """Those of `report_to` that transformers does not know, or whose package is not installed here."""
    if not report_to:
        return []
    from transformers.integrations import get_available_reporting_integrations

    return sorted(set(report_to) - set(get_available_reporting_integrations()))
