"""What is changed in vLLM on a CPU takes hold."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from vllm.lora.model_manager import AdapterLRUCache, LRUCacheLoRAModelManager
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
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


SLOTS, KEPT = 3, 6


class Kept(LRUCacheLoRAModelManager):
    """vLLM's manager of adapters without a model, whose modules they would be written into."""

    def __init__(self) -> None:
        self._registered_adapters, self._active_adapters = AdapterLRUCache(KEPT, self.deactivate_adapter), AdapterLRUCache(SLOTS, self._deactivate_adapter)
        self.modules = dict[str, object]()
        self.lora_index_to_id: list[int | None] = [None] * SLOTS
        self.lora_config = SimpleNamespace(max_loras=SLOTS, max_cpu_loras=KEPT)
        self.listed = 0

    def _create_merged_loras_inplace(self, lora_model: object) -> None:
        pass

    def list_adapters(self) -> Any:
        self.listed += 1
        return super().list_adapters()


class Asked(LRUCacheWorkerLoRAManager):
    """What asks it, without files."""

    def __init__(self) -> None:
        self._adapter_manager = Kept()
        self.read = list[int]()

    def _load_adapter(self, lora_request: LoRARequest) -> object:
        self.read.append(lora_request.lora_int_id)
        return SimpleNamespace(id=lora_request.lora_int_id)

    def state(self) -> object:
        kept = self._adapter_manager
        return list(kept._registered_adapters.order), list(kept._active_adapters.order), kept.lora_index_to_id, self.read


@given(st.lists(st.lists(st.integers(1, KEPT + 3), min_size=1, max_size=SLOTS, unique=True)), st.integers(1, KEPT + 3))
def test_adapters_come_and_go_as_by_vllm_itself(batches: list[list[int]], pinned: int) -> None:
    register()
    ours, theirs = Asked(), Asked()
    for batch in ([pinned], *batches):
        for number in batch:
            request = LoRARequest(str(number), number, "/")
            assert ours.add_adapter(request) == LRUCacheWorkerLoRAManager.add_adapter.__wrapped__(theirs, request)
        ours.pin_adapter(pinned)
        theirs.pin_adapter(pinned)
        assert ours.state() == theirs.state()
    assert ours._adapter_manager.listed == len(ours.read), "for what is there nothing is listed"
