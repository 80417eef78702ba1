"""The main clause of a plain English sentence, or what an instruction tells to do: found by function words and endings, no model. Pure.

What is not understood is not found: half a sentence would make a wrong question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

AUXILIARIES = frozenset("is are was were can may must should will would could has have had does do did can't cannot won't isn't aren't doesn't don't".split())
DETERMINERS = frozenset("a an the this that these those each every all both some any no my your our its their his her another such several many few other".split())
PREPOSITIONS = frozenset(
    "about above across after against along among around at before behind below beneath beside between beyond by down during for from in inside into like near of off on onto "
    "out outside over past through to toward towards under until up upon with within without as than per via except".split()
)
PRONOUNS = frozenset("it they you we he she i them us him me nobody somebody anybody everybody everything something nothing".split())
ADVERBS = frozenset("only also always never once twice then there here home back again together still just even not too well automatically slowly immediately directly whether how what when where who".split())
NUMBERS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty "
    "ninety hundred thousand million half dozen forty-five twenty-four".split()
)
FUNCTION_WORDS = DETERMINERS | PREPOSITIONS | PRONOUNS | ADVERBS | (AUXILIARIES - {"has"})
AFTER_VERBS = DETERMINERS | PREPOSITIONS | PRONOUNS | ADVERBS | NUMBERS | {"if", "that"}
"""What follows a verb, and seldom a noun."""
SINGULAR = frozenset("a an one each every another this that".split())
PLURAL = frozenset("all these those both several few many most some".split()) | (NUMBERS - {"one"})
CONTRACTED = {"can't": "can", "cannot": "can", "won't": "will", "isn't": "is", "aren't": "are", "doesn't": "does", "don't": "do"}
LONGEST_SUBJECT = 12
NO_SUBJECTS = frozenset("how what whether where to see let's".split())
"""Words that no subject holds: what stands before them was no clause's beginning."""

NOUN = re.compile(r"(?:tion|ment|ness|ity|ance|ence|ship|ing|ism|ure)$")
CONDITION = re.compile(r"^(?:when|if|while|unless|because|since|although|as soon as|once)\b", re.IGNORECASE)
CONDITION_BEHIND = re.compile(r"(?:,? (?:or|and|only))? (when|if|until|unless|because|so that|as long as) (?=\S+ \S)")
KEPT_CONDITIONS = ("when ", "if ", "until ", "unless ", "as long as ")
OPENING = re.compile(r"\w+ [^,]{2,50}, |\w+ (?:\S+ ){1,4}?(?=(?:the|a|an|it|they|you|we|all) )")
NEXT_CLAUSE = re.compile(r"[;:] |, (?:and|but|so|which|or|who) ")
EXPLETIVE = re.compile(r"(?:not )?(?:\w+ly )?(?:not )?(?:possible|recommended|advised|important|necessary|required|best|good practice|assumed|likely|worth)\b")
SECOND_VERB = re.compile(r",? (?:and|or) (?=(?:may|can|must|will|is|are|has|have|the|it|they|an?)\b|\w+s (?:the|a|an|all|it|once|in|on|to|for|with)\b)")
INSTRUCTION = re.compile(r"(?:Please |Always |Then )?([A-Z][a-z]+) (\w+)")
VERBS = frozenset(
    "add allow apply attach avoid build call change check choose click close configure connect copy create define delete deploy disable download edit enable ensure enter export install keep "
    "make open place press provide pull push put remove replace restart run select send set specify start stop switch test turn type unplug update upload use wait write".split()
)
"""Verbs that instructions begin with, whatever follows."""
POINTERS = frozenset("see welcome note learn read refer".split())
"""Verbs of instructions that say nothing but where to read on."""
NO_INSTRUCTION = (FUNCTION_WORDS | NUMBERS | {"if"}) - {"do"}
AFTER_INSTRUCTIONS = (DETERMINERS - {"that"}) | {"it", "them", "not", "out", "up", "down", "off", "into", "to", "with", "first"}


@dataclass(frozen=True, slots=True)
class Clause:
    """Subject, auxiliary and rest: "the hub", "does", "load an update at night". `verb` is how the verb stood where it was no auxiliary,
    `condition` what begins with when, if, until, unless or as long as."""

    subject: str
    auxiliary: str
    rest: str
    verb: str = ""
    condition: str = ""

    @property
    def predicate(self) -> str:
        """What stood behind the subject."""
        return f"{self.verb} {self.rest.partition(' ')[2]}" if self.verb else f"{self.auxiliary} {self.rest}"


