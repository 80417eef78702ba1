"""What is changed in vLLM on a CPU takes hold."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import xgrammar
from vllm.platforms import current_platform
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.request import StructuredOutputRequest

from inference.engines.plugin import GRAMMAR_SECONDS, register

pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="an engine on a GPU is left as it is")


@pytest.mark.parametrize(("seconds", "is_waited_for"), [(0.001, True), (20 * GRAMMAR_SECONDS, False)])
def test_a_request_comes_with_its_grammar_unless_that_takes_long(seconds: float, is_waited_for: bool) -> None:
    register()
    manager = StructuredOutputManager.__new__(StructuredOutputManager)
    manager.backend = SimpleNamespace(compile_grammar=lambda _, __: time.sleep(seconds))
    manager._use_async_grammar_compilation = True
    request = SimpleNamespace(request_id="r", structured_output_request=StructuredOutputRequest(StructuredOutputsParams(grammar='root ::= "yes"')))
    with ThreadPoolExecutor(1) as manager.executor:
        manager.grammar_init(request)
        made = request.structured_output_request._grammar
        assert isinstance(made, Future)
        assert made.done() == is_waited_for


def test_grammars_are_compiled_by_one_thread_however_often_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    register()
    asked = list[int]()
    monkeypatch.setattr(xgrammar.GrammarCompiler.__base__, "__init__", lambda _, __, *, max_threads: asked.append(max_threads))
    xgrammar.GrammarCompiler("a vocabulary", max_threads=8)
    assert asked == [1]
