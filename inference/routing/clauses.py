"""A message into clauses, since one vector ranks several intents badly. Pure."""

from __future__ import annotations

import re

from runtime.tasks.prompt import one_line

QUESTION_WORDS = "where|what|when|which|who|why|how"
VERBS = (
    "add arrange book bring build buy call cancel change check close create delete disable discontinue download drop enable end export file find fix follow get give help hold install let list locate log look "
    "make open order pause pay phone play power print process provide put quit raise reboot recover refund register reimburse remind remove rename renew repair replace report request reset restart ring "
    "save schedule see send set share show start stop submit subscribe switch take tell terminate track transfer turn unlock unsubscribe update upgrade use write"
).replace(" ", "|")
BREAK = re.compile(
    r"(?<=[.!?;])\s+|,\s+(?=(?:and|but|so|then|also|please|can|could|would|will)\b)|\s+(?=(?:and then|and also|and tell|and can|and could|and please|afterwards|as well as)\b)"
    rf"|\s+(?:and|then)\s+(?=(?:{QUESTION_WORDS}|{VERBS})\b)|,\s+(?=(?:cancel|check|change|reset|restart|reboot|refund|track|open|send|call|tell)\b)"
)
LEAD = re.compile(r"^(?:and then|and also|and|but|so|then|also|afterwards|as well as)\b[\s,]*", re.IGNORECASE)
TRAIL = re.compile(r"(?:\s+(?:and|then|also|too)|,)+$", re.IGNORECASE)
MIN_LETTERS = 2
MAX_CLAUSES = 16
"""Each costs a call of the encoder."""
GREETING = re.compile(r"^(?:hi|hello|hey|ok|so|well|dear \w+|good (?:morning|afternoon|evening)|thanks|thank you|also|and|then|now|that's (?:it|enough))[\s,!]+", re.IGNORECASE)
REQUEST = re.compile(
    rf"^(?!order (?:number )?#?(?:[a-z]+-)?\d{{3}})(?:please|pls|kindly|can|could|would|will|may|might|do|does|did|is|are|was|has|have|had|{QUESTION_WORDS}|any|let's|i (?:want|need|wish|would|have to)|i'd like|i like to|we (?:want|need)|{VERBS})\b|\?[?!]*$|\b(?:please|pls)\b",
    re.IGNORECASE,
)


def clauses(text: str) -> list[str]:
    """The clauses of `text` in order, what is behind the fifteenth in one; a text that can't be cut is one clause. A colon opens a quotation: behind it
    nothing is cut before the sentence ends."""
    found = []
    for part in re.split(r"(?<=[.!?;])\s+", one_line(text)):
        head, colon, quoted = part.partition(": ")
        pieces = [p for p in BREAK.split(head) if p]
        if colon and pieces:
            pieces[-1] = f"{pieces[-1]}: {quoted}"
        found += [TRAIL.sub("", LEAD.sub("", piece)).strip() for piece in pieces]
    kept = [clause for clause in found if sum(c.isalnum() for c in clause) >= MIN_LETTERS]
    if len(kept) > MAX_CLAUSES:
        kept = [*kept[: MAX_CLAUSES - 1], " ".join(kept[MAX_CLAUSES - 1 :])]
    return kept or [one_line(text)]


def heading(clause: str) -> str:
    """What a clause asks for, without what it quotes: "open a ticket" of "open a ticket: the lamp flickers"."""
    return clause.partition(": ")[0]


def is_request(clause: str) -> bool:
    """Whether a clause asks for something by its form: a question, an order, a wish."""
    return REQUEST.search(GREETING.sub("", clause)) is not None
