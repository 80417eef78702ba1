"""What a large model makes of a version's answers: LLM-as-a-judge, with the right answer beside each.

Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv:2306.05685), reference-guided grading of single answers (section 3.4).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from runtime.errors import Transient
from runtime.grades import BEST, GRADE, share
from trainers.conditions import LlmJudge
from trainers.evaluate import Asked, Invalid
from trainers.patience import patient

if TYPE_CHECKING:
    from openai import OpenAI

log = structlog.get_logger()
REPLY_TOKENS = 64
FORM = {
    "type": "json_schema",
    "json_schema": {"name": "score", "schema": {"type": "object", "properties": {"score": GRADE}, "required": ["score"], "additionalProperties": False}},
}


@dataclass(frozen=True, slots=True)
class Judged:
    """`scores` from 0 to 1, of the answers that the judge could score; what that took, in US dollars."""

    scores: tuple[float, ...]
    usd: float

    @property
    def mean(self) -> float:
        """NaN where it scored none."""
        return sum(self.scores) / len(self.scores) if self.scores else float("nan")


def judged(judge: LlmJudge, asked: Sequence[Asked], said: Sequence[Any]) -> Judged:
    """The judge's scores of answers to chat examples; one that can't be read has the worst, without being shown. Waits as long as the endpoint fails."""
    from openai import OpenAI

    shown = [(one, got) for one, got in zip(asked, said, strict=True) if not isinstance(got, Invalid)]
    client = OpenAI(base_url=judge.url, api_key=judge.key or "none", timeout=judge.limits.timeout_seconds, max_retries=0)
    with client, ThreadPoolExecutor(judge.limits.concurrency) as pool:
        replies = list(pool.map(lambda pair: _ask(client, judge, question(*pair)), shown))
    scores = [score for score, _ in replies if score is not None]
    if len(scores) < len(replies):
        log.warning("judge.unread", judge=judge.model, answers=len(replies), unread=len(replies) - len(scores))
    return Judged((*scores, *[0.0] * (len(asked) - len(shown))), sum(usd for _, usd in replies))


def question(one: Asked, got: str) -> str:
    """What the judge is asked of one answer. Pure."""
    history = "".join(f"Customer: {turn['question']}\nAssistant: {turn['answer']}\n" for turn in one.given.get("history", ()))
    passage = one.given.get("passage")
    return f"""Score an assistant's answer to a customer from 1 to {BEST}. {BEST}: says what the right answer says, and nothing that it or the passage does not. 3: partly right, or
with something left out that matters. 1: wrong, made up, unreadable, or an answer to something else. The wording need not be the same.
{f"Passage: {passage}" if passage else "No passage was shown to the assistant."}
{history}Customer: {one.given["question"]}
Right answer: {one.wanted}
Assistant's answer: {got}
Reply with JSON and nothing else: {{"score": {BEST}}}"""


def read_score(reply: str | None) -> float | None:
    """The score in a reply, 0 to 1; None where there is none. Pure."""
    try:
        match json.loads(reply or ""):
            case {"score": grade}:
                return share(grade)
    except ValueError:
        pass
    return None


@patient(Transient)
def _ask(client: OpenAI, judge: LlmJudge, prompt: str) -> tuple[float | None, float]:
    """Score and price of one answer; asked again, with jitter, as long as the endpoint fails."""
    from openai import BadRequestError, OpenAIError, UnprocessableEntityError

    try:
        reply = client.chat.completions.create(model=judge.model, messages=[{"role": "user", "content": prompt}], temperature=0.0, max_tokens=REPLY_TOKENS, response_format=FORM)  # type: ignore[call-overload]
    except (BadRequestError, UnprocessableEntityError) as error:
        log.warning("judge.refused", judge=judge.model, status=error.status_code)  # its words may hold the text
        return None, 0.0
    except OpenAIError as error:
        raise Transient(f"judge {judge.model}: {type(error).__name__}: {error}") from error
    usd = (reply.usage.prompt_tokens * judge.limits.usd_per_million_input + reply.usage.completion_tokens * judge.limits.usd_per_million_output) / 1e6 if reply.usage else 0.0
    return read_score(reply.choices[0].message.content), usd
