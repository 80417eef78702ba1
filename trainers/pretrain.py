"""Continued pre-training of the base on the documents, of all its weights or with LoRA, merged into a Domain-Base.

Merged, since new epochs serve as one model that adapters are forked from (Gururangan et al. 2020, arXiv:2004.10964:
adapt to the domain first, then to the task).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.artifacts import CARD, MANIFEST
from runtime.project import Cpt
from runtime.signing import SIGNATURE
from runtime.tasks.prompt import load_tokenizer
from schemas.events import Split
from trainers.artifact import Made
from trainers.backends import Tokens
from trainers.base_model import give_memory_back, load_model
from trainers.conditions import ALONE, Conditions
from trainers.gate import Change, judge_base
from trainers.progress import Report
from trainers.rehearsal import beside, written_by
from trainers.sft import train, train_whole
from trainers.snapshot import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_HELD_OUT, GENERAL = 200, 64
"""Windows of held-out documents at most, and of general text that the base wrote, by which it is judged."""
SHARES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)
"""Of the change of the weights: the largest that forgets little enough is kept, or the last."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def make(cpt: Cpt, base: str, rows: Sequence[Row], folder: Path, report: Report, conditions: Conditions = ALONE) -> Made:
    """The Domain-Base of `rows` in `folder`: weights, configuration, tokenizer."""
    import torch

    tokenizer, size = load_tokenizer(base), cpt.recipe.max_tokens
    learn = spread(list(windows(tokenizer, [row for row in rows if row.split is Split.TRAIN], size)), cpt.recipe.max_steps * cpt.recipe.batch_size)
    held_out = spread(list(windows(tokenizer, [row for row in rows if row.split is Split.EVALUATION], size)), MAX_HELD_OUT)
    old = load_model(base)
    general = written_by(old, tokenizer, GENERAL, size, cpt.recipe.seed) if held_out else []
    rehearsed = written_by(old, tokenizer, beside(cpt.rehearsal, len(learn)), size, cpt.recipe.seed + 1)
    texts: list[Tokens] = [([], window) for window in [*learn, *rehearsed]]
    before, general_before = losses(old, held_out), losses(old, general)
    del old
    give_memory_back()
    learnt = _learnt(cpt, base, texts, folder, report, conditions)
    share, kept = ease(load_model(base), learnt, lambda: Change(general_before, losses(learnt, general)), cpt.max_forgetting) if held_out else (1.0, Change([], []))
    domain = Change(before, losses(learnt, held_out))
    learnt.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        if (Path(base) / name).exists():
            shutil.copy(Path(base) / name, folder / name)
    verdict = judge_base(domain, kept, cpt.max_forgetting)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in (CARD, MANIFEST, SIGNATURE))
    weights = [name for name in names if name.endswith(".safetensors")]
    files = (*weights, *(name for name in names if name not in weights))
    metrics = {"held_out": float(len(held_out)), "rehearsed": float(len(rehearsed)), "share_of_change": share}
    if held_out:
        metrics = {"perplexity": domain.perplexity, "base_perplexity": domain.perplexity_before, "general_perplexity": kept.perplexity, "base_general_perplexity": kept.perplexity_before} | metrics
    return Made(files, metrics | verdict.numbers, verdict)


def _learnt(cpt: Cpt, base: str, texts: Sequence[Tokens], folder: Path, report: Report, conditions: Conditions) -> PreTrainedModel:
    if cpt.method == "full":
        return train_whole(base, texts, cpt.recipe, folder / "full", report, conditions)
    merged: PreTrainedModel = train(base, texts, cpt.recipe, folder / "lora", report, conditions).merge_and_unload()
    return merged


def ease(old: PreTrainedModel, learnt: PreTrainedModel, change: Callable[[], Change], most: float) -> tuple[float, Change]:
    """Takes the weights of `learnt` back towards those of `old` until general text is read hardly worse: the share of their change that is left, and what `change` says then.

    Source: Wortsman et al. 2022, arXiv:2109.01903, section 3; against forgetting Lin et al. 2024, arXiv:2309.06256, section 4.
    """
    import torch

    origin, left = dict(old.named_parameters()), 1.0
    for share in SHARES:
        with torch.no_grad():
            for name, weight in learnt.named_parameters():
                weight.copy_(torch.lerp(origin[name].to(weight), weight, share / left))
        left, found = share, change()
        if found.rise <= most:
            break
    return left, found


def windows(tokenizer: Any, rows: Sequence[Row], size: int) -> Iterator[list[int]]:
    """The texts of `rows`, each closed by an end token, packed into windows of `size` tokens; the last may be shorter."""
    texts = (tokenizer.encode(str(row.body["output"]["text"]), add_special_tokens=False) for row in rows)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    stream = list(chain.from_iterable([*start, *ids, tokenizer.eos_token_id] for ids in texts))
    yield from (stream[at : at + size] for at in range(0, len(stream), size) if len(stream[at : at + size]) > 1)


def spread(found: Sequence[list[int]], count: int) -> list[list[int]]:
    """At most `count` of `found`, evenly spread."""
    return list(found) if len(found) <= count else [found[i * len(found) // count] for i in range(count)]


def losses(model: PreTrainedModel, held_out: Sequence[list[int]]) -> list[float]:
    """Mean cross entropy of each window, in nats a token."""
    import torch

    model.eval()
    out = []
    with torch.inference_mode():
        for window in held_out:
            ids = torch.tensor([window], device=model.device)
            out.append(float(model(input_ids=ids, labels=ids).loss))
    return out
