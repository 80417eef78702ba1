"""Rule-made practice for the base model: calling, labelling, extracting, quoting, copying.

Every sample is a (prompt, completion) pair in the task formats of `runtime.tasks`, over inventories that are drawn
anew for each sample, so what can be learnt is to read the prompt. Nothing here is taken from `examples/`.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Sequence

from runtime.tasks import chat, classify, extract, tool
from runtime.tasks.prompt import Prompt

Sample = tuple[Prompt, str]

# verb of the tool's name -> (ways to ask for it, ways to describe it)
VERBS: dict[str, tuple[list[str], list[str]]] = {
    "cancel": (["cancel", "call off", "stop", "get rid of", "undo", "scrap"], ["Cancel", "Call off"]),
    "book": (["book", "reserve", "arrange", "set up", "get me"], ["Book", "Reserve"]),
    "find": (["find", "look for", "search for", "locate", "show me"], ["Find", "Search for"]),
    "check": (["check", "look up", "tell me about", "what is going on with", "what's up with", "where is"], ["Check", "Show the state of", "Look up"]),
    "create": (["create", "make", "open", "start", "set up", "add"], ["Create", "Open"]),
    "delete": (["delete", "remove", "erase", "drop", "wipe", "get rid of"], ["Delete", "Remove"]),
    "update": (["update", "change", "edit", "modify", "correct", "fix"], ["Update", "Change"]),
    "send": (["send", "mail", "email me", "forward", "text me", "get me"], ["Send", "Mail"]),
    "pay": (["pay", "settle", "clear", "pay off"], ["Pay", "Settle"]),
    "refund": (["refund", "give me back the money for", "reimburse", "pay me back for", "return"], ["Refund", "Pay back"]),
    "track": (["track", "follow", "where is", "locate", "trace"], ["Track", "Follow"]),
    "renew": (["renew", "extend", "prolong", "continue"], ["Renew", "Extend"]),
    "print": (["print", "print out", "give me a paper copy of"], ["Print"]),
    "share": (["share", "give access to", "let someone see", "hand over"], ["Share", "Give access to"]),
    "lock": (["lock", "block", "freeze", "disable", "suspend", "shut"], ["Lock", "Block", "Freeze"]),
    "unlock": (["unlock", "unblock", "open up", "release", "enable"], ["Unlock", "Release"]),
    "download": (["download", "export", "save", "get a copy of", "pull"], ["Download", "Export"]),
    "upload": (["upload", "import", "put in", "attach"], ["Upload", "Import"]),
    "play": (["play", "put on", "start", "let me hear"], ["Play", "Start"]),
    "pause": (["pause", "hold", "halt", "stop for now"], ["Pause", "Hold"]),
    "schedule": (["schedule", "plan", "set a time for", "arrange", "put down"], ["Schedule", "Plan"]),
    "move": (["move", "shift", "push", "relocate", "transfer"], ["Move", "Shift"]),
    "report": (["report", "flag", "complain about", "tell you about", "let you know about"], ["Report", "Flag"]),
    "rate": (["rate", "review", "score", "give stars to"], ["Rate", "Review"]),
    "compare": (["compare", "tell the difference between", "weigh up"], ["Compare"]),
    "restart": (["restart", "reboot", "start again", "power cycle"], ["Restart", "Reboot"]),
    "install": (["install", "put in", "set up", "add"], ["Install", "Set up"]),
    "list": (["list", "show all", "give me all", "what are", "display"], ["List", "Show all"]),
    "approve": (["approve", "accept", "sign off", "say yes to", "confirm"], ["Approve", "Confirm"]),
    "reject": (["reject", "decline", "turn down", "refuse", "say no to"], ["Reject", "Decline"]),
    "assign": (["assign", "give", "hand", "pass on"], ["Assign", "Pass on"]),
    "translate": (["translate", "put into another language", "say in another language"], ["Translate"]),
    "measure": (["measure", "get a reading of", "how big is", "size up"], ["Measure"]),
    "repair": (["repair", "fix", "mend", "sort out"], ["Repair", "Fix"]),
    "replace": (["replace", "swap", "exchange", "change"], ["Replace", "Swap"]),
    "upgrade": (["upgrade", "improve", "move up", "get a better"], ["Upgrade"]),
}
# noun of the tool's name -> ways to say it
NOUNS: dict[str, list[str]] = {
    "booking": ["booking", "reservation", "table"], "flight": ["flight", "plane", "trip", "flight ticket"],
    "hotel": ["hotel", "room", "hotel room", "stay"], "order": ["order", "purchase", "things I bought"],
    "parcel": ["parcel", "package", "delivery", "shipment"], "invoice": ["invoice", "bill", "receipt"],
    "meeting": ["meeting", "call", "appointment"], "report": ["report", "summary", "monthly report"],
    "car": ["car", "vehicle", "rental"], "song": ["song", "music", "track", "tune"], "file": ["file", "document", "pdf"],
    "photo": ["photo", "picture", "image"], "contract": ["contract", "agreement", "papers"],
    "membership": ["membership", "plan", "gym membership"], "printer": ["printer", "printing machine"],
    "router": ["router", "wifi", "modem", "internet box"], "server": ["server", "machine", "node"],
    "backup": ["backup", "safety copy", "saved copy"], "light": ["light", "lamp", "lights"], "door": ["door", "front door", "gate"],
    "alarm": ["alarm", "wake up call", "alert"], "card": ["card", "credit card", "debit card"],
    "transfer": ["transfer", "payment", "money transfer"], "loan": ["loan", "credit", "mortgage"],
    "claim": ["claim", "insurance claim", "case"], "policy": ["policy", "insurance", "cover"],
    "prescription": ["prescription", "medicine", "pills"], "doctor_visit": ["doctor's appointment", "doctor visit", "check-up"],
    "recipe": ["recipe", "dish", "meal"], "taxi": ["taxi", "cab", "ride"], "bus": ["bus", "bus ride", "coach"],
    "movie": ["movie", "film", "show"], "book": ["book", "novel", "title"], "course": ["course", "class", "lesson"],
    "exam": ["exam", "test", "assessment"], "holiday": ["holiday", "leave", "day off", "vacation"],
    "expense": ["expense", "expense claim", "costs"], "task": ["task", "to-do", "job"], "note": ["note", "memo", "reminder"],
    "warranty": ["warranty", "guarantee"], "coupon": ["coupon", "voucher", "discount code"],
    "product": ["product", "item", "article"], "complaint": ["complaint", "grievance"], "branch": ["branch", "shop", "store", "office"],
    "weather": ["weather", "forecast"], "parking": ["parking", "parking spot", "space for my car"],
    "table": ["spreadsheet", "sheet"], "database": ["database", "data store"], "job": ["batch job", "build", "pipeline"],
    "heating": ["heating", "thermostat", "radiator"], "profile": ["profile", "my details", "personal data"],
}
FIRST = "Ann Bob Carla Dan Eve Femi Gus Hana Ivan Jo Kim Lena Mark Nina Omar Paul Quinn Rosa Sam Tara Uma Vik Wendy Xi Yara Zoe".split()
LAST = "Abbott Baker Costa Diaz Evans Fischer Grant Hughes Ito Jansen Khan Lopez Meyer Novak Okafor Perez Quist Rossi Singh Tanaka".split()
CITIES = "Paris London Madrid Oslo Cairo Lima Boston Denver Kyoto Delhi Vienna Prague Dublin Quito Perth Turin Lagos Porto Leeds Austin".split()
DAYS = [*"Monday Tuesday Wednesday Thursday Friday Saturday Sunday today tomorrow tonight".split(), "next week", "next Friday", "this weekend", "in two days"]
MONTHS = "January February March April May June July August September October November December".split()
THINGS = "laptop phone kettle desk chair boots jacket camera drill tent lamp bike keyboard monitor blender carpet mirror guitar".split()
REASONS = ["it is too late", "the box was broken", "I no longer need it", "wrong size", "it never arrived", "I was charged twice", "it makes a strange noise", "my plans changed", "it does not turn on"]
LETTERS = string.ascii_uppercase


def number(rng: random.Random, low: int = 2, high: int = 8) -> str:
    """A string of random digits."""
    return "".join(rng.choices(string.digits, k=rng.randint(low, high)))


def word(rng: random.Random) -> str:
    """A made-up word of two to four syllables."""
    return "".join(rng.choice("bcdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))


VALUES: dict[str, Callable[[random.Random], str]] = {
    "id": lambda r: r.choice([number(r, 3, 8), number(r, 4, 4), f"{r.choice(LETTERS)}{r.choice(LETTERS)}-{number(r, 2, 5)}", f"{word(r)}-{number(r, 1, 3)}"]),
    "name": lambda r: r.choice([f"{r.choice(FIRST)} {r.choice(LAST)}", r.choice(FIRST), word(r).title()]),
    "email": lambda r: f"{r.choice([word(r), r.choice(FIRST).lower()])}@{word(r)}.{r.choice(['com', 'org', 'net'])}",
    "city": lambda r: r.choice([r.choice(CITIES), word(r).title()]),
    "date": lambda r: r.choice([r.choice(DAYS), f"{r.choice(MONTHS)} {r.randint(1, 28)}", f"{r.randint(2019, 2029)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"]),
    "amount": lambda r: r.choice([f"{r.randint(2, 999)}", f"{r.randint(2, 99)}.{r.randint(10, 99)}", f"${r.randint(5, 500)}", f"{r.randint(5, 900)} euros"]),
    "item": lambda r: r.choice([r.choice(THINGS), f"{word(r)} {r.choice(THINGS)}", word(r)]),
    "reason": lambda r: r.choice(REASONS),
    "text": lambda r: " ".join([r.choice(REASONS), *(r.choice([word(r), r.choice(THINGS), r.choice(CITIES).lower(), "and", "the", "in", "of"]) for _ in range(r.randint(0, 8)))]),
}
# kind of value -> (argument names, ways to put the value into a request)
ARGUMENTS: dict[str, tuple[list[str], list[str]]] = {
    "id": (["{noun}_id", "number", "reference", "id", "{noun}_number", "code"], [" {v}", " number {v}", " #{v}", " with number {v}", " ({v})", " ref {v}", " id {v}", ", it is {v}"]),
    "name": (["name", "customer", "person", "owner", "contact"], [" for {v}", " of {v}", " in the name of {v}", ", the name is {v}", " under {v}"]),
    "email": (["email", "address", "recipient"], [" to {v}", ", my email is {v}", " at {v}", " using {v}"]),
    "city": (["city", "place", "location", "destination"], [" in {v}", " to {v}", " near {v}", " for {v}"]),
    "date": (["date", "day", "when"], [" for {v}", " on {v}", " {v}", ", {v} works best", " by {v}"]),
    "amount": (["amount", "sum", "price", "limit"], [" of {v}", " for {v}", " up to {v}", ", {v} in total"]),
    "item": (["item", "product", "thing", "device"], [" for the {v}", " of my {v}", " about the {v}", " - the {v}"]),
    "reason": (["reason", "note", "comment", "details"], [" because {v}", ", {v}", " since {v}", ": {v}"]),
    "text": (["subject", "title", "message", "description", "body", "text"], [": {v}", " saying {v}", " about {v}", " - {v}", " that says {v}", ' "{v}"']),
}
OPENINGS = ["", "", "", "can you ", "could you please ", "please ", "I want to ", "I need to ", "I'd like to ", "hi, ", "hey can u ", "how do I ", "help me ", "I have to ", "would you ", "time to ", "let's ", "pls ", "hello! I would like to ", "is it possible to ", "go ahead and "]
CLOSINGS = ["", "", "", "", ".", "?", "!", " please", ", thanks", " asap.", " thank you!", " right now", " if you can"]
MOODS = {
    "POSITIVE": ["I love this", "great service", "thank you so much", "this is wonderful", "you were really helpful", "works like a charm", "I am so happy", "best app ever", "fantastic", "very pleased with it", "brilliant work", "what a relief", "I appreciate your help", "everything went smoothly", "super fast and friendly", "it made my day", "couldn't be better", "impressive"],
    "NEGATIVE": ["this is awful", "I am so angry", "what a mess", "I'm really annoyed", "terrible service", "nothing works", "I'm fed up", "this is a joke", "so disappointed", "worst support ever", "I can't believe how bad this is", "it keeps breaking", "I've been waiting for hours", "what a waste of money", "I hate it", "unacceptable", "I am upset", "it's driving me mad", "so frustrating", "useless"],
    "NEUTRAL": ["I have a question", "just letting you know", "for your information", "it is about the schedule", "I am looking at the page now", "the document has two pages", "the shop opens at nine", "I moved last month", "we have four people in the team", "this concerns the second item", "here is what I have", "I'd like some information"],
}
MOOD_NAMES = [{k: k for k in MOODS}, {k: k.lower() for k in MOODS}, {"POSITIVE": "happy", "NEGATIVE": "unhappy", "NEUTRAL": "calm"}, {"POSITIVE": "good", "NEGATIVE": "bad", "NEUTRAL": "plain"}]


def noisy(rng: random.Random, text: str) -> str:
    """`text` as people type it: now and then lower case, upper case, a slip of a finger. Digits are left alone."""
    style = rng.random()
    if style < 0.25:
        text = text.lower()
    elif style < 0.28:
        text = text.upper()
    elif style < 0.6:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.2:
        spots = [i for i in range(1, len(text) - 1) if text[i - 1 : i + 2].isalpha()]
        if spots:
            i = rng.choice(spots)
            text = rng.choice([text[:i] + text[i + 1 :], text[:i] + text[i + 1] + text[i] + text[i + 2 :], text[:i] + text[i] + text[i:]])
    return text


def make_tool(rng: random.Random, verb: str, noun: str) -> tuple[tool.Tool, dict[str, str]]:
    """A tool for `verb` on `noun` with up to three arguments, and each argument's kind of value."""
    kinds = rng.sample(list(ARGUMENTS), k=rng.choice([0, 1, 1, 1, 2, 2, 3]))
    arguments = {rng.choice(ARGUMENTS[kind][0]).format(noun=noun): kind for kind in kinds}
    name = rng.choice([f"{verb}_{noun}"] * 6 + [f"{noun}_{verb}", f"{verb}_{noun}_{rng.choice(['flow', 'action', 'now', 'request'])}", f"op_{number(rng, 2, 3)}"])
    says = f"{rng.choice(VERBS[verb][1])} {rng.choice(['a', 'the', 'your', 'one'])} {rng.choice(NOUNS[noun])}{rng.choice(['', '', ' of a customer', ' for the user', ' by its number', '.'])}"
    required = [a for a in arguments if rng.random() < 0.85]
    schema = {"type": "object", "properties": {a: {"type": "string"} for a in arguments}, "required": required}
    return tool.Tool(name, says if rng.random() < 0.9 or name.startswith("op_") else "", schema), arguments


