"""Sentences with what they mean: token streams whose `<|assistant|>` positions carry a sentence vector as a target.

    python -m models.base.build.sentences DATA_DIR TOKENS_DIR

A model of this size learns too little of what words have in common from its own reading, so the base is also taught the
sentence space of all-MiniLM-L6-v2 (Apache-2.0; Wang et al. 2020, arXiv:2002.10957) where it is about to answer. Texts
are licensed utterances, rule-made requests, and sentences of books and documentation, as people type them: the vector is
always that of the clean text. Texts that share six words in a row with what `corpus` holds out are left out. Run after
`corpus`, whose tokenizer it takes.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.base.build import rules
from models.base.build.corpus import HELD_OUT as HELD_OUT_READINGS
from models.base.build.corpus import readings, shuffle
from runtime.encoder import minilm
from runtime.tasks.prompt import one_line

BOOK_SENTENCES, DOC_SENTENCES, REQUESTS = 70_000, 40_000, 70_000
READINGS = {"utterances": 3, "requests": 1, "sentences": 1}
SHORTEST, LONGEST = 8, 180
HELD_OUT = 1000
SAME_WORDS = 6


def utterances(data: Path, talk: list[str]) -> list[str]:
    """What people say to assistants and help desks: CLINC150, BANKING77, NLU++ (CC BY), turns of Taskmaster-4 (`talk`), tweets of BTC."""
    clinc = [text for text, _ in json.loads((data / "intent-clinc150/data_full_train_val.json").read_text())["train"]]
    with (data / "intent-banking77/train.csv").open(encoding="utf-8", newline="") as lines:
        banking = [row["text"] for row in csv.DictReader(lines)]
    nlupp = [row["text"] for path in sorted((data / "intent-nlupp-banking").glob("fold*.json")) for row in json.loads(path.read_text())]
    turns = [line.partition(":")[2] for text in talk for line in text.split("\n")]
    tweets = [
        " ".join(line.split("\t")[0] for line in block.split("\n") if "\t" in line)
        for name in ("a", "b", "f", "g") for block in (data / f"ner-btc/{name}.conll").read_text(encoding="utf-8").split("\n\n")
    ]  # fmt: skip
    return clinc + banking + nlupp + turns + tweets


def sentences(texts: list[str], count: int, rng: random.Random) -> list[str]:
    """`count` sentences of `texts`, from all over them."""
    found = [s for text in texts for s in re.split(r"(?<=[.!?])\s+", one_line(text)) if SHORTEST <= len(s) <= LONGEST]
    return rng.sample(found, min(count, len(found)))


def typed(text: str, rng: random.Random) -> str:
    """`text` as people type: now and then in lower case, with a slip of a finger, without its last sign."""
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.2:
        text = text.rstrip(".?!")
    if rng.random() < 0.2 and len(text) > SHORTEST:
        i = rng.randrange(1, len(text) - 2)
        text = text[:i] + rng.choice([text[i + 1] + text[i], text[i], rng.choice("abcdefghijklmnopqrstuvwxyz") + text[i + 1]]) + text[i + 2 :]
    return text


def runs(text: str) -> set[str]:
    """All runs of SAME_WORDS words."""
    words = text.lower().split()
    return {" ".join(words[i : i + SAME_WORDS]) for i in range(len(words) - SAME_WORDS + 1)}


def collect(data: Path) -> list[str]:
    """The clean texts in shuffled order, each as often as it is to be read."""
    rng, read = random.Random(1), readings(data)
    said = [one_line(t) for t in utterances(data, read["dialogues"])]
    asked = [rules.sample(rng, said, read["docs"])[0].user for _ in range(REQUESTS)]
    books_and_docs = sentences(read["books"], BOOK_SENTENCES, rng) + sentences(read["docs"], DOC_SENTENCES, rng)
    texts = {"utterances": said, "requests": asked, "sentences": books_and_docs}
    shuffle(read, random.Random(0))  # as `corpus.sources` does
    kept_from_us = set().union(*(runs(text) for name, count in HELD_OUT_READINGS.items() for text in read[name][:count]))
    out = [
        text for name, many in texts.items()
        for text in sorted({t for t in many if SHORTEST <= len(t) <= LONGEST and not runs(t) & kept_from_us}) * READINGS[name]
    ]  # fmt: skip
    rng.shuffle(out)
    return out


def systems(count: int) -> list[str]:
    """System prompts of rule-made practice, so that a sentence is also read behind tools and labels."""
    rng = random.Random(2)
    made = (rules.sample(rng, ["so be it"], ["so be it"])[0].system for _ in range(count))
    return [system for system in made if system and len(system) < 500]


def encode(texts: list[str]) -> NDArray[np.float16]:
    """Unit vectors of `texts`, (texts, 384); sorted by length, which pads least."""
    return minilm().encode(texts).astype(np.float16)


def main(data: Path, out: Path) -> None:
    """Writes tokens, their targets (a row of the vectors, or -1) and the vectors."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assistant = tokenizer.token_to_id("<|assistant|>")
    texts = collect(data)
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    place = {text: i for i, text in enumerate(unique)}
    with ProcessPoolExecutor() as pool:
        vectors = np.concatenate(list(pool.map(encode, [unique[at : at + 2048] for at in range(0, len(unique), 2048)])))
    np.save(out / "vectors.npy", vectors)
    rng = random.Random(3)
    heads = systems(4000)
    held = set(texts[:HELD_OUT])
    parts = {"val": texts[:HELD_OUT], "train": [t for t in texts[HELD_OUT:] if t not in held]}
    for part, chosen in parts.items():
        leads = [f"<|system|>{rng.choice(heads)}<|end|>" if rng.random() < 0.25 else "" for _ in chosen]
        encoded = tokenizer.encode_batch([f"<|bos|>{lead}<|user|>{typed(text, rng)}<|end|><|assistant|>" for lead, text in zip(leads, chosen, strict=True)])
        tokens = np.concatenate([np.array(e.ids, dtype=np.uint16) for e in encoded])
        targets = np.full(len(tokens), -1, np.int32)
        targets[tokens == assistant] = [place[text] for text in chosen]
        np.save(out / f"sentences.{part}.npy", tokens)
        np.save(out / f"sentences.{part}.targets.npy", targets)
        print(f"sentences {part:5} {len(chosen)} texts {len(tokens)} tokens", flush=True)
    print(f"{len(unique)} vectors")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    given = arguments.parse_args()
    main(given.data, given.out)