def clause(sentence: str) -> Clause | None:
    """The first main clause of a sentence without its last sign."""
    condition, main, opening = "", sentence, ""
    if CONDITION.match(sentence) and ", " in sentence:
        condition, _, main = sentence.partition(", ")
        main = main.removeprefix("then ")
        if main.startswith(("or ", "and ")) or instruction(main[:1].upper() + main[1:]):
            return None
    elif CONDITION.match(sentence):
        return None
    elif behind := CONDITION_BEHIND.search(sentence):
        main, condition = sentence[: behind.start()], sentence[behind.start(1) :]
    if main.partition(" ")[0].lower() in PREPOSITIONS and (lead := OPENING.match(main)):
        opening, main = lead.group().strip(" ,"), main[lead.end() :]
    found = _inverted(NEXT_CLAUSE.split(main)[0].split())
    if not found or (found.subject == "it" and EXPLETIVE.match(found.rest)):
        return None
    condition = uncapitalised(condition) if condition.lower().startswith(KEPT_CONDITIONS) else ""
    return replace(found, rest=f"{SECOND_VERB.split(found.rest)[0]} {uncapitalised(opening)}".strip(), condition=condition)


def instruction(sentence: str) -> str:
    """What a sentence tells to do, its first sign small: "turn the hub off"; empty where it is no instruction."""
    match = INSTRUCTION.match(sentence)
    if not match:
        return ""
    verb, following = match.group(1).lower(), match.group(2).lower()
    if verb in NO_INSTRUCTION | POINTERS or _has_ending(verb) or verb.endswith("ing") or (verb == "do" and following != "not"):
        return ""
    if following not in AFTER_INSTRUCTIONS and (verb not in VERBS or following in AUXILIARIES):
        return ""
    return uncapitalised(NEXT_CLAUSE.split(sentence[match.start(1) :])[0])


def uncapitalised(text: str) -> str:
    """`text` as it stands within a sentence; words in capitals stay."""
    first = text.partition(" ")[0]
    return text if len(first) > 1 and not first[1:].islower() else text[:1].lower() + text[1:]


def head_of(subject: Sequence[str]) -> str:
    """The noun that a subject is about: the last word before the first preposition."""
    return next((noun for noun, after in pairwise(subject) if after.lower() in PREPOSITIONS and noun.lower() not in DETERMINERS), subject[-1])


def _inverted(words: Sequence[str]) -> Clause | None:
    """The clause that `words` are, cut at its first finite verb."""
    for at in range(1, min(len(words) - 1, LONGEST_SUBJECT)):
        subject, word, rest = words[:at], words[at].lower(), " ".join(words[at + 1 :])
        if subject[-1].endswith(",") or subject[-1].lower() in NO_SUBJECTS:
            return None
        if _in_relative_clause(subject):
            continue
        shown = uncapitalised(" ".join(subject))
        if word in ("has", "have") and not re.match(r"(?:not|never|been|\w+ed)\b", rest):
            return Clause(shown, "does" if word == "has" else "do", f"have {rest}", word)
        if word in AUXILIARIES:
            return Clause(shown, CONTRACTED.get(word, word), f"not {rest}" if word in CONTRACTED else rest)
        if _is_verb(words, at):
            base = _base(word)
            return Clause(shown, "do" if base == word else "does", f"{base} {rest}", word)
    return None


def _is_verb(words: Sequence[str], at: int) -> bool:
    """Whether the word at `at`, no auxiliary, is the finite verb: it agrees with the subject before it, and what follows can't follow a noun."""
    if not words[at].islower() or NOUN.search(words[at]):
        return False
    word, before, following = words[at], words[at - 1].lower(), words[at + 1].lower().strip(",")
    if not word.isalpha() or len(word) <= 2 or word in AFTER_VERBS or before in DETERMINERS | NUMBERS | (PREPOSITIONS - {"above", "below"}) or before[0].isdigit():
        return False
    subject = [w.lower() for w in words[:at]]
    if at == 1 and subject[0] in PRONOUNS:
        return True
    joined = {i for i, w in enumerate(subject) if w == "and"}
    noun = subject[: next((i for i, w in enumerate(subject) if w in PREPOSITIONS), at)]
    if not joined and word.endswith("s") and any(_has_ending(w) for w in noun[1:]):
        return False
    if following == "of" or (joined and any(subject[i].endswith("s") and i + 1 not in joined for i in range(1, at - 1))):
        return False
    if subject[0] in SINGULAR and not joined and not PREPOSITIONS.intersection(subject):
        return _has_ending(word)
    plural = subject[0] in PLURAL or bool(joined) or _has_ending(head_of(subject))
    return plural != word.endswith("s") and (plural or _has_ending(word)) and following in AFTER_VERBS


def _has_ending(word: str) -> bool:
    """Whether a word ends as plurals and third persons do."""
    return word.endswith("s") and not word.endswith(("ss", "us", "is"))


def _in_relative_clause(subject: Sequence[str]) -> bool:
    """Whether the subject's relative clause, "clips that", still lacks its verb."""
    opened = next((i for i, word in enumerate(subject) if i and word.lower() in ("that", "which", "who")), None)
    return opened is not None and not any(word.lower() in AUXILIARIES or (word.islower() and _has_ending(word)) for word in subject[opened + 1 :])


def _base(verb: str) -> str:
    """A verb without the ending of the third person."""
    if not _has_ending(verb):
        return verb
    if verb.endswith("ies") and len(verb) > len("dies"):
        return verb[:-3] + "y"
    return verb[:-2] if re.search(r"(?:ss|sh|ch|x|zz|o)es$", verb) else verb[:-1]
