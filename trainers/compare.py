"""Which answers differ between two versions of an adapter, on the held-out examples that the first of them is judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.encoder import minilm
from runtime.project import Adapter
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import AdapterVersion
from trainers.base_model import with_adapter
from trainers.evaluate import Asked, Invalid, answers, score
from trainers.fork import judged_by
from trainers.run import RunSpec, base_folder, earlier_of, fetched, read_rows


@dataclass(frozen=True, slots=True)
class Difference:
    """An example that two versions answer otherwise: its input, the right answer, theirs, and how right each is, 0 to 1. An answer that can't be read is None."""

    example_id: str
    input: Mapping[str, Any]
    wanted: Any
    ours: Any
    theirs: Any
    our_score: float
    their_score: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """`scores` are those of the task's metric over all `held_out` examples, ours and theirs."""

    metric: str
    held_out: int
    scores: tuple[float, float]
    differences: tuple[Difference, ...]


def compare(ours: tuple[RunSpec, AdapterVersion], theirs: tuple[RunSpec, AdapterVersion]) -> Comparison:
    """Both versions, each with the run that made it, answer what ours was judged by, each on its own base.

    Raises:
        LoomError: an artifact is not what the registry says.
    """
    spec = ours[0]
    assert isinstance(spec.recipe, Adapter)  # the base answers nothing
    adapter, shortlist = spec.recipe, Shortlist(lambda texts: minilm().encode(texts))
    asked = judged_by(adapter, read_rows(spec), load_tokenizer(base_folder(spec)), shortlist, earlier_of(spec)).asked
    return differing(adapter, asked, *(_answers(adapter, *one, asked) for one in (ours, theirs)))


def differing(adapter: Adapter, asked: Sequence[Asked], ours: Sequence[Any], theirs: Sequence[Any]) -> Comparison:
    """The comparison of two lists of answers to `asked`. Pure."""
    spec, wanted = adapter.spec, [one.wanted for one in asked]
    first, second = score(spec, ours, wanted), score(spec, theirs, wanted)
    rows = zip(asked, wanted, map(_plain, ours), map(_plain, theirs), first.each, second.each, strict=True)
    differences = [Difference(one.row.example_id, one.given, *rest) for one, *rest in rows if rest[1] != rest[2]]
    return Comparison(first.metric, first.count, (first.score, second.score), tuple(differences))


def _answers(adapter: Adapter, spec: RunSpec, version: AdapterVersion, asked: Sequence[Asked]) -> list[Any]:
    base = base_folder(spec)
    said, _ = answers(with_adapter(base, fetched(spec, version)), load_tokenizer(base), adapter.spec, asked)
    return said


def _plain(answer: Any) -> Any:
    return None if isinstance(answer, Invalid) else answer
