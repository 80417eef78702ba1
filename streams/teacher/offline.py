"""The offline teacher: extractive and deterministic, and honest about it. It asks for what a sentence says, as far as that can be told by
rule, and about its rarest words, and answers with the sentence. No key, no network, no model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from distilabel.models.llms import AsyncLLM
from distilabel.typing import FormattedInput, GenerateOutput

from runtime.ids import digest
from streams.teacher.clauses import FUNCTION_WORDS
from streams.teacher.interrogatives import Asked, ask
from streams.teacher.questions import Questions

NAME = "offline-extractive-5"
ABLE = frozenset({Questions.name})
PASSAGE = re.compile(r"Heading: ([^\n]*)\n<passage>\n(.*)\n</passage>", re.DOTALL)
HEADING_SEPARATOR = " > "
NAME_OF_A_THING = re.compile(r"[\w./-]+(?: [\w./-]+){0,2}$")
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n{2,}")
WORD = re.compile(r"[A-Za-z][A-Za-z-]{3,}")
STOP = frozenset(
    "about above after again also another because been before being below between both cannot could does doing during each either every from further have having here "
    "into itself just like made make many might more most much must need only other over same should since some such than that their them then there these they this "
    "those through under until upon used uses using very want what when where which while will with within without would your yours once when".split()
)
LEAD_WORDS, PAIRS, QUESTIONS = 4, 2, 32
SHORTEST = 4
"""Words of a question that needs no passage."""
FRAMES = (
    "What does the documentation say about {topic}?", "Can you tell me about {topic}?", "How does {topic} work?", "What should I know about {topic}?",
    "{topic}?", "I have a question on {topic}.", "Where can I read about {topic}?", "Please explain {topic}.",
)  # fmt: skip
STYLES = ("{question}", "{question}", "{about}: {question}", "hi, {question}", "I have a question on {about}. {question}")
Pair = tuple[str, str, str]
"""Two ways to ask the same, the second without the passage at hand, and what for."""


def questions(passage: str, count: int, heading: str = "") -> list[tuple[str, str, str]]:
    """Up to `count` (question, answer, topic) triples, two questions a topic, in an order that serves every sentence once before any twice.

    An answer is a sentence of `passage`. It is asked for by what it says, as far as that can be told by rule, and by its rarest words.
    The first question of a topic may lean on the passage; the second names what it is about, by the last of `heading`'s titles if need be.
    """
    sentences = [" ".join(s.split()) for s in SENTENCE.split(passage)]
    sentences = [s for s in dict.fromkeys(sentences) if 20 <= len(s) <= 240 and s[0].isalnum() and s[-1] in ".!"]
    frequency = Counter(w.lower() for s in sentences for w in WORD.findall(s))
    about = subject_of(heading)
    made = {sentence: list(ask(sentence, about)) for sentence in sentences}
    kinds = Counter(kind for asked in made.values() for kind in {one.kind for one in asked if one.brief})
    found: list[tuple[int, str, list[tuple[str, str, str]]]] = []
    for sentence, asked in made.items():
        natural = list(_by_kind(sentence, [one for one in asked if not one.brief or kinds[one.kind] == 1], about))
        pairs = [*natural, *islice(_by_words(sentence, frequency), 1 if natural else None)]
        for rank, (first, second, topic) in enumerate(pairs):
            found.append((rank, digest(sentence, topic), [(first, sentence, topic), (second, sentence, topic)]))
    return [triple for _, _, triples in sorted(found) for triple in triples][:count]


def subject_of(heading: str) -> str:
    """What a passage under the heading path "Cameras > Where to put it" is about, by the last title that is a name; empty where none is."""
    titles = (title.partition(" (")[0] for title in reversed(heading.split(HEADING_SEPARATOR)))
    return next((title for title in titles if NAME_OF_A_THING.match(title) and not {word.lower() for word in title.split()} & FUNCTION_WORDS), "")


def _by_kind(sentence: str, asked: Sequence[Asked], about: str) -> Iterator[Pair]:
    """A pair for each kind of thing that the sentence is asked for."""
    for kind in dict.fromkeys(one.kind for one in asked):
        full = [one.text for one in asked if one.kind == kind and not one.brief and len(one.text.split()) >= SHORTEST]
        brief = [one.text for one in asked if one.kind == kind and one.brief]
        if not full:
            continue
        chosen = int(digest(sentence, kind), 16)
        first = (brief if brief and chosen % 2 else full)[chosen // 2 % len(brief if brief and chosen % 2 else full)]
        style = STYLES[chosen // 64 % len(STYLES)] if about else STYLES[0]
        yield first, style.format(question=full[chosen // 512 % len(full)], about=about.lower()), f"{kind}: {sentence}"


def _by_words(sentence: str, frequency: Counter[str]) -> Iterator[Pair]:
    """Pairs that name the sentence's first words, and two words that stand in no other one."""
    words = [w for w in dict.fromkeys(WORD.findall(sentence)) if w.lower() not in STOP and frequency[w.lower()] == 1]
    rarest = sorted(words, key=lambda w: (-len(w), w))[: 2 * PAIRS]
    pairs = [sorted(rarest[i : i + 2], key=sentence.index) for i in range(0, len(rarest) - 1, 2)]
    for said in ([*sentence.rstrip(".!?").split(" ")[:LEAD_WORDS]], *pairs):
        topic = " ".join(w if w.isupper() else w.lower() for w in said).strip(",;:")
        first = int(digest(sentence, topic), 16)
        second = first + 1 + first // len(FRAMES) % (len(FRAMES) - 1)
        yield FRAMES[first % len(FRAMES)].format(topic=topic), FRAMES[second % len(FRAMES)].format(topic=topic), topic


class OfflineTeacher(AsyncLLM):
    """distilabel LLM that answers prompts for `Questions` by rule."""

    count: int = QUESTIONS

    def load(self) -> None:
        super().load()

    @property
    def model_name(self) -> str:
        return NAME

    async def agenerate(self, input: FormattedInput, num_generations: int = 1, **kwargs: Any) -> GenerateOutput:  # noqa: A002 - distilabel's name
        found = PASSAGE.search(str(input[-1]["content"]))
        triples = questions(found.group(2), self.count, found.group(1)) if found else []
        reply = json.dumps({"questions": [{"question": question, "answer": answer, "topic": topic} for question, answer, topic in triples]})
        generations: Sequence[str] = [reply] * num_generations
        return {"generations": list(generations), "statistics": {"input_tokens": [0] * num_generations, "output_tokens": [0] * num_generations}}
