"""A grammar that is compiled while its prompt is read: the first who needs it waits for it."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest
import torch
import xgrammar
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar
from vllm.v1.structured_output.backend_xgrammar import XgrammarGrammar

from inference.engines.late_grammar import LateGrammar, compile_meanwhile

WORDS = ["<eos>", "yes", "no", "y", "es"]


def made() -> StructuredOutputGrammar:
    """One that admits yes, and nothing else."""
    info = xgrammar.TokenizerInfo(WORDS, stop_token_ids=[0])
    context = xgrammar.GrammarCompiler(info).compile_grammar('root ::= "yes"')
    return XgrammarGrammar(matcher=xgrammar.GrammarMatcher(context), vocab_size=len(WORDS), ctx=context)


def admitted(grammar: StructuredOutputGrammar) -> set[str]:
    mask = torch.zeros((2, 1), dtype=torch.int32)
    grammar.fill_bitmask(mask, 1)
    assert not mask[0].item()
    return {word for at, word in enumerate(WORDS) if int(mask[1].item()) >> at & 1}


def test_it_is_the_grammar_once_that_is_made() -> None:
    future = Future[StructuredOutputGrammar]()
    late = LateGrammar(future)
    threading.Timer(0.3, lambda: future.set_result(made())).start()
    assert admitted(late) == {"yes", "y"}
    assert (late.validate_tokens([3, 4]), late.validate_tokens([2])) == ([3, 4], [])
    assert late.accept_tokens("r", [3])
    assert (admitted(late), late.is_terminated()) == ({"es"}, False)
    late.rollback(1)
    assert late.accept_tokens("r", [1, 0])
    assert late.is_terminated()
    late.reset()
    assert admitted(late) == {"yes", "y"}


def test_one_that_can_not_be_made_binds_nothing_and_ends_no_engine() -> None:
    future = Future[StructuredOutputGrammar]()
    late = LateGrammar(future)
    future.set_exception(RuntimeError("no memory"))
    assert admitted(late) == set(WORDS)
    assert (late.validate_tokens([2]), late.accept_tokens("r", [2]), late.is_terminated()) == ([2], True, False)
    late.rollback(1)
    late.reset()


def test_vllm_is_changed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StructuredOutputManager, "grammar_init", lambda *_: None)
    compile_meanwhile()
    once = StructuredOutputManager.grammar_init
    compile_meanwhile()
    assert StructuredOutputManager.grammar_init is once
