"""Bits per byte of a model on the held-out texts, comparable across tokenizers.

    python -m models.base.build.score DATA_DIR MODEL_DIR [MODEL_DIR …]

Windows of 256 tokens, each scored on its own; the first 64 KiB of each held-out source.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from models.base.build.corpus import sources
from runtime.tasks.prompt import load_tokenizer

WINDOW, BYTES = 256, 64 << 10


@torch.no_grad()  # type: ignore[untyped-decorator]
def bits_per_byte(folder: Path, text: str) -> float:
    """Cross entropy of `text` under the model in `folder`, in bits for each UTF-8 byte."""
    tokenizer, model = load_tokenizer(str(folder)), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False))
    nats = 0.0
    for start in range(0, len(ids) - 1, WINDOW):
        window = ids[start : start + WINDOW + 1][None]
        logits = model(window[:, :-1]).logits
        nats += torch.nn.functional.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    return nats / math.log(2) / len(text.encode())


def main(data: Path, folders: list[Path]) -> None:
    """Prints one JSON line a source."""
    for name, (texts, held) in sources(data).items():
        text = "\n".join(texts[:held]).encode()[:BYTES].decode(errors="ignore")
        print(json.dumps({"source": name, **{str(folder): round(bits_per_byte(folder, text), 4) for folder in folders}}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
