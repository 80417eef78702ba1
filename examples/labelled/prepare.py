"""Public labelled sets in their own forms to rows for `loom label` and `loom bench quality`: `python -m examples.labelled.prepare SETS OUT`.

Sets whose training part alone is there are split by document, or by line where lines are all there is.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from runtime.tasks.prompt import one_line
from runtime.tasks.tool import TOOL_NAME

FIFTH = 5
SINGLE, IRRELEVANT = ("simple_python", "multiple", "live_simple", "live_multiple"), ("irrelevance", "live_irrelevance")
TYPES = {"integer": "integer", "float": "number", "boolean": "boolean", "string": "string"}
"""BFCL's names of the types that a call's line can hold: lists and objects it can't."""
KINDS = {"integer": (int,), "float": (int, float), "boolean": (bool,)}
MAX_DESCRIPTION, MAX_EARLIER = 120, 6
Row = Mapping[str, Any]


def tweets(folder: Path, part: str) -> list[Row]:
    """TweetEval: a text a line, the number of its label in another file, the names of labels in a third."""
    names = dict(line.split("\t") for line in (folder / "mapping.txt").read_text(encoding="utf-8").splitlines())
    texts, labels = ((folder / f"{part}_{kind}.txt").read_text(encoding="utf-8").splitlines() for kind in ("text", "labels"))
    return [{"id": f"{folder.name} {part} {i}", "text": text, "label": names[label].upper()} for i, (text, label) in enumerate(zip(texts, labels, strict=True)) if text.strip()]


def intents(path: Path, part: str) -> list[Row]:
    """CLINC150: pairs of a text and its intent, and those that are out of scope."""
    parts = json.loads(path.read_text(encoding="utf-8"))
    return [{"id": f"clinc {part} {i}", "text": text, "label": label} for i, (text, label) in enumerate([*parts[part], *parts[f"oos_{part}"]])]


def banking(path: Path) -> list[Row]:
    """BANKING77: a text and its category a line."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [{"id": f"banking {i}", "text": row["text"], "label": row["category"]} for i, row in enumerate(csv.DictReader(lines))]


def airline(path: Path) -> list[Row]:
    """Tweets to airlines, an object a line."""
    return [{"id": f"airline {row['id']}", "text": row["text"], "label": row["label"].upper()} for row in zipped(path)]


def zipped(path: Path) -> Iterator[Any]:
    """The JSON lines of a gzipped file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def functions(folder: Path) -> Iterator[list[Row]]:
    """BFCL: questions that want one call of the functions beside them, or none; those of the same functions are one group.

    Left out are calls that hold a list, an object or a text that the question does not have: a call's line can't.
    """
    rows = []
    for category in (*SINGLE, *IRRELEVANT):
        answers = folder / "possible_answer" / f"{category}.jsonl"
        truth = {row["id"]: row["ground_truth"][0] for row in json_lines(answers)} if category in SINGLE else {}
        for row in json_lines(folder / f"{category}.jsonl"):
            text = " ".join(turn["content"] for turn in row["question"][0] if turn["role"] == "user")
            wanted = asked_call(row["function"], truth[row["id"]], text) if category in SINGLE else {"calls": []}
            if wanted is not None and all(re.fullmatch(TOOL_NAME, function["name"]) for function in row["function"]):
                rows.append({"id": f"bfcl {row['id']}", "text": text, "context": {}, "tools": [declared(function) for function in row["function"]], **wanted})

    def names(row: Row) -> list[str]:
        return sorted(tool["name"] for tool in row["tools"])

    for of_group, group in groupby(sorted(rows, key=names), key=names):
        yield [{**row, "group": f"bfcl {' '.join(of_group)}"} for row in group]


def json_lines(path: Path) -> Iterator[Any]:
    """The objects in a file of JSON lines."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def declared(function: Row) -> Row:
    """A function of BFCL's in the OpenAI form, with the first sentence of what it is for."""
    properties = {name: {"type": TYPES.get(schema["type"], "string"), **({"enum": schema["enum"]} if "enum" in schema else {})} for name, schema in function["parameters"]["properties"].items()}
    about = one_line(function["description"]).split(". ")[0][:MAX_DESCRIPTION]
    return {"name": function["name"], "description": about, "parameters": {"type": "object", "properties": properties, "required": function["parameters"].get("required", [])}}


