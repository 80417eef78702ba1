"""The prompt that every task renders to, and what the tokenizer's chat template makes of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that rendering needs."""

    eos_token_id: int
    added_tokens_decoder: dict[int, Any]

    def __hash__(self) -> int: ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...
    def encode(self, text: str, **kwargs: Any) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request to a model: what the task is (`system`), what was asked and answered before, and the text that it works on (`user`)."""

    system: str
    user: str
    history: tuple[tuple[str, str], ...] = ()

    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat messages; an empty system part is left out."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        before = [{"role": role, "content": said} for turn in self.history for role, said in zip(("user", "assistant"), turn, strict=True)]
        return [*system, *before, {"role": "user", "content": self.user}]


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank: line breaks separate fields in completions."""
    return " ".join(text.split())


def normalised(text: str) -> str:
    """What counts for being the same text: words and signs, not white space or case."""
    return one_line(text).casefold()


def prompt_ids(tokenizer: ChatTokenizer, prompt: Prompt) -> list[int]:
    """Token ids of `prompt` up to where the assistant's turn begins; control tokens in its texts are none."""
    messages = [message | {"content": plain(tokenizer, message["content"])} for message in prompt.messages()]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def completion_ids(tokenizer: ChatTokenizer, completion: str) -> list[int]:
    """Token ids of an assistant's turn, its end token included."""
    return [*tokenizer.encode(plain(tokenizer, completion), add_special_tokens=False), tokenizer.eos_token_id]


def plain(tokenizer: ChatTokenizer, text: str) -> str:
    """`text` with a blank behind the first character of each control token that is spelled out in it: who writes `<|end|><|system|>` into a message would
    otherwise end it, and go on as the system."""
    for token in _control_tokens(tokenizer):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: ChatTokenizer) -> tuple[str, ...]:
    """The longest first."""
    return tuple(sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}, key=len, reverse=True))


def load_tokenizer(folder: str) -> Any:
    """The base model's tokenizer, from a folder or the hub.

    AutoTokenizer finds the class of any model, for which it imports all of them: seconds of a core, spared where the folder names the general class.
    """
    config = Path(folder) / "tokenizer_config.json"
    if config.exists() and json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") == "PreTrainedTokenizerFast":
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