def ask(rng: random.Random, verb: str, noun: str, kinds: dict[str, str], required: frozenset[str]) -> tuple[str, dict[str, str], list[str]]:
    """A request for `verb` on `noun`: the text, the arguments that it gives, the required ones that it lacks."""
    request = f"{rng.choice(VERBS[verb][0])} {rng.choice(['the ', 'my ', 'a ', 'that ', 'this ', 'our '])}{rng.choice(NOUNS[noun])}"
    given: dict[str, str] = {}
    missing = []
    for argument, kind in kinds.items():
        if rng.random() < 0.88:
            given[argument] = VALUES[kind](rng)
            request += rng.choice(ARGUMENTS[kind][1]).format(v=given[argument])
        elif argument in required:
            missing.append(argument)
    text = rng.choice(OPENINGS) + request + rng.choice(CLOSINGS)
    for mood in rng.sample(list(MOODS), k=1 if rng.random() < 0.35 else 0):
        remark = rng.choice(MOODS[mood])
        text = rng.choice([f"{remark}. {text}", f"{text} {remark}.", f"{remark}, {text}"])
    return text, given, missing


def tool_sample(rng: random.Random, chatter: Sequence[str]) -> Sample:
    """A request and one to twelve tools, of which one or none fits."""
    pairs = [(rng.choice(list(VERBS)), rng.choice(list(NOUNS))) for _ in range(rng.choice([1, 2, 3, 4, 6, 8, 10, 12]))]
    if rng.random() < 0.5:  # neighbours that differ in the verb alone, or in the noun alone
        pairs = [rng.choice([(verb, pairs[0][1]), (pairs[0][0], noun), (verb, noun)]) for verb, noun in pairs]
    pairs = list(dict.fromkeys(pairs))
    made = {}
    for pair in pairs:
        declared, kinds = make_tool(rng, *pair)
        made[pair] = (declared, kinds)
    context = {"user_id": rng.choice(["current", number(rng), word(rng)])} if rng.random() < 0.6 else {}
    style = rng.random()
    if style < 0.85:
        pair = rng.choice(pairs)
        declared, kinds = made[pair]
        text, given, missing = ask(rng, *pair, kinds, declared.required)
        if context and "user_id" not in kinds and rng.random() < 0.5:  # an argument that the context gives
            schema = {**declared.parameters, "properties": {"user_id": {"type": "string"}, **declared.arguments}, "required": [*declared.required, "user_id"]}
            declared = tool.Tool(declared.name, declared.description, schema)
            made[pair] = (declared, kinds)
            given = {"user_id": context["user_id"], **given}
        text = noisy(rng, text)
        answer = respelled(tool.ToolCall(declared.name, given, tuple(missing)), text, declared)
    elif style < 0.93:
        others = [(v, n) for v in rng.sample(list(VERBS), 3) for n in rng.sample(list(NOUNS), 3) if all(n != m for _, m in pairs)]
        text = noisy(rng, ask(rng, *rng.choice(others), {}, frozenset())[0]) if others else rng.choice(chatter)
        answer = None
    else:
        text, answer = rng.choice(chatter), None
    tools = [declared for declared, _ in made.values()]
    rng.shuffle(tools)
    return tool.render_prompt(tools, context, text), tool.render_call(answer, tools)


