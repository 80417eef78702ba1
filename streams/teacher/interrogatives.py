"""Questions that a plain English sentence answers, by rule. Pure.

What it says is asked for by kind: how long, how many, when, where, who, what if, whether; in full, and briefly, as by somebody who stands
before the thing. By inversion, as in Heilman and Smith 2010, "Good Question! Statistical Ranking for Question Generation", section 3,
without their parser and ranker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from streams.teacher.clauses import AUXILIARIES, NUMBERS, Clause, clause, head_of, instruction, uncapitalised

PEOPLE = frozenset("owner owners member members guest guests user users customer customers person people agent agents administrator administrators admin team engineer employee employees manager staff".split())
NUMBER = r"(?:\d[\d.,]*|(?:" + "|".join(sorted(NUMBERS, key=len, reverse=True)) + r")(?:[ -](?:hundred|thousand|million))*)"
TIME = r"(?:(?:milli)?seconds?|minutes?|hours?|(?:working |business )?days?|nights?|weeks?|months?|years?)"
METRES = r"(?:milli|centi|kilo)?met(?:re|er)s?"
UNITS = r"(?:percent|watts?|kilograms?|grams?|litres?|gigabytes?|megabytes?|euros?|dollars?)"
ABOUT = r"(?:(?:at|up to|at least|at most|about|within|over|under|above|below|after|for|to|down to|more than|less than|fewer than|minus) )*"
PLACES = r"(?:settings?|page|app|menu|folder|box|hub|router|back|card|console|dashboard|map|display|keypad|floor|header)"
PURPOSE = re.compile(rf"\b(to|so that) (?!(?:the|a|an|it|them|its|your|{NUMBER})\b)(.+)$")
DISAGREEING = tuple((re.compile(rf"\b{wrong}\b"), right) for wrong, right in (("(?:is|are) I", "am I"), ("I are", "I am"), ("does I", "do I")))
GOAL = re.compile(r"(?:In order to|To) ([^,]{4,90}), (?=\w)")
ADVICE = re.compile(r"((?:[Ww]hen|[Ii]f) ([^,]{4,120})), (?!or |and )")
ASIDE = re.compile(r"^(?:(?:for example|however|also|in addition|therefore|optionally|finally|then|note that|note|tip|important|warning|hint)[,:]? )+", re.IGNORECASE)
CONTRACTION = re.compile(r"\b([Ii]t|[Tt]hat|[Tt]here|[Yy]ou|[Tt]hey|[Ww]e)'(s|re|ll|ve)\b")
FULL = {"s": "is", "re": "are", "ll": "will", "ve": "have"}
NO_PROSE = re.compile(r"\||\b\d\)")
LOOSE_END = re.compile(r"(?:,? (?:or|and|only|of|for|within|every|until|to))+$")
MINE = {"you": "I", "your": "my", "yours": "mine", "yourself": "myself", "we": "you", "our": "your", "us": "you"}
YOU = re.compile(r"\b(\w+) you\b")
BEFORE_SUBJECTS = AUXILIARIES | frozenset("if when what that which where how why then so and or but unless until before after as while because once whether".split())


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a sentence is asked for, by which words it is known, and how it is asked for by somebody who says no more."""

    name: str
    pattern: re.Pattern[str]
    briefly: tuple[str, ...]


