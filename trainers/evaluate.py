"""How good a model is on held-out examples of one task, under the prompts and grammars of serving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import Prompt
from runtime.tasks.samples import TaskSpec, answer, ask, expected
from runtime.tasks.tool import is_same
from trainers.f1 import Tallies, f1
from trainers.faults import parts
from trainers.generate import generate
from trainers.snapshot import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRIC = {"classify": "macro_f1", "tool": "call_accuracy", "extract": "entity_f1", "chat": "token_f1"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`score` is the task's metric over all examples; `each` is 0 to 1 an example; `tallies` are what an F1 is made of, where that is the metric; `parts` are
    other numbers, by name (`faults.parts`)."""

    metric: str
    score: float
    each: tuple[float, ...]
    valid_share: float
    tallies: Tallies | None = field(default=None, compare=False, repr=False)
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of examples."""
        return len(self.each)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of all held-out examples, of those that the live version's run did not have, and of the anchors, which stay the same from version to version.

    `said` are the answers, in the form of `samples.answer`; `judge_score` is what a model makes of some of them, where one was asked: 0 to 1, NaN where it gave no score.
    """

    whole: Evaluation
    new: Evaluation | None
    anchors: Evaluation | None
    tokens_an_answer: float
    said: tuple[Any, ...] = field(default=(), compare=False, repr=False)
    judge_score: float | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out example under what it is asked with: its own labels and tools."""

    spec: TaskSpec
    row: Row

    @property
    def given(self) -> Mapping[str, Any]:
        """The input."""
        given: Mapping[str, Any] = self.row.body["input"]
        return given

    @property
    def prompt(self) -> Prompt:
        """Its prompt, with labels and tools in their declared order."""
        return ask(self.spec, self.given)

    @property
    def wanted(self) -> Any:
        """The right answer, in the form of `samples.answer`."""
        return expected(self.spec, self.row.body["output"])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The examples that a version is judged by; `new` and `anchors` are the places of those parts among them."""

    asked: tuple[Asked, ...]
    new: tuple[int, ...] = ()
    anchors: tuple[int, ...] = ()


def evaluate(model: PreTrainedModel, tokenizer: Any, spec: TaskSpec, held_out: HeldOut) -> Scores:
    """The scores of `model` on examples of the task of `spec`."""
    said, tokens = answers(model, tokenizer, spec, held_out.asked)
    wanted = [one.wanted for one in held_out.asked]

    def part(places: Sequence[int]) -> Evaluation | None:
        return score(spec, [said[i] for i in places], [wanted[i] for i in places]) if places else None

    whole = score(spec, said, wanted)
    return Scores(replace(whole, parts=parts(held_out.asked, said, whole.each)), part(held_out.new), part(held_out.anchors), tokens / max(1, len(said)), tuple(said))


def answers(model: PreTrainedModel, tokenizer: Any, spec: TaskSpec, asked: Sequence[Asked]) -> tuple[list[Any], int]:
    """What `model` answers to examples of the task of `spec`, `Invalid` where it can't be read; and how many tokens that took."""
    completions = generate(model, tokenizer, [a.prompt for a in asked], [grammar(a.spec, a.given) for a in asked], MAX_TOKENS[spec.task])
    tokens = sum(len(tokenizer.encode(completion, add_special_tokens=False)) for completion in completions)
    return [read_answer(a.spec, completion, a.given) for completion, a in zip(completions, asked, strict=True)], tokens


class Invalid:
    """What stands for an answer that could not be read."""


def read_answer(spec: TaskSpec, completion: str, given: Mapping[str, Any]) -> Any:
    """The output that a completion stands for; `Invalid` where it can't be read."""
    try:
        return answer(spec, completion, given)
    except ValueError:
        return Invalid()


def score(spec: TaskSpec, answers: Sequence[Any], wanted: Sequence[Any]) -> Evaluation:
    """The evaluation of `answers` against `wanted`, both in the form of `samples.answer`."""
    each = tuple(_one(spec.task, got, want) for got, want in zip(answers, wanted, strict=True))
    valid = sum(not isinstance(got, Invalid) for got in answers) / max(1, len(answers))
    tallies = tallies_of(spec.task, answers, wanted)
    total = sum(each) / max(1, len(each)) if tallies is None else float(f1(tallies.sum(axis=0)))
    return Evaluation(METRIC[spec.task], total, each, valid, tallies)


def _one(task: str, got: Any, want: Any) -> float:
    if isinstance(got, Invalid):
        return 0.0
    if task == "extract":
        return float(spans(got) == spans(want))
    return token_f1(got, want) if task == "chat" else float(is_same(got, want))


def spans(entities: Sequence[Mapping[str, Any]]) -> set[tuple[int, int, str]]:
    """Start, end and label of each: what two lists of entities are compared by."""
    return {(e["start"], e["end"], e["label"]) for e in entities}


def tallies_of(task: str, answers: Sequence[Any], wanted: Sequence[Any]) -> Tallies | None:
    """What the F1 of a task is made of; None where its metric is a mean. Labels are classes, entities are one: (answers, classes, 3)."""
    kinds = {"classify": _label_tallies, "extract": _entity_tallies}
    return kinds[task](answers, wanted) if task in kinds else None


def _label_tallies(answers: Sequence[Any], wanted: Sequence[Any]) -> Tallies:
    labels = sorted(set(wanted))
    rows = [[(got == want == label, got == label, want == label) for label in labels] for got, want in zip(answers, wanted, strict=True)]
    return np.array(rows, np.float64).reshape(len(rows), len(labels), 3)


def _entity_tallies(answers: Sequence[Any], wanted: Sequence[Any]) -> Tallies:
    pairs = [(spans(got) if not isinstance(got, Invalid) else set(), spans(want)) for got, want in zip(answers, wanted, strict=True)]
    return np.array([[(len(got & want), len(got), len(want))] for got, want in pairs], np.float64).reshape(len(pairs), 1, 3)


def macro_f1(answers: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Mean F1 of the labels that occur in `wanted`."""
    return float(f1(_label_tallies(answers, wanted).sum(axis=0)))


def entity_f1(answers: Sequence[Any], wanted: Sequence[Any]) -> float:
    """Micro F1 of exact spans with their types (CoNLL-2003's measure)."""
    return float(f1(_entity_tallies(answers, wanted).sum(axis=0)))


def token_f1(got: str, want: str) -> float:
    """Overlap of words, as SQuAD 1.1 scores answers (Rajpurkar et al. 2016, section 4)."""
    a, b = Counter(got.lower().split()), Counter(want.lower().split())
    shared = (a & b).total()
    return 2 * shared / (a.total() + b.total()) if shared else 0.0
