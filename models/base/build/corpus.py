"""Tokenizer and token streams of the base model.

    python -m models.base.build.corpus DATA_DIR OUT_DIR [--tokenizer FOLDER]

Reads the licensed texts of DATA_DIR (rows under a share-alike, non-commercial or research licence are left out of
training), trains a byte-level BPE of 4,096 pieces with single digits (or takes the one in FOLDER, to train a model on),
and writes one uint16 token array a source and part. Held-out rows are the first of each shuffled list (seed 0).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from models.base.build import rules
from runtime.tasks import classify, extract, tool
from runtime.tasks.prompt import Prompt, one_line

SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY = 4096
RULE_SAMPLES = 110_000
QUOTE_SAMPLES = 90_000
HELD_OUT = {"books": 2, "dialogues": 50, "docs": 20}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a gzipped JSON lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def turns(text: str) -> str:
    """'User: … / Assistant: …' lines in the chat template's form."""
    out = []
    for line in text.split("\n"):
        who, _, said = line.partition(":")
        if who in ("User", "Assistant"):
            out.append(f"<|{who.lower()}|>{said.strip()}<|end|>")
    return "<|bos|>" + "".join(out)


def render(prompt: Prompt, completion: str) -> str:
    """A task's sample as the chat template writes it."""
    head = "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in prompt.messages())
    return f"<|bos|>{head}<|assistant|>{completion}<|end|>"


def intents(data: Path, rng: random.Random) -> list[str]:
    """Labelled utterances (CC BY) as a choice among a few of their labels, drawn anew three times."""
    pairs = [(text, label) for text, label in json.loads((data / "intent-clinc150/data_full_train_val.json").read_text())["train"]]
    names = sorted({label for _, label in pairs})
    out = []
    for text, label in pairs * 3:
        labels = list({label, *rng.sample(names, k=rng.randint(1, 9))})
        rng.shuffle(labels)
        out.append(render(classify.render_prompt(labels, text), label))
    return out


def entities(data: Path, rng: random.Random) -> list[str]:
    """Tagged tweets (CC BY) as entity extraction."""
    out = []
    for name in ("a", "b", "f", "g"):
        for block in (data / f"ner-btc/{name}.conll").read_text(encoding="utf-8").split("\n\n"):
            cells = [line.split("\t") for line in block.split("\n") if "\t" in line]
            text = ""
            found: list[tuple[int, int, str]] = []
            for word, tag in ((cell[0], cell[-1]) for cell in cells):
                text += (" " if text else "") + word
                start = len(text) - len(word)
                if tag.startswith("B-"):
                    found.append((start, len(text), tag[2:]))
                elif tag.startswith("I-") and found:
                    found[-1] = (found[-1][0], len(text), found[-1][2])
            labels = ["PER", "LOC", "ORG"]
            rng.shuffle(labels)
            if text and all(label in labels for *_, label in found):
                spans = [extract.Entity(a, b, label, text[a:b]) for a, b, label in found]
                out.append(render(extract.render_prompt(labels, text), extract.render_entities(spans)))
    return out


def calls(data: Path, rng: random.Random) -> list[str]:
    """BFCL questions (Apache-2.0) with their functions and answers, single calls and irrelevant ones."""
    out = []
    for name in ("simple_python", "multiple", "live_simple", "live_multiple", "irrelevance", "live_irrelevance"):
        path = data / f"tools-bfcl/possible_answer/{name}.jsonl"
        truth = {r["id"]: r["ground_truth"] for r in map(json.loads, path.open())} if path.exists() else {}
        for row in map(json.loads, (data / f"tools-bfcl/{name}.jsonl").open()):
            first = row["question"][0]
            text = " ".join(m["content"] for m in first if m["role"] == "user") if isinstance(first, list) else str(first)
            tools = [tool.Tool(f["name"], f["description"][:120], f["parameters"]) for f in row["function"]]
            answer = None
            if row["id"] in truth:
                ((function, arguments),) = truth[row["id"]][0].items()
                answer = tool.ToolCall(function, {k: v[0] for k, v in arguments.items() if v and v[0] not in ("", None)})
            elif "irrelevance" not in name:
                continue
            rng.shuffle(tools)
            sample = render(tool.render_prompt(tools, {}, text), tool.render_call(answer, tools))
            if len(sample) < 3000:
                out.append(sample)
    return out