def respelled(call: tool.ToolCall, text: str, declared: tool.Tool) -> tool.ToolCall:
    """`call` with each value spelled as the (noisy) text has it, in the schema's order; one that a slip broke is missing."""
    values, missing = {}, [*call.missing]
    for name in declared.arguments:
        value = call.arguments.get(name)
        if value is None:
            continue
        at = text.lower().find(value.lower())
        if at >= 0 or name == "user_id":
            values[name] = text[at : at + len(value)] if at >= 0 else value
        elif name in declared.required:
            missing.append(name)
    return tool.ToolCall(call.tool, values, tuple(m for m in declared.arguments if m in missing))


def mood_sample(rng: random.Random, chatter: Sequence[str]) -> Sample:
    """A text with a mood, and its label under one of several namings."""
    mood = rng.choice(list(MOODS))
    parts = [rng.choice(MOODS[mood])]
    if mood == "NEUTRAL" or rng.random() < 0.5:
        verb, noun = rng.choice(list(VERBS)), rng.choice(list(NOUNS))
        parts.append(ask(rng, verb, noun, {}, frozenset())[0] if rng.random() < 0.8 else rng.choice(chatter))
    if mood != "NEUTRAL" and rng.random() < 0.3:
        parts.append(rng.choice(MOODS[mood]))
    rng.shuffle(parts)
    text = noisy(rng, rng.choice([". ", ", ", " - ", "; ", "! "]).join(parts))
    names = rng.choice(MOOD_NAMES)
    labels = list(names.values())
    rng.shuffle(labels)
    return classify.render_prompt(labels, text), names[mood]