KINDS = tuple(
    Kind(name, re.compile(pattern), briefly)
    for name, pattern, briefly in (
        ("how often", rf"\b{ABOUT}(?:once|twice|{NUMBER} times) (?:a|an|each|every|per) {TIME}\b|(?<!of )(?<!at )\b(?:every|each) (?:{NUMBER} )?{TIME}\b", ("how often?", "how often does that happen?", "how often do I have to do that?")),
        ("how soon", rf"\b(?:within|in less than|in under) (?:the (?:last|next) )?(?:about )?{NUMBER} {TIME}\b", ("how soon?", "how fast is that?", "how long will I wait?")),
        ("how long", rf"\b{ABOUT}{NUMBER} {TIME}(?: long)?\b", ("how long?", "how long is that?", "how long does it take?", "how much time is that?")),
        ("how far", rf"\b{ABOUT}{NUMBER} {METRES}(?: (?:away|long|high|wide))?\b", ("how far?", "how far is it?", "how many metres?")),
        ("at what temperature", rf"\b{ABOUT}{NUMBER} degrees\b", ("how many degrees?", "at what temperature?")),
        ("how much", rf"\b{ABOUT}{NUMBER} {UNITS}\b|[$€]\d[\d.,]*", ("how much?", "how much is it?", "what is the limit?")),
        ("when", r"\bbetween [\w ]{2,20} and [\w ]{2,20}(?=$| (?:in|of) )|\bon (?:the first|the last|\w+day)\b[\w ]*|\bat (?:noon|night|midnight|once)\b|\bevery \w+day\b[\w ]*", ("when?", "when is that?", "at what time?")),
        ("how many", rf"\b{ABOUT}{NUMBER} (?!{TIME}|{METRES}|{UNITS}|degrees)(?:[a-z-]+ )?(?!was|is|has|this|its|does)[a-z]+s\b", ("how many?", "how many are there?", "what is the limit?")),
        ("where", rf"\b(?:in|on|under|behind|at|near|from|over) the [a-zA-Z -]*{PLACES}\b(?: [A-Z]\w+)?", ("where?", "where do I find that?", "where is it?")),
    )
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question; `kind` is what of the sentence it asks for; a brief one can't be understood without its passage."""

    text: str
    kind: str
    brief: bool = False


def ask(sentence: str, topic: str) -> Iterator[Asked]:
    """Questions that `sentence` answers; `topic` is what it is about where it says "it"."""
    plain = ASIDE.sub("", " ".join(CONTRACTION.sub(lambda words: f"{words.group(1)} {FULL[words.group(2)]}", sentence).rstrip(".!?").split()))
    plain = plain[:1].upper() + plain[1:]
    if sentence.endswith("?") or NO_PROSE.search(plain):
        return
    if goal := GOAL.match(plain):
        yield Asked(_question("how do I", goal.group(1)), "how")
    elif told := instruction(plain):
        yield from _on_instruction(re.sub(r"^(\w+ (?:not \w+ )?)(?:it|them)\b", rf"\1the {topic.lower()}", told) if topic else told)
    elif found := clause(plain):
        named = f"the {topic.lower()}" if topic and found.subject in ("it", "they", "this", "these") else found.subject
        yield from _on_clause(replace(found, subject="I" if named == "you" else named))
    elif advice := ADVICE.match(plain):
        yield from (Asked(text, "what if") for text in (_question("what should I do", uncapitalised(advice.group(1))), f"{_question(advice.group(2))[:-1]}, what now?"))


def _on_clause(found: Clause) -> Iterator[Asked]:
    positive = re.sub(r"^(?:not|never) ", "", found.rest)
    yield Asked(_question(found.auxiliary, found.subject, positive), "whether")
    if found.condition.startswith(("when ", "if ")):
        happens = found.condition.partition(" ")[2]
        yield from (Asked(text, "what if") for text in (_question("what happens", found.condition), _question("what if", happens), f"{_question(happens)[:-1]}, what now?"))
    yield from _by_kind(found.rest, f"{found.auxiliary} {found.subject}")
    if found.condition:
        yield Asked(_question("when", found.auxiliary, found.subject, positive), "when")
    if head_of(found.subject.split()).lower() in PEOPLE:
        yield from (Asked(_question("who", found.predicate), "who"), Asked("who?", "who", brief=True))
    elif found.verb and found.subject not in ("I", "we"):
        yield Asked(_question("what", found.predicate), "what")


def _on_instruction(told: str) -> Iterator[Asked]:
    if forbidden := re.match(r"do not (.+)", told):
        yield from (Asked(_question(how, forbidden.group(1)), "whether") for how in ("can I", "what happens if I"))
        return
    yield Asked(_question("how do I", told), "how")
    if purpose := PURPOSE.search(told):
        yield Asked(_question("how can I" if purpose.group(1) == "to" else "what do I do so that", purpose.group(2)), "how")
    yield from (Asked(text, "how", brief=True) for text in ("how?", "what should I do?"))
    yield Asked(_question("do I have to", told), "whether")
    yield from _by_kind(told, "should I")


def _by_kind(text: str, inverted: str) -> Iterator[Asked]:
    """Questions for the parts of `text` that KINDS knows, each part once; `inverted` is what stands before `text` in a question."""
    left = text
    for kind in KINDS:
        if hit := kind.pattern.search(left):
            asks = f"how many {hit.group().split()[-1]}" if kind.name == "how many" else kind.name
            if not inverted.endswith(" there") or kind.name == "how many":
                yield Asked(_question(asks, inverted, text[: hit.start()].rstrip(" ,"), text[hit.end() :].lstrip(" ,")), kind.name)
            yield from (Asked(brief, kind.name, brief=True) for brief in kind.briefly)
            left = left[: hit.start()] + "_" * len(hit.group()) + left[hit.end() :]


def _question(*parts: str) -> str:
    """The parts as one question; what the writer says to the reader as the reader says it: "you" becomes "I", "we" becomes "you"."""
    text = YOU.sub(lambda words: f"{words.group(1)} {'you' if words.group(1).lower() in BEFORE_SUBJECTS else 'me'}", " ".join(part for part in parts if part))
    text = re.sub(r"\b(?:" + "|".join(MINE) + r")\b", lambda word: MINE[word.group().lower()], text, flags=re.IGNORECASE)
    for wrong, right in DISAGREEING:
        text = wrong.sub(right, text)
    return LOOSE_END.sub("", " ".join(text.split()).strip(" ,;:")) + "?"
