"""Labels from frames: an example company's labelled texts, made by rule from a file of frames and values.

The same file and seed give the same labels. A label's group is the frame or remark that it was made from, so that
evaluation asks about frames that training never saw; frames of moods that differ in their slots alone ("I feel {sad}",
"I feel {glad}") are one group, else the frame itself would give the answer away.
"""

from __future__ import annotations

import random
import re
import string
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import SettingsError
from runtime.ids import canonical_json, digest
from runtime.tasks.prompt import one_line
from schemas.events import Label

LICENCE = "Apache-2.0"
SLOT = re.compile(r"\{(\w+)\}")
DRAWN = ("ticket_id", "order_id", "new_email")
ENTITY_OF = {"order_id": "ORDER_ID", "ticket_id": "TICKET_ID", "new_email": "EMAIL", "hub_name": "DEVICE"}


@dataclass(frozen=True, slots=True)
class Filled:
    """A frame with its slots filled; `spans` gives each slot's place in the text."""

    text: str
    spans: Mapping[str, tuple[int, int]]

    def value(self, slot: str) -> str:
        """What stands in `slot`, as it is spelled in the text."""
        start, end = self.spans[slot]
        return self.text[start:end]

    def wrapped(self, before: str, after: str) -> Filled:
        """The same between two texts."""
        return Filled(before + self.text + after, {slot: (a + len(before), b + len(before)) for slot, (a, b) in self.spans.items()})