def topic_sample(rng: random.Random, chatter: Sequence[str]) -> Sample:
    """A request, and as its label the noun or the verb that it is about."""
    pairs = [(rng.choice(list(VERBS)), rng.choice(list(NOUNS))) for _ in range(rng.randint(2, 8))]
    verb, noun = pairs[0]
    text = noisy(rng, ask(rng, verb, noun, {}, frozenset())[0])
    by_noun = rng.random() < 0.5
    labels = list(dict.fromkeys(n if by_noun else v for v, n in pairs))
    shapes: list[Callable[[str], str]] = [str, str.upper, str.title]
    shape = rng.choice(shapes)
    rng.shuffle(labels)
    return classify.render_prompt([shape(label) for label in labels], text), shape(noun if by_noun else verb)


def extract_sample(rng: random.Random, chatter: Sequence[str]) -> Sample:
    """A request with values of several kinds, of which some are asked for."""
    kinds = rng.sample(list(VALUES), k=rng.randint(1, 4))
    pieces: list[str] = []
    entities: list[extract.Entity] = []
    position = 0
    for kind in kinds:
        names = {"id": "ID", "name": "PERSON", "item": "PRODUCT", "city": "PLACE"}
        value = VALUES[kind](rng)
        lead = rng.choice(["", rng.choice(chatter)[:40] + " ", f"{rng.choice(VERBS['find'][0])} the {rng.choice(rng.choice(list(NOUNS.values())))}"])
        before, after = rng.choice(ARGUMENTS[kind][1]).split("{v}")
        piece = (lead + before) if lead else before.lstrip(" ,:-")
        piece = " " + piece.lstrip() if pieces else piece
        start = position + len(piece)
        entities.append(extract.Entity(start, start + len(value), names.get(kind, kind.upper()), value))
        pieces.append(piece + value + after)
        position += len(pieces[-1])
    text = "".join(pieces)
    asked = sorted({e.label for e in entities if rng.random() < 0.8} | set(rng.sample(["ID", "PERSON", "PRODUCT", "PLACE", "DATE", "EMAIL", "AMOUNT"], k=rng.randint(1, 2))))
    rng.shuffle(asked)
    return extract.render_prompt(asked, text), extract.render_entities([e for e in entities if e.label in asked])


SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


def quote_sample(rng: random.Random, passages: Sequence[str]) -> Sample:
    """A passage of two to eight real sentences, and the one that holds what is asked about: its first words, words of it in a row, or words that stand in no other sentence."""
    for _ in range(20):
        sentences = [s for s in SENTENCE.split(" ".join(rng.choice(passages).split())) if 30 < len(s) < 220]
        if len(sentences) < 3:
            continue
        at = rng.randrange(len(sentences) - 1)
        window = list(dict.fromkeys(sentences[at : at + rng.randint(2, 8)]))
        answer = rng.choice(window)
        topic = _topic(rng, answer, window)
        if topic is not None:
            return chat.render_prompt(noisy(rng, rng.choice(QUOTE_FRAMES).format(t=topic)), " ".join(window)), answer
    return copy_sample(rng, passages)


QUOTE_FRAMES = (
    "What does it say about {t}?", "what about {t}", "{t}?", "Tell me about {t}.", "Where is {t} mentioned?", "How about {t}?", "What is said of {t}?", "Quote what it says on {t}.", "explain {t}",
    "How does {t} work?", "is there something on {t}", "I want to read about {t}", "what do I need to know about {t}?", "Which sentence names {t}?", "find {t}", "my question is about {t}",
)


def _topic(rng: random.Random, answer: str, window: Sequence[str]) -> str | None:
    """What a question about `answer` names; None where that stands in another sentence of `window` as well."""
    words, style = answer.rstrip(".!?;:,").split(), rng.random()
    if style < 0.65:
        start = 0 if style < 0.35 else rng.randrange(max(1, len(words) - 3))
        topic = " ".join(words[start : start + rng.randint(2, 5)]).strip(",;:()\"'")
        topic = topic[:1].lower() + topic[1:] if rng.random() < 0.7 else topic
    else:
        rare = [w for w in re.findall(r"[A-Za-z]{5,}", answer) if sum(w.lower() in s.lower() for s in window) == 1]
        topic = " ".join(rng.sample(rare, k=min(len(rare), rng.choice([1, 1, 2, 3]))))
    return topic if topic and (style >= 0.65 or sum(topic.lower() in s.lower() for s in window) == 1) else None


