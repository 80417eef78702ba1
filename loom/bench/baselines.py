"""The simple models that an adapter must beat, each trained on the rows that the adapter learned from.

Two kinds of features under one linear model, scikit-learn's logistic regression: TF-IDF of words and characters, and MiniLM's vectors (Wang et al. 2020, arXiv:2002.10957).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.encoder import minilm, model_folder
from runtime.tasks.extract import in_one_line
from runtime.tasks.prompt import one_line

Row = Mapping[str, Any]
Features = Callable[[Sequence[Row], Sequence[Row]], tuple[Any, Any]]
"""Of pairs of a message and a tool, to learn from and asked: a row of features each."""
TFIDF, MINILM = "TF-IDF", "linear head on MiniLM"
OUTSIDE = "O"
WORD = re.compile(r"\w+|[^\w\s]")
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
"""Of a name such as `GetEventDates` or `get_event_dates`."""


def constant(train: Sequence[str], count: int) -> list[str]:
    """The commonest of `train`, `count` times."""
    return [Counter(train).most_common(1)[0][0]] * count


def tfidf(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The labels of `asked` by a linear model on TF-IDF of words and character n-grams, trained on `texts`."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    features = make_union(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))
    return _linear(features.fit_transform(list(texts)), labels, features.transform(list(asked)))


def minilm_head(texts: Sequence[str], labels: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The labels of `asked` by a linear model on MiniLM's vectors, trained on `texts`."""
    return _linear(minilm().encode(texts), labels, minilm().encode(asked))


def tools_by_tfidf(train: Sequence[Row], asked: Sequence[Row]) -> list[str | None]:
    """The tool of each of `asked`, which bring theirs, or None for no call.

    A linear model judges each pair of message and tool by TF-IDF of the words that both have, and of the message's words under the tool's name.
    """
    return _offered(train, asked, _shared_words)


def tools_by_minilm(train: Sequence[Row], asked: Sequence[Row]) -> list[str | None]:
    """The same by the vectors u of the message and v of the tool: u, v, u * v and |u - v| (Conneau et al. 2017, arXiv:1705.02364)."""
    return _offered(train, asked, _vectors_of_pairs)


def entities_by_tfidf(train: Sequence[Row], asked: Sequence[Row]) -> list[list[dict[str, Any]]]:
    """The entities of each of `asked` by a linear model that tags words by TF-IDF of the word, its shape, its characters and its neighbours."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    def features(known: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
        vectorizer = TfidfVectorizer(analyzer=lambda marks: marks)
        return vectorizer.fit_transform([marks for text in known for marks in _marks(text)]), vectorizer.transform([marks for text in texts for marks in _marks(text)])

    return _tagged(train, asked, features)


def entities_by_minilm(train: Sequence[Row], asked: Sequence[Row]) -> list[list[dict[str, Any]]]:
    """The same by MiniLM's vector of each word's first token, in its sentence; words behind its 512 tokens are no entities."""

    def features(known: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
        return _vectors_of_words(known), _vectors_of_words(texts)

    return _tagged(train, asked, features)


def nearest_by_tfidf(train: Sequence[Row], asked: Sequence[Row]) -> list[str]:
    """The answer of `train` whose question is nearest by TF-IDF, for questions that bring no passage."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    known = vectorizer.fit_transform([row["text"] for row in train])
    best = (vectorizer.transform([row["text"] for row in asked]) @ known.T).argmax(axis=1)
    return [train[int(at)]["answer"] for at in np.asarray(best).ravel()]


def nearest_by_minilm(train: Sequence[Row], asked: Sequence[Row]) -> list[str]:
    """The same by MiniLM's vectors."""
    known, texts = (minilm().encode([row["text"] for row in rows]) for rows in (train, asked))
    return [train[int(at)]["answer"] for at in (texts @ known.T).argmax(axis=1)]


def _linear(known: Any, labels: Sequence[str], asked: Any) -> list[str]:
    return [str(label) for label in _fitted(known, labels).predict(asked)]


def _fitted(known: Any, labels: Sequence[Any]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=1000).fit(known, list(labels))


def _offered(train: Sequence[Row], asked: Sequence[Row], features: Features) -> list[str | None]:
    known, pairs = ([{"message": _said(row), "tool": tool} for row in rows for tool in row["tools"]] for rows in (train, asked))
    right = [bool(row["calls"]) and row["calls"][0]["tool"] == tool["name"] for row in train for tool in row["tools"]]
    if len(set(right)) < 2 or not pairs:
        return [None for _ in asked]
    learn, ask = features(known, pairs)
    chances, found, at = _fitted(learn, right).predict_proba(ask)[:, 1], [], 0
    for row in asked:
        mine = chances[at : at + len(row["tools"])]
        at += len(row["tools"])
        found.append(row["tools"][int(mine.argmax())]["name"] if len(mine) and mine.max() >= 0.5 else None)
    return found


