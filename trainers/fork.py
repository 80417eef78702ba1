"""An adapter forked from a base epoch: SFT, then DPO where it is declared; judged by its answers to held-out examples."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.artifacts import ADAPTER_FILES
from runtime.encoder import minilm
from runtime.project import Adapter, Dpo, Recipe
from runtime.tasks.prompt import completion_ids, load_tokenizer, prompt_ids
from runtime.tasks.samples import TaskSpec, render, render_pair
from runtime.tasks.shortlist import Shortlist, Shown
from schemas.events import Split
from trainers import dpo, sft
from trainers.artifact import Made
from trainers.backends import Pair, Tokens
from trainers.base_model import give_memory_back, with_adapter
from trainers.conditions import ALONE, Conditions
from trainers.evaluate import Asked, Evaluation, HeldOut, Scores, evaluate
from trainers.gate import Rivals, judge
from trainers.llm_judge import judged
from trainers.mistakes import own_mistakes
from trainers.order import drawn
from trainers.progress import Report
from trainers.snapshot import Row, example_ids

MAX_HELD_OUT, MAX_ANCHORS, MAX_NEW = 250, 100, 75
"""Held-out examples that a version is judged by, and how many of them may be anchors and new ones: enough to tell a point or two apart; more would
take longer than training does on a CPU."""
SFT, DPO = "sft", "dpo"
"""Where in a run's folder each leaves its adapter."""
AMENDING_TIMES, AMENDING_OTHERS, AMENDING_RATE = 4, 256, 0.1
"""How often a correction is seen, how many other examples are, and the share of the recipe's rate."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The folders of earlier versions on the same base: the live one, the best on the anchors, and the first, whose held-out examples are the anchors."""

    live: Path | None = None
    best: Path | None = None
    first: Path | None = None


@dataclass(frozen=True, slots=True)
class _Examiner:
    """Puts the held-out examples to models, as serving would."""

    base: str
    tokenizer: Any
    spec: TaskSpec
    held_out: HeldOut

    def scores(self, model: Any) -> Scores:
        return evaluate(model, self.tokenizer, self.spec, self.held_out)

    def alone(self, model: Any) -> Evaluation:
        """Of the base without its adapter."""
        with model.disable_adapter():
            return self.scores(model).whole

    def best_on_anchors(self, earlier: Earlier, serving: Scores | None) -> Evaluation | None:
        """Of the best version ever; `serving` are those of the live one."""
        if earlier.best is None or not self.held_out.anchors:
            return None
        if serving and earlier.best == earlier.live:
            return serving.anchors
        anchors = HeldOut(tuple(self.held_out.asked[i] for i in self.held_out.anchors))
        return evaluate(with_adapter(self.base, earlier.best), self.tokenizer, self.spec, anchors).whole


