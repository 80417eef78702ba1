"""Continued pre-training of the base on the documents, of all its weights or with LoRA, merged into a Domain-Base.

Merged, since new epochs serve as one model that adapters are forked from (Gururangan et al. 2020, arXiv:2004.10964:
adapt to the domain first, then to the task).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
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
from trainers.base_model import load_model
from trainers.conditions import ALONE, Conditions
from trainers.gate import judge_base
from trainers.progress import Report
from trainers.sft import train, train_whole
from trainers.snapshot import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_HELD_OUT = 200
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def make(cpt: Cpt, base: str, rows: Sequence[Row], folder: Path, report: Report, conditions: Conditions = ALONE) -> Made:
    """The Domain-Base of `rows` in `folder`: weights, configuration, tokenizer."""
    import torch

    tokenizer, size = load_tokenizer(base), cpt.recipe.max_tokens
    learn = list(windows(tokenizer, [row for row in rows if row.split is Split.TRAIN], size))
    held_out = spread(list(windows(tokenizer, [row for row in rows if row.split is Split.EVALUATION], size)), MAX_HELD_OUT)
    texts: list[Tokens] = [([], window) for window in learn]
    before = losses(load_model(base), held_out)
    if cpt.method == "full":
        learnt = train_whole(base, texts, cpt.recipe, folder / "full", report, conditions)
    else:
        learnt = train(base, texts, cpt.recipe, folder / "lora", report, conditions).merge_and_unload()
    after = losses(learnt, held_out)
    learnt.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        if (Path(base) / name).exists():
            shutil.copy(Path(base) / name, folder / name)
    verdict = judge_base(before, after)
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name not in (CARD, MANIFEST, SIGNATURE))
    weights = [name for name in names if name.endswith(".safetensors")]
    files = (*weights, *(name for name in names if name not in weights))
    metrics = {"perplexity": perplexity(after), "base_perplexity": perplexity(before), "held_out": float(len(held_out))} if held_out else {"held_out": 0.0}
    return Made(files, metrics, verdict)


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


def perplexity(nats: Sequence[float]) -> float:
    """Per token, each window counting the same."""
    return math.exp(sum(nats) / len(nats))