def conversations(data: Path) -> list[str]:
    """Open questions with good answers (Apache-2.0): the best-ranked replies of OASST trees, seed instructions."""
    out = []
    for tree in rows(data / "chat-oasst-sample/trees.jsonl.gz"):
        text, node = "<|bos|>", tree["prompt"]
        while node and node.get("lang", "en") == "en":
            text += f"<|{'user' if node['role'] == 'prompter' else 'assistant'}|>{one_line(node['text'])}<|end|>"
            node = min(node.get("replies", []), key=lambda r: r.get("rank") or 0, default=None)
        out.append(text)
    for row in map(json.loads, (data / "instruct-self-instruct/seed_tasks.jsonl").open()):
        out += [render(Prompt("", one_line(f"{row['instruction']} {one['input']}")), one_line(one["output"])) for one in row["instances"]]
    return out


def readings(data: Path) -> dict[str, list[str]]:
    """Books, dialogues and documentation as they are."""
    return {
        "books": [r["text"] for i in range(3) for r in rows(data / f"text-pretrain/books-{i}.jsonl.gz")],
        "dialogues": [r["text"] for r in rows(data / "text-pretrain/dialogues.jsonl.gz") if r["id"].startswith("tm4")],
        "docs": [r["text"] for r in rows(data / "text-pretrain/docs.jsonl.gz") if r["licence"] in ("CC-BY-4.0", "Apache-2.0")],
    }


def shuffle(read: dict[str, list[str]], rng: random.Random) -> None:
    """Puts each source in the order in which its first `HELD_OUT` texts are held out."""
    for texts in read.values():
        rng.shuffle(texts)


def sources(data: Path) -> dict[str, tuple[list[str], int]]:
    """Name -> (rendered texts in shuffled order, number of held-out ones at the front)."""
    rng = random.Random(0)
    read = readings(data)
    shuffle(read, rng)
    books, talk, docs = read.values()
    chatter = [one_line(line.partition(":")[2]) for text in talk[HELD_OUT["dialogues"] :] for line in text.split("\n") if 8 < len(line) < 120]
    passages = [text[i : i + 1200] for text in docs[HELD_OUT["docs"] :] for i in range(0, len(text), 1200)]
    passages += [books[HELD_OUT["books"] + n % (len(books) - HELD_OUT["books"])][n * 997 % 90_000 :][:1200] for n in range(3000)]
    made = [render(*rules.sample(rng, chatter, passages)) for _ in range(RULE_SAMPLES)]
    quotes = [render(*rules.quote_sample(rng, passages)) for _ in range(QUOTE_SAMPLES)]
    labelled = intents(data, rng) + entities(data, rng) + calls(data, rng) * 3
    rng.shuffle(labelled)
    return {
        "books": ([f"<|bos|>{t}<|end|>" for t in books], HELD_OUT["books"]),
        "dialogues": ([turns(t) for t in talk], HELD_OUT["dialogues"]),
        "docs": ([f"<|bos|>{t}<|end|>" for t in docs], HELD_OUT["docs"]),
        "rules": (made, 1000),
        "quotes": (quotes, 500),
        "labelled": (labelled, 500),
        "conversations": (conversations(data), 10),
    }


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE that never merges digits, nor letters with other signs."""
    tokenizer = Tokenizer(models.BPE())
    pieces = Regex(r"\d|[^\S\r\n]?\p{L}+|[^\S\r\n]?[^\s\p{L}\d]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pieces, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def fresh_tokenizer(texts: dict[str, tuple[list[str], int]]) -> Tokenizer:
    """A tokenizer trained on a share of each source."""
    shares = {"books": (40, 200_000), "dialogues": (2400, 4000), "docs": (700, 20_000), "rules": (6000, 4000), "quotes": (2000, 4000), "labelled": (4000, 3000), "conversations": (300, 4000)}
    sample = [text[:limit] for name, (many, limit) in shares.items() for text in texts[name][0][texts[name][1] :][:many]]
    return train_tokenizer(sample)


def main(data: Path, out: Path, existing: Path | None) -> None:
    """Writes the tokenizer, its configuration and the token arrays."""
    out.mkdir(parents=True, exist_ok=True)
    texts = sources(data)
    tokenizer = Tokenizer.from_file(str(existing / "tokenizer.json")) if existing else fresh_tokenizer(texts)
    tokenizer.save(str(out / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>", "model_max_length": 1024, "chat_template": TEMPLATE}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name, (rendered, held) in texts.items():
        for part, chosen in (("val", rendered[:held]), ("train", rendered[held:])):
            tokens = np.array([i for e in tokenizer.encode_batch(chosen) for i in e.ids], dtype=np.uint16)
            np.save(out / f"{name}.{part}.npy", tokens)
            size = sum(len(text.encode()) for text in chosen)
            print(f"{name:14} {part:5} {len(chosen):7} texts {len(tokens):9} tokens {size / max(1, len(tokens)):.2f} bytes/token", flush=True)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--tokenizer", type=Path, help="folder of the model that is to be trained on")
    given = arguments.parse_args()
    main(given.data, given.out, given.tokenizer)