def asked_call(offered: Sequence[Row], truth: Row, text: str) -> Row | None:
    """The call that BFCL wants, with all values that it accepts; of each argument the first that can be had from `text`. None where one can't."""
    ((name, accepts),) = truth.items()
    schemas = next(function["parameters"]["properties"] for function in offered if function["name"] == name)
    call = {"tool": name}
    for argument in (one for one in schemas if one in accepts):
        found = next((value for value in accepts[argument] if value != "" and can_be_had(value, schemas[argument], text)), None)
        if found is not None:
            call[argument] = found
        elif "" not in accepts[argument]:
            return None
    return {"calls": [call], "accepts": accepts}


def can_be_had(value: Any, schema: Row, text: str) -> bool:
    """Whether a call's line can hold `value`, an open text only where it stands in `text`."""
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "string":
        return isinstance(value, str) and one_line(value) in one_line(text)
    return type(value) in KINDS.get(schema["type"], ())


def services(folder: Path) -> Iterator[list[Row]]:
    """The Schema-Guided Dialogues: what users say, with what was said before, and the calls of services that it wants; a group a dialogue."""
    schemas = {service["service_name"]: service for service in json.loads((folder / "schema.json").read_text(encoding="utf-8"))}
    for path in sorted(folder.glob("dialogues_*.json.gz")):
        for dialogue in json.loads(gzip.decompress(path.read_bytes())):
            tools = [tool for name in dialogue["services"] for tool in intents_of(schemas[name])]
            turns = dialogue["turns"]
            yield [
                {"id": f"sgd {dialogue['dialogue_id']} {i}", "group": f"sgd {dialogue['dialogue_id']}", "text": turn["utterance"], "context": {"earlier": earlier}, "tools": tools, **wanted}
                for i, (turn, reply) in enumerate(pairwise(turns))
                if turn["speaker"] == "USER"
                for earlier in [" ".join(said["utterance"] for said in turns[max(0, i - MAX_EARLIER) : i])]
                for wanted in [wanted_calls(turn, reply, tools, one_line(f"{earlier} {turn['utterance']}"))]
                if wanted is not None
            ]


def intents_of(service: Row) -> list[Row]:
    """A service's intents as tools, with its slots as their arguments."""
    slots = {slot["name"]: {"type": "string", **({"enum": slot["possible_values"]} if slot["is_categorical"] else {})} for slot in service["slots"]}
    return [
        {"name": intent["name"], "description": intent["description"], "parameters": {"type": "object", "properties": {name: slots[name] for name in [*intent["required_slots"], *intent["optional_slots"]]}, "required": intent["required_slots"]}}
        for intent in service["intents"]
    ]


def wanted_calls(turn: Row, reply: Row, tools: Sequence[Row], said: str) -> Row | None:
    """The call that the system makes in its reply, or would make if it knew all; none where the user only takes leave, None where that is not told.

    Of several wordings of a value it has the one that was said last, and all of them are right where nothing is missing.
    """
    acts = {action["act"] for frame in turn["frames"] for action in frame["actions"]}
    if acts <= {"THANK_YOU", "GOODBYE"}:
        return {"calls": []}
    called = next((frame["service_call"] for frame in reply["frames"] if "service_call" in frame), None)
    state = next((frame["state"] for frame in turn["frames"] if called is None or frame["state"]["active_intent"] == called["method"]), None)
    if state is None or (called is None and "INFORM_INTENT" not in acts):
        return None
    name = called["method"] if called else state["active_intent"]
    parameters = next((tool["parameters"] for tool in tools if tool["name"] == name), None)
    if parameters is None:
        return None
    call, accepts, missing = {"tool": name}, {}, []
    for slot, schema in parameters["properties"].items():
        values = [value for value in state["slot_values"].get(slot, ()) if value in schema.get("enum", [value] if one_line(value) in said else [])]
        if values:
            call[slot] = max(values, key=lambda value: (said.rfind(one_line(value)), len(value)))
            accepts[slot] = values
        elif slot in state["slot_values"]:
            return None
        elif slot in parameters["required"]:
            missing.append(slot)
    return {"calls": [{**call, "missing": missing}]} if missing else {"calls": [call], "accepts": accepts}


