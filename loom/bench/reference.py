"""What an adapter answers by Hugging Face's and PEFT's own code, alone and in float32: a reference for the answers that the engine gave in company."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.precision import is_bfloat16_faster
from runtime.tasks.prompt import load_tokenizer

Logits = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""(vocabulary,) of the token after a prompt and these."""


def rounding() -> float:
    """By how many nats a log probability may be from itself in company, where sums are made in another order: logits above 16 have steps of 0.125 in bfloat16. In float32 they differ by less than 0.0001."""
    return 0.25 if is_bfloat16_faster() else 0.01


def off_by(label: str, labels: Collection[str], pieces: Mapping[int, str], logits: Logits, most: float) -> float:
    """By how many nats the log probabilities would have to be wrong for who takes the likeliest token that goes on with one of `labels` to say `label`: 0 where this is what is said, `math.inf` above `most`. Pure.

    `pieces` are the tokens that occur in labels. A label may be spelt in several ways; none begins another.
    """

    def beyond(said: str, behind: tuple[int, ...]) -> float:
        left = [one for one in labels if one.startswith(said)]
        if left == [label]:
            return 0.0  # however it goes on
        known = logits(behind)
        allowed = {token: piece for token, piece in pieces.items() if any(one.startswith(piece, len(said)) for one in left)}
        likeliest = max(known[token] for token in allowed)
        found = math.inf
        for token, piece in allowed.items():
            short = float(likeliest - known[token])
            if short <= most and label.startswith(said + piece):
                found = min(found, max(short, beyond(said + piece, (*behind, token))))
        return found

    return beyond("", ())


class Reference:
    """The base in folder `base`, and one adapter of it at a time; their weights are rounded to bfloat16 where the engine's are, but no sums."""

    def __init__(self, base: str, *, bfloat16: bool) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._kind = torch.bfloat16 if bfloat16 else torch.float32
        self._base: Any = AutoModelForCausalLM.from_pretrained(base, dtype=self._kind).float().eval()
        self._model = self._base
        self._known: Any = None
        self._read: Sequence[int] = ()
        self._tokenizer: Any = load_tokenizer(base)

    def take(self, folder: Path) -> None:
        """The adapter in `folder`, in place of the one before."""
        from peft import PeftModel

        model = PeftModel.from_pretrained(copy.deepcopy(self._base), str(folder))
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = weight.data.to(self._kind).float()
        self._model, self._known, self._read = model.merge_and_unload(), None, ()

    def pieces(self, labels: Collection[str]) -> dict[int, str]:
        """The tokens that occur in `labels`."""
        texts = {token: self._tokenizer.decode([token]) for token in range(self._base.config.vocab_size)}
        return {token: text for token, text in texts.items() if text and any(text in label for label in labels)}

    def after(self, prompt: Sequence[int]) -> Logits:
        """The logits after `prompt` and more, until the next prompt or adapter. What prompts begin with in common is read once."""
        import torch

        model = self._model
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(self._read, prompt[:-1], strict=False)))
        if common < len(self._read):
            self._known.crop(common - len(self._read))
        with torch.inference_mode():
            read = model(input_ids=torch.tensor([prompt[common:]]), past_key_values=self._known, logits_to_keep=1)
        known = self._known = read.past_key_values
        self._read = prompt

        @cache
        def logits(behind: tuple[int, ...]) -> NDArray[np.float32]:
            if not behind:
                return read.logits[0, -1].numpy()  # type: ignore[no-any-return]
            with torch.inference_mode():
                found = model(input_ids=torch.tensor([behind]), past_key_values=known).logits[0, -1].numpy()
            known.crop(-len(behind))
            return found  # type: ignore[no-any-return]

        return logits
