"""How a training is carried out, apart from what it learns."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine and its operator have a say in; the recipe says what is learned.

    Where memory was short, `halvings` times half as many rows are in it at once; gradients are accumulated to the recipe's batch.
    `processes` share each step of a training, on a GPU each where there are GPUs; on a CPU they share `threads` threads, all where it is None.
    Losses go to the experiment trackers in `report_to`, by the names that transformers gives them, as `name` and the kind of training.
    """

    halvings: int = 0
    processes: int = 1
    threads: int | None = None
    report_to: tuple[str, ...] = ()
    name: str = ""

    def halved(self) -> Conditions:
        """The same with half as many rows in memory at once."""
        return replace(self, halvings=self.halvings + 1)


ALONE = Conditions()
"""One process, nobody told."""


def missing_trackers(report_to: tuple[str, ...]) -> list[str]:
    """Those of `report_to` that transformers does not know, or whose package is not installed here."""
    if not report_to:
        return []
    from transformers.integrations import get_available_reporting_integrations

    return sorted(set(report_to) - set(get_available_reporting_integrations()))