def conversations(path: Path) -> Iterator[list[Row]]:
    """OASST: what was asked, the best of its replies by human rank, and the worst as the rejected one; a group a tree."""
    for tree in zipped(path):
        yield [{**row, "id": f"oasst {tree['message_tree_id']} {i}", "group": f"oasst {tree['message_tree_id']}"} for i, row in enumerate(ranked(tree["prompt"], []))]


def ranked(asked: Row, history: Sequence[Row]) -> Iterator[Row]:
    """A question's row, and those of the questions behind its replies."""
    replies = sorted((reply for reply in asked["replies"] if reply.get("rank") is not None), key=lambda reply: int(reply["rank"]))
    if len(replies) > 1:
        yield {"text": asked["text"], "history": list(history), "answer": replies[0]["text"], "rejected": {"answer": replies[-1]["text"]}}
    for reply in asked["replies"]:
        for following in reply["replies"]:
            yield from ranked(following, [*history, {"question": asked["text"], "answer": reply["text"]}])


def documents(path: Path) -> Iterator[list[Row]]:
    """CoNLL: a token a line, its tag in the last column, an empty line behind each sentence, -DOCSTART- before each document."""
    document: list[Row] = []
    tokens: list[tuple[str, str]] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), "", "-DOCSTART-"]:
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            tokens.append((columns[0], columns[-1]))
            continue
        if tokens:
            document.append(sentence(f"{path.stem} {len(document)} {' '.join(token for token, _ in tokens)}", tokens))
            tokens = []
        if columns and document:
            yield document
            document = []


def sentence(name: str, tokens: Sequence[tuple[str, str]]) -> Row:
    """Tokens with their IOB tags, in either of its two ways, as a text with spans."""
    text, spans, before = "", [], "O"
    for token, tag in tokens:
        start = len(text) + bool(text)
        text = f"{text} {token}".strip()
        kind = tag.partition("-")[2]
        if tag != "O" and (tag.startswith("B-") or before.partition("-")[2] != kind):
            spans.append({"start": start, "end": len(text), "label": kind})
        elif tag != "O":
            spans[-1]["end"] = len(text)
        before = tag
    return {"id": name, "text": text, "entities": spans}


def parts(groups: Iterable[Sequence[Row]]) -> tuple[list[Row], list[Row]]:
    """All groups but each fifth, and each fifth."""
    groups = list(groups)
    return [row for i, group in enumerate(groups) if i % FIFTH for row in group], [row for group in groups[::FIFTH] for row in group]


def main(sets: Path, out: Path) -> None:
    """Writes NAME_train.jsonl and NAME_test.jsonl of each set to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    emotion, wnut = sets / "sentiment-tweeteval/emotion", sets / "ner-wnut17"
    made = {
        "emotion": (tweets(emotion, "train"), tweets(emotion, "val")),
        "mood": parts([row] for row in tweets(sets / "sentiment-tweeteval/sentiment", "val")),
        "wnut": tuple([row for document in documents(wnut / f"{part}.conll") for row in document] for part in ("train", "dev")),
        "filings": parts(documents(sets / "ner-sec-filings/train_FIN5.conll")),
        "intent": tuple(intents(sets / "intent-clinc150/data_full_train_val.json", part) for part in ("train", "val")),
        "banking": parts([row] for row in banking(sets / "intent-banking77/train.csv")),
        "airline": parts([row] for row in airline(sets / "sentiment-airline/train.jsonl.gz")),
        "functions": parts(functions(sets / "tools-bfcl")),
        "services": parts(services(sets / "tools-sgd/train")),
        "talk": parts(conversations(sets / "chat-oasst-sample/trees.jsonl.gz")),
    }
    for name, both in made.items():
        for part, rows in zip(("train", "test"), both, strict=True):
            (out / f"{name}_{part}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            print(f"{name}_{part}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
