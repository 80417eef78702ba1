"""An adapter forked from a base epoch: SFT, then DPO where it is declared; judged by its answers to held-out examples."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from runtime.artifacts import ADAPTER_FILES
from runtime.encoder import minilm
from runtime.project import Adapter
from runtime.tasks.prompt import completion_ids, load_tokenizer, prompt_ids
from runtime.tasks.samples import TaskSpec, render, render_pair
from runtime.tasks.shortlist import Shortlist, Shown
from schemas.events import Split
from trainers import dpo, sft
from trainers.artifact import Made
from trainers.base_model import give_memory_back, with_adapter
from trainers.evaluate import Asked, by_book, evaluate
from trainers.gate import judge
from trainers.mistakes import own_mistakes
from trainers.progress import Report
from trainers.snapshot import Row

MAX_HELD_OUT = 250
"""Enough to tell a point or two apart; more would take longer than training does on a CPU."""


def make(adapter: Adapter, base: str, rows: Sequence[Row], live: Path | None, folder: Path, report: Report) -> Made:
    """The adapter of `rows` in `folder`, with its scores beside the base's and the live version's (in `live`) on the same examples."""
    tokenizer, spec = load_tokenizer(base), adapter.spec
    shortlist = Shortlist(lambda texts: minilm().encode(texts))  # loaded where there is something to narrow
    held_out = list(islice((a for a in _ask(spec, rows, shortlist) if len(prompt_ids(tokenizer, a.prompt)) <= adapter.recipe.max_tokens), MAX_HELD_OUT))
    known = [row for row in rows if row.split is Split.TRAIN]
    single = [row for row in known if not row.is_pair]
    learnt = _offers(spec, single, shortlist)
    learn = [_tokens(one.spec, one.row, tokenizer, adapter.recipe.seed) for one in learnt]
    model = sft.train(base, learn, adapter.recipe, folder / "sft", report)
    candidate = evaluate(model, tokenizer, spec, held_out)
    with model.disable_adapter():
        alone = evaluate(model, tokenizer, spec, held_out)
    metric, chosen = candidate.metric, folder / "sft"
    metrics: dict[str, float] = {}
    pairs = [_pair(one.spec, one.row, tokenizer, adapter.recipe.seed) for one in _offers(spec, [row for row in known if row.is_pair], shortlist)]
    serving = None
    if live:
        model = with_adapter(base, live)
        serving = evaluate(model, tokenizer, spec, held_out)
        metrics[f"live_{metric}"] = serving.score
        if adapter.dpo:
            mistakes = own_mistakes(model, tokenizer, learnt, adapter.dpo.own_answers, adapter.recipe.seed)
            metrics["own_mistakes"] = float(len(mistakes))
            pairs += mistakes
    del model
    if adapter.dpo and pairs:
        give_memory_back()
        aligned = dpo.align(base, folder / "sft", pairs, adapter.recipe, adapter.dpo, folder / "dpo", report)
        give_memory_back()
        after = evaluate(aligned, tokenizer, spec, held_out)
        metrics |= {f"sft_{metric}": candidate.score, f"dpo_{metric}": after.score, "pairs": float(len(pairs))}
        if after.score >= candidate.score:
            candidate, chosen = after, folder / "dpo"
    for name in ADAPTER_FILES:
        if (chosen / name).exists():
            shutil.copy(chosen / name, folder / name)
    metrics |= {metric: candidate.score, f"base_{metric}": alone.score, "valid_share": candidate.valid_share, "held_out": float(candidate.count)}
    metrics["teacher_usd"] = sum(row.teacher_usd for row in rows)
    metrics |= by_book(held_out, candidate) | {f"base_{name}": value for name, value in by_book(held_out, alone).items()}
    return Made(ADAPTER_FILES, metrics, judge(adapter.gate, candidate, alone, serving))


def _ask(spec: TaskSpec, rows: Sequence[Row], shortlist: Shortlist) -> list[Asked]:
    """The held-out examples, each with what serving would put on offer."""
    held_out = [row for row in rows if row.split is Split.EVALUATION and not row.is_pair]
    return _shown(held_out, shortlist.narrow(spec, [row.body["input"] for row in held_out]))


def _offers(spec: TaskSpec, rows: Sequence[Row], shortlist: Shortlist) -> list[Asked]:
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


def _tokens(spec: TaskSpec, row: Row, tokenizer: Any, seed: int) -> sft.Tokens:
    """Prompt and completion ids; what is on offer is shuffled by a seed of the example's own."""
    prompt, completion = render(spec, row.body, random.Random(f"{seed}:{row.example_id}"))
    return prompt_ids(tokenizer, prompt), completion_ids(tokenizer, completion)


def _pair(spec: TaskSpec, row: Row, tokenizer: Any, seed: int) -> dpo.Pair:
    """Prompt, chosen and rejected ids."""
    prompt, chosen, rejected = render_pair(spec, row.body, random.Random(f"{seed}:{row.example_id}"))
    return prompt_ids(tokenizer, prompt), completion_ids(tokenizer, chosen), completion_ids(tokenizer, rejected)