class Frames:
    """A file of frames, drawn from with one seed. Raises SettingsError where it can't be read."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        try:
            self._file: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"frames {path} can't be read: {error}") from error
        self._rng = random.Random(seed)

    def labels(self, per_tool: int = 130, per_mood: int = 900, entities: int = 900) -> Iterator[Label]:
        """All labels: calls, moods, entities, and general questions."""
        yield from self._tool_labels(per_tool)
        yield from self._mood_labels(per_mood)
        yield from self._entity_labels(entities)
        yield from self._chat_labels()

    def _tool_labels(self, count: int) -> Iterator[Label]:
        for name, tool in self._file["tools"].items():
            for _ in range(count):
                missing = "missing" in tool and self._rng.random() < 0.12
                frame = self._rng.choice(tool["missing" if missing else "frames"])
                filled = self._decorated(self._fill(frame))
                call: dict[str, Any] = {"tool": name}
                call |= dict.fromkeys(tool.get("context", ()), "current")
                call |= {slot: filled.value(slot) for slot in filled.spans}
                if missing:
                    call["missing"] = SLOT.findall(tool["frames"][0])
                yield self._label("tool", {"message": filled.text, "context": {"user_id": "current"}}, {"calls": [call]}, f"{name}: {frame}")
        for _ in range(count * 2):
            frame = self._rng.choice(self._file["none"]["frames"])
            yield self._label("tool", {"message": self._decorated(self._fill(frame)).text, "context": {"user_id": "current"}}, {"calls": []}, f"none: {frame}")

    def _mood_labels(self, count: int) -> Iterator[Label]:
        for mood, phrases in self._file["mood"].items():
            for _ in range(count):
                frame = self._rng.choice(phrases["remarks"] * 2 + phrases["frames"])
                text = self._fill(frame).text
                if mood == "NEUTRAL" and self._rng.random() < 0.7:
                    text = self._plain_request() if self._rng.random() < 0.8 else self._rng.choice(self._file["none"]["frames"])
                    frame = text if self._rng.random() < 0.5 else frame
                elif self._rng.random() < 0.65:
                    text = self._beside(text, self._plain_request())
                yield self._label("classifier", {"text": self._typed(Filled(text, {})).text}, {"label": mood}, "mood: " + SLOT.sub("{}", frame))

    def _entity_labels(self, count: int) -> Iterator[Label]:
        tools = self._file["tools"]
        for _ in range(count):
            frames = self._rng.sample([t["frames"] for t in tools.values()], k=self._rng.choice([1, 1, 2]))
            chosen = [self._rng.choice(options) for options in frames]
            slots = SLOT.findall(" ".join(chosen))
            filled = self._fill(". ".join(chosen if len(set(slots)) == len(slots) else chosen[:1]))
            if self._rng.random() < 0.4:
                person = self._rng.choice(self._file["people"]["names"])
                lead = self._rng.choice(self._file["people"]["frames"])
                head = Filled(lead.replace("{person}", person), {"person": (lead.index("{person}"), lead.index("{person}") + len(person))})
                filled = Filled(f"{head.text} {filled.text}", {**head.spans, **filled.wrapped(head.text + " ", "").spans})
            filled = self._typed(filled)
            found = [{"start": a, "end": b, "label": ENTITY_OF.get(slot, "PERSON")} for slot, (a, b) in sorted(filled.spans.items(), key=lambda kv: kv[1]) if slot in ENTITY_OF or slot == "person"]
            yield self._label("ner", {"text": filled.text}, {"entities": found}, f"ner: {chosen[0]}")

    def _chat_labels(self) -> Iterator[Label]:
        for family in self._file.get("chat", ()):
            for question in family["ask"]:
                yield self._label("chat", {"question": question, "passage": family.get("passage", "")}, {"answer": family["answer"]}, f"chat: {family['answer']}")

    def _label(self, adapter: str, given: Mapping[str, Any], wanted: Mapping[str, Any], group: str) -> Label:
        body = canonical_json(given)
        return Label(example_id=digest("frame", adapter, body), adapter=adapter, input=body, output=canonical_json(wanted), group_id=group, licence=LICENCE)

    def _fill(self, frame: str) -> Filled:
        text, spans, position = "", {}, 0
        for slot in SLOT.finditer(frame):
            text += frame[position : slot.start()]
            value = self._value(slot.group(1))
            spans[slot.group(1)] = (len(text), len(text) + len(value))
            text += value
            position = slot.end()
        return Filled(text + frame[position:], spans)

    def _value(self, slot: str) -> str:
        rule = self._rng.choice(self._file["values"][slot])
        if slot not in DRAWN:
            return str(rule)
        return "".join(self._rng.choice("123456789") if c == "9" and (i == 0 or rule[i - 1] != "0") else c for i, c in enumerate(rule))

    def _plain_request(self) -> str:
        tool = self._rng.choice(list(self._file["tools"].values()))
        return self._fill(self._rng.choice(tool["frames"])).text

    def _beside(self, remark: str, request: str) -> str:
        joint = self._rng.choice([". ", ", ", "! ", " - ", ", so ", ". Please, "])
        return remark + joint + request if self._rng.random() < 0.6 else request + self._rng.choice([". ", "! ", ", ", "? "]) + remark

    def _decorated(self, filled: Filled) -> Filled:
        decoration = self._file["decoration"]
        filled = filled.wrapped(self._rng.choice(decoration["openings"]), self._rng.choice(decoration["closings"]))
        if self._rng.random() < 0.3:
            remark = self._fill(self._rng.choice(self._rng.choice(list(self._file["mood"].values()))["remarks"])).text
            filled = filled.wrapped(remark + self._rng.choice([". ", ", ", "! "]), "") if self._rng.random() < 0.6 else filled.wrapped("", self._rng.choice([" ", ". "]) + remark)
        return self._typed(filled)

    def _typed(self, filled: Filled) -> Filled:
        """As people type: lower case, a capital at the start, a slip of a finger outside of the values."""
        style, text = self._rng.random(), filled.text
        text = text.lower() if style < 0.2 else text[:1].upper() + text[1:] if style < 0.75 else text
        if self._rng.random() < 0.2:
            taken = {i for a, b in filled.spans.values() for i in range(a - 1, b + 1)}
            spots = [i for i in range(1, len(text) - 1) if text[i : i + 2].isalpha() and not {i, i + 1} & taken]
            if spots:
                i = self._rng.choice(spots)
                text = text[:i] + self._rng.choice([text[i + 1] + text[i], text[i] + self._rng.choice(string.ascii_lowercase)]) + text[i + 2 :]
        assert len(text) == len(filled.text)
        return _single_spaced(Filled(text, filled.spans))


def _single_spaced(filled: Filled) -> Filled:
    if one_line(filled.text) != filled.text:
        raise ValueError(f"frames must be single-spaced: {filled.text!r}")
    return filled
