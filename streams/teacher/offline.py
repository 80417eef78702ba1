"""The offline teacher: extractive and deterministic, and honest about it. It asks about a sentence's rarest words and
answers with the sentence. No key, no network, no model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distilabel.models.llms import AsyncLLM
from distilabel.typing import FormattedInput, GenerateOutput

from runtime.ids import digest
from streams.teacher.questions import Questions

NAME = "offline-extractive-4"
ABLE = frozenset({Questions.name})
PASSAGE = re.compile(r"<passage>\n(.*)\n</passage>", re.DOTALL)
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n{2,}")
WORD = re.compile(r"[A-Za-z][A-Za-z-]{3,}")
STOP = frozenset(
    "about above after again also another because been before being below between both cannot could does doing during each either every from further have having here "
    "into itself just like made make many might more most much must need only other over same should since some such than that their them then there these they this "
    "those through under until upon used uses using very want what when where which while will with within without would your yours once when".split()
)
LEAD_WORDS, PAIRS, QUESTIONS = 4, 3, 32
FRAMES = (
    "What does the documentation say about {topic}?", "Can you tell me about {topic}?", "How does {topic} work?", "What should I know about {topic}?",
    "{topic}?", "I have a question on {topic}.", "Where can I read about {topic}?", "Please explain {topic}.",
)  # fmt: skip


def questions(passage: str, count: int) -> list[tuple[str, str, str]]:
    """Up to `count` (question, answer, topic) triples, two questions a topic, in an order that serves every sentence once before any twice.

    An answer is a sentence of `passage`; a topic its first words, or two words that stand in no other one.
    """
    sentences = [" ".join(s.split()) for s in SENTENCE.split(passage)]
    sentences = [s for s in dict.fromkeys(sentences) if 40 <= len(s) <= 240 and s[0].isalnum() and s[-1] in ".!?"]
    frequency = Counter(w.lower() for s in sentences for w in WORD.findall(s))
    found: list[tuple[int, str, list[tuple[str, str, str]]]] = []
    for sentence in sentences:
        words = [w for w in dict.fromkeys(WORD.findall(sentence)) if w.lower() not in STOP and frequency[w.lower()] == 1]
        rarest = sorted(words, key=lambda w: (-len(w), w))[: 2 * PAIRS]
        pairs = [sorted(rarest[i : i + 2], key=sentence.index) for i in range(0, len(rarest) - 1, 2)]
        for rank, said in enumerate(([*sentence.rstrip(".!?").split(" ")[:LEAD_WORDS]], *pairs)):
            topic = " ".join(w if w.isupper() else w.lower() for w in said).strip(",;:")
            order = digest(sentence, topic)
            first = int(order, 16)
            second = first + 1 + first // len(FRAMES) % (len(FRAMES) - 1)
            found.append((rank, order, [(FRAMES[n % len(FRAMES)].format(topic=topic), sentence, topic) for n in (first, second)]))
    return [triple for _, _, triples in sorted(found) for triple in triples][:count]


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
        triples = questions(found.group(1), self.count) if found else []
        reply = json.dumps({"questions": [{"question": question, "answer": answer, "topic": topic} for question, answer, topic in triples]})
        generations: Sequence[str] = [reply] * num_generations
        return {"generations": list(generations), "statistics": {"input_tokens": [0] * num_generations, "output_tokens": [0] * num_generations}}