def make(adapter: Adapter, base: str, rows: Sequence[Row], earlier: Earlier, folder: Path, report: Report, conditions: Conditions = ALONE, *, floor_only: bool = False, amends: bool = False) -> Made:
    """The adapter of `rows` in `folder`, with its scores beside those of the base and of earlier versions on the same examples.

    Where it `amends`, it goes on from the live version, and `rows` are those of `amendment`; corrections are seen several times.
    """
    tokenizer, spec = load_tokenizer(base), adapter.spec
    shortlist = Shortlist(lambda texts: minilm().encode(texts))  # loaded where there is something to narrow
    examiner = _Examiner(base, tokenizer, spec, judged_by(adapter, rows, tokenizer, shortlist, earlier))
    recipe, start = (_gently(adapter.recipe), earlier.live) if amends else (adapter.recipe, None)
    single, paired = ([row for row in rows if row.split is Split.TRAIN and row.is_pair is is_pair] for is_pair in (False, True))
    if amends:
        single, paired = (_corrections_often(part) for part in (single, paired))
    learnt = offers(spec, single, shortlist)
    model = sft.train(base, tokens_of(learnt, tokenizer, recipe.seed), recipe, folder / SFT, report, conditions, start)
    made, alone = {SFT: examiner.scores(model)}, examiner.alone(model)
    own = own_mistakes(model, tokenizer, learnt, adapter.dpo.own_answers, recipe.seed)[: adapter.dpo.max_pairs // 2] if adapter.dpo and not amends else []
    del model
    serving = examiner.scores(with_adapter(base, earlier.live)) if earlier.live else None
    metrics: dict[str, float] = {}
    if adapter.dpo:
        given = [(one, _pair(one.spec, one.row, tokenizer, recipe.seed)) for one in offers(spec, sorted(paired, key=lambda row: not row.is_correction), shortlist)]
        pairs = given if amends else given[: adapter.dpo.max_pairs - len(own)] + own  # what `amendment` drew is bounded already
        metrics |= {"pairs": float(len(pairs)), "own_mistakes": float(len(own))}
        if pairs:
            give_memory_back()
            made[DPO] = examiner.scores(dpo.align(base, folder / SFT, as_declared(pairs, adapter.dpo, recipe.seed), recipe, adapter.dpo, folder / DPO, report, conditions))
            give_memory_back()
            metrics |= _side_by_side(made)
    candidate, graded = _graded(adapter, _better(made, folder), examiner, conditions)
    rivals = Rivals(alone, serving, examiner.best_on_anchors(earlier, serving))
    verdict = judge(adapter.gate, candidate, rivals, (folder / ADAPTER_FILES[0]).stat().st_size, floor_only=floor_only)
    metrics |= graded | _metrics(candidate, rivals) | verdict.numbers | {"teacher_usd": sum(row.teacher_usd for row in rows)}
    return Made(ADAPTER_FILES, metrics, verdict)


def _better(made: dict[str, Scores], folder: Path) -> Scores:
    """Of what was made in `folder` the one that scores best, whose files become the run's; where both are as good, the aligned one."""
    chosen = max(reversed(made), key=lambda kind: made[kind].whole.score)
    for name in ADAPTER_FILES:
        if (folder / chosen / name).exists():
            shutil.copy(folder / chosen / name, folder / name)
    return made[chosen]


def _side_by_side(made: Mapping[str, Scores]) -> dict[str, float]:
    return {f"{kind}_{name}": value for kind, scores in made.items() for name, value in {scores.whole.metric: scores.whole.score, **scores.whole.parts}.items()}


def _graded(adapter: Adapter, candidate: Scores, examiner: _Examiner, conditions: Conditions) -> tuple[Scores, dict[str, float]]:
    """The candidate with what a large model makes of its answers, where the gate asks one; and what that took."""
    if not adapter.gate.judged or not conditions.judge:
        return candidate, {}
    verdicts = judged(conditions.judge, examiner.held_out.asked[: adapter.gate.judged], candidate.said[: adapter.gate.judged])
    return replace(candidate, judge_score=verdicts.mean), {"judged": float(len(verdicts.scores)), "judge_usd": verdicts.usd}


def as_declared(pairs: Sequence[tuple[Asked, Pair]], declared: Dpo, seed: int) -> list[Pair]:
    """The pairs that DPO sees; where they are weighted, each as often as the judge's score of its example says."""
    places = drawn([1.0 if one.row.judge_score is None else one.row.judge_score for one, _ in pairs], seed) if declared.weighted else range(len(pairs))
    return [pairs[place][1] for place in places]


def _gently(recipe: Recipe) -> Recipe:
    """How a version that is good is amended: once over the rows, at a fraction of the rate."""
    return recipe.model_copy(update={"epochs": 1.0, "learning_rate": recipe.learning_rate * AMENDING_RATE})


def _corrections_often(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows for _ in range(AMENDING_TIMES if row.is_correction else 1)]


def amendment(rows: Sequence[Row], seed: int) -> list[Row]:
    """What of `rows` an amendment learns from, and is judged by, in their order: corrections, AMENDING_OTHERS of the other examples and as many pairs, drawn by `seed`; all that is held out."""
    rng, chosen = random.Random(seed), {row.example_id for row in rows if row.is_correction or row.split is Split.EVALUATION}
    for is_pair in (False, True):
        others = [row.example_id for row in rows if row.is_pair is is_pair and row.example_id not in chosen]
        chosen.update(rng.sample(others, min(len(others), AMENDING_OTHERS)))
    return [row for row in rows if row.example_id in chosen]


def _metrics(candidate: Scores, rivals: Rivals) -> dict[str, float]:
    """What a version says of itself, by name."""
    metric, live = candidate.whole.metric, rivals.live
    parts = {"new": candidate.new, "anchor": candidate.anchors, "base": rivals.base, "live": live and live.whole, "live_new": live and live.new, "best_anchor": rivals.best_on_anchors}
    counts = {"held_out": candidate.whole.count, "new_held_out": candidate.new.count if candidate.new else 0, "anchors": candidate.anchors.count if candidate.anchors else 0}
    scores = {metric: candidate.whole.score} | {f"{name}_{metric}": part.score for name, part in parts.items() if part}
    faults = {**candidate.whole.parts, **{f"base_{name}": value for name, value in rivals.base.parts.items()}}
    return scores | {name: float(count) for name, count in counts.items()} | {"tokens_an_answer": candidate.tokens_an_answer} | faults


def judged_by(adapter: Adapter, rows: Sequence[Row], tokenizer: Any, shortlist: Shortlist, earlier: Earlier = Earlier()) -> HeldOut:
    """The held-out examples of `rows` that a version is judged by, each with what serving would put on offer; those that the live version's run did
    not have are new, the first of the first version's are the anchors, or its own where it is the first."""
    held_out = [row for row in rows if row.split is Split.EVALUATION and not row.is_pair]
    fitting = [one for one in served(adapter.spec, held_out, shortlist) if len(prompt_ids(tokenizer, one.prompt)) <= adapter.recipe.max_tokens]
    ids = [one.row.example_id for one in fitting]
    first = example_ids(earlier.first) if earlier.first else frozenset(ids)
    had = example_ids(earlier.live) if earlier.live else frozenset(ids)
    anchors = [one for one in ids if one in first][:MAX_ANCHORS]
    new = [one for one in ids if one not in had][:MAX_NEW]
    chosen = set(list(dict.fromkeys([*anchors, *new, *ids]))[:MAX_HELD_OUT])
    asked = tuple(one for one in fitting if one.row.example_id in chosen)
    places = {one.row.example_id: i for i, one in enumerate(asked)}
    return HeldOut(asked, tuple(sorted(places[one] for one in new)), tuple(sorted(places[one] for one in anchors)))


def served(spec: TaskSpec, rows: Sequence[Row], shortlist: Shortlist) -> list[Asked]:
    """Held-out examples, each with what is on offer in serving."""
    return _shown(rows, shortlist.narrow(spec, [row.body["input"] for row in rows]))


def offers(spec: TaskSpec, rows: Sequence[Row], shortlist: Shortlist) -> list[Asked]:
    """Training examples, each with what is on offer in serving, and what its answers name."""
    return _shown(rows, shortlist.narrow(spec, [row.body["input"] for row in rows], [_named(spec, row.body) for row in rows]))


def _named(spec: TaskSpec, body: Mapping[str, Any]) -> set[str]:
    """The tools, or the answers, in an example's right and rejected outputs."""
    outputs = [body[part] for part in ("output", "rejected") if part in body]
    if spec.task == "chat":
        return {output["answer"] for output in outputs}
    return {call["tool"] for output in outputs for call in output.get("calls", ())}


def _shown(rows: Sequence[Row], shown: Sequence[Shown]) -> list[Asked]:
    return [Asked(spec, replace(row, body={**row.body, "input": given})) for row, (spec, given) in zip(rows, shown, strict=True)]


def tokens_of(learnt: Sequence[Asked], tokenizer: Any, seed: int) -> list[Tokens]:
    """Prompt and completion ids; what is on offer is shuffled by a seed of each example's own."""
    rendered = (render(one.spec, one.row.body, random.Random(f"{seed}:{one.row.example_id}")) for one in learnt)
    return [(prompt_ids(tokenizer, prompt), completion_ids(tokenizer, completion)) for prompt, completion in rendered]


def _pair(spec: TaskSpec, row: Row, tokenizer: Any, seed: int) -> Pair:
    """Prompt, chosen and rejected ids."""
    prompt, chosen, rejected = render_pair(spec, row.body, random.Random(f"{seed}:{row.example_id}"))
    return prompt_ids(tokenizer, prompt), completion_ids(tokenizer, chosen), completion_ids(tokenizer, rejected)