def _said(row: Row) -> str:
    return " ".join([*map(str, row.get("context", {}).values()), row["text"]])


def _described(tool: Row) -> str:
    return " ".join([*PART.findall(tool["name"]), tool.get("description", "")])


def _shared_words(known: Sequence[Row], asked: Sequence[Row]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    def marks(pair: Row) -> list[str]:
        said, described = (WORD.findall(text.lower()) for text in (pair["message"], _described(pair["tool"])))
        return [f"{pair['tool']['name']} {word}" for word in said] + [word for word in said if word in described] + [f"tool {pair['tool']['name']}"]

    vectorizer = TfidfVectorizer(analyzer=marks, sublinear_tf=True)
    return vectorizer.fit_transform(known), vectorizer.transform(asked)


def _vectors_of_pairs(known: Sequence[Row], asked: Sequence[Row]) -> tuple[Any, Any]:
    def features(pairs: Sequence[Row]) -> NDArray[np.float32]:
        u, v = _each_once([pair["message"] for pair in pairs]), _each_once([_described(pair["tool"]) for pair in pairs])
        return np.hstack([u, v, u * v, np.abs(u - v)])

    return features(known), features(asked)


def _each_once(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of texts of which many come again."""
    different = list(dict.fromkeys(texts))
    vectors, place = minilm().encode(different), {text: at for at, text in enumerate(different)}
    return vectors[[place[text] for text in texts]]


def _tagged(train: Sequence[Row], asked: Sequence[Row], features: Callable[[Sequence[str], Sequence[str]], tuple[Any, Any]]) -> list[list[dict[str, Any]]]:
    """Entities by a linear model over words, whose labels are begin, inside and outside of each type (Ramshaw and Marcus 1995)."""
    known, texts = ([one_line(row["text"]) for row in rows] for rows in (train, asked))
    tags = [tag for text, row in zip(known, train, strict=True) for tag in tags_of(text, [in_one_line(row["text"], entity) for entity in row["entities"]])]
    if len(set(tags)) < 2:
        return [[] for _ in asked]
    learn, ask = features(known, texts)
    found = iter(_linear(learn, tags, ask))
    return [entities_of(text, [next(found) for _ in _words(text)]) for text in texts]


def tags_of(text: str, entities: Sequence[Row]) -> list[str]:
    """A tag for each word of `text`: `B-TYPE` where an entity begins, `I-TYPE` inside, else `O`; `entities` have `start`, `end` and `label`."""
    tags = []
    for start, end in _words(text):
        one = next((e for e in entities if start < e["end"] and e["start"] < end), None)
        tags.append(OUTSIDE if one is None else f"{'B' if start <= one['start'] else 'I'}-{one['label']}")
    return tags


def entities_of(text: str, tags: Sequence[str]) -> list[dict[str, Any]]:
    """What `tags` say of the words of `text`; an inside without a begin of its type begins one."""
    found: list[dict[str, Any]] = []
    before = OUTSIDE
    for (start, end), tag in zip(_words(text), tags, strict=True):
        if tag != OUTSIDE:
            if tag[0] == "I" and before[1:] == tag[1:]:
                found[-1]["end"] = end
            else:
                found.append({"start": start, "end": end, "label": tag[2:]})
        before = tag
    return found


def _vectors_of_words(texts: Sequence[str]) -> NDArray[np.float32]:
    """(words of all texts, 384), zero where a text is longer than the encoder reads."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(str(model_folder())), AutoModel.from_pretrained(str(model_folder())).eval()
    found = []
    for text in texts:
        given = tokenizer(text, truncation=True, max_length=encoder.config.max_position_embeddings, return_tensors="pt", return_offsets_mapping=True)
        offsets = given.pop("offset_mapping")[0].tolist()
        with torch.inference_mode():
            states = encoder(**given).last_hidden_state[0].numpy()
        at = {start: state for (start, end), state in zip(offsets, states, strict=True) if end > start}  # special tokens have no letters
        nothing = np.zeros(states.shape[1], np.float32)
        found += [at.get(start, nothing) for start, _ in _words(text)]
    return np.array(found, np.float32).reshape(-1, encoder.config.hidden_size)


def _words(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in WORD.finditer(text)]


def _marks(text: str) -> list[list[str]]:
    """What is known of each word: itself, its ends, its shape, and its neighbours'."""
    words = ["", *(text[start:end] for start, end in _words(text)), ""]
    shapes = [re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", re.sub(r"\d+", "0", word))) for word in words]
    marks = []
    for at in range(1, len(words) - 1):
        word = words[at].lower()
        own = [f"w={word}", f"shape={shapes[at]}", *(f"begins={word[:n]}" for n in (1, 2, 3)), *(f"ends={word[-n:]}" for n in (1, 2, 3))]
        beside = [f"{side}{name}={value}" for side, step in (("-", -1), ("+", 1)) for name, value in (("w", words[at + step].lower()), ("shape", shapes[at + step]))]
        marks.append([*own, *beside])
    return marks
