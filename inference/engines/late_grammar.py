"""Grammars that are compiled while their prompts are read. vLLM has a request wait for its grammar first; here each call has one of its own, since values are copied from the message."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import structlog
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

if TYPE_CHECKING:
    import torch

log = structlog.get_logger()


class LateGrammar(StructuredOutputGrammar):
    """The grammar that a future will give: who needs it first waits. Where it can't be compiled, though vLLM has parsed it, the text is free, and whoever asked finds that out by reading it."""

    def __init__(self, made: Future[StructuredOutputGrammar]) -> None:
        self._made = made
        self._failed = False

    def _grammar(self) -> StructuredOutputGrammar | None:
        if self._failed:
            return None
        try:
            return self._made.result()
        except Exception as error:  # noqa: BLE001  whatever it is, it would end the engine
            log.error("grammar.failed", error=str(error))
            self._failed = True
            return None

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        grammar = self._grammar()
        return grammar is None or grammar.accept_tokens(request_id, tokens)

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        grammar = self._grammar()
        return tokens if grammar is None else grammar.validate_tokens(tokens)

    def rollback(self, num_tokens: int) -> None:
        if grammar := self._grammar():
            grammar.rollback(num_tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        if grammar := self._grammar():
            grammar.fill_bitmask(bitmask, batch_index)
        else:
            bitmask[batch_index].fill_(-1)

    def is_terminated(self) -> bool:
        grammar = self._grammar()
        return grammar is not None and grammar.is_terminated()

    def reset(self) -> None:
        if grammar := self._grammar():
            grammar.reset()


def compile_meanwhile() -> None:
    """Has vLLM begin with a request whose grammar is being compiled."""
    init = StructuredOutputManager.grammar_init

    def begin(self: StructuredOutputManager, request: Any) -> None:
        init(self, request)
        asked = request.structured_output_request
        if asked is not None and isinstance(asked._grammar, Future) and not asked._grammar.done():
            asked._grammar = LateGrammar(asked._grammar)

    begin.__name__ = compile_meanwhile.__name__
    if init.__name__ != begin.__name__:
        StructuredOutputManager.grammar_init = begin