def copy_sample(rng: random.Random, passages: Sequence[str]) -> Sample:
    """Something to say back, or one value to pick out of a list of pairs."""
    if rng.random() < 0.5:
        text = rng.choice([VALUES[rng.choice(list(VALUES))](rng), " ".join(word(rng) for _ in range(rng.randint(1, 6))), number(rng, 1, 12)])
        return Prompt("", rng.choice(["repeat: {t}", "say {t}", "Please repeat after me: {t}", "echo {t}", "copy {t}"]).format(t=text)), text
    pairs = {word(rng): VALUES[rng.choice(list(VALUES))](rng) for _ in range(rng.randint(2, 6))}
    key = rng.choice(list(pairs))
    passage = rng.choice(["; ", ". ", ", "]).join(rng.choice(["{k} is {v}", "{k}= {v}", "the {k} is {v}"]).format(k=k, v=v) for k, v in pairs.items())
    return chat.render_prompt(rng.choice(["What is {k}?", "{k}?", "tell me {k}", "Which is the {k}?"]).format(k=key), passage), pairs[key]


MIX: tuple[tuple[float, Callable[[random.Random, Sequence[str]], Sample]], ...] = (
    (0.52, tool_sample), (0.12, mood_sample), (0.08, topic_sample), (0.18, extract_sample), (0.10, copy_sample),
)


def sample(rng: random.Random, chatter: Sequence[str], passages: Sequence[str]) -> Sample:
    """One sample, its kind drawn by `MIX`."""
    make = rng.choices([make for _, make in MIX], weights=[weight for weight, _ in MIX])[0]
    return make(rng, passages if make is copy_sample else chatter)
