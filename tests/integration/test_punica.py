"""vLLM's port for LoRA on a CPU, as vLLM calls it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from inference.engines.punica import SegmentedLora

SLOTS, RANK, WIDTH, VOCABULARY = 3, 4, 8, 16
TOKENS = [0, 1, -1, 2, 2, -1, 0]
Pair = tuple[torch.Tensor, torch.Tensor]


def told(port: SegmentedLora, slots: list[int], ids: list[int | None]) -> None:
    """What vLLM says before a step."""
    from vllm.lora.layers import LoRAMapping

    named = tuple(ids[slot] or 0 if slot >= 0 else 0 for slot in slots)
    port.update_metadata(LoRAMapping(named, named, is_prefill=True), ids, SLOTS + 1, VOCABULARY)


def filled(outputs: int) -> Pair:
    return torch.randn(SLOTS, 1, RANK, WIDTH), torch.randn(SLOTS, 1, outputs, RANK)


def expected(y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, slots: list[int]) -> torch.Tensor:
    made = y.clone()
    for token, slot in enumerate(slots):
        if slot >= 0:
            made[token] += b[slot, 0] @ (a[slot, 0] @ x[token])
    return made


@pytest.fixture
def port() -> Iterator[SegmentedLora]:
    from inference.engines.punica import SegmentedLora

    torch.manual_seed(0)
    with torch.inference_mode():
        yield SegmentedLora(64, 16, device="cpu")


def test_who_names_no_adapter_gets_none_though_all_slots_are_full(port: SegmentedLora) -> None:
    told(port, TOKENS, [11, 12, 13])
    x, layers = torch.randn(len(TOKENS), WIDTH), {"linear": filled(WIDTH), "head": filled(VOCABULARY)}
    for name, (a, b) in layers.items():
        y = torch.randn(len(TOKENS), b.shape[2])
        wanted = expected(y, x, a, b, TOKENS)
        if name == "linear":
            port.add_lora_linear(y, x, (a,), (b,), 1.0, (WIDTH,))
        else:
            port.add_lora_logits(y, x, a, b, 1.0)
        torch.testing.assert_close(y, wanted, msg=name)
    b = torch.randn(SLOTS, 1, WIDTH, RANK)
    inner, y = torch.randn(len(TOKENS), RANK), torch.zeros(len(TOKENS), WIDTH)
    port.add_lora_embedding(y, inner, b)
    torch.testing.assert_close(y, torch.stack([b[slot, 0] @ inner[at] if slot >= 0 else torch.zeros(WIDTH) for at, slot in enumerate(TOKENS)]))


def test_what_is_in_a_slot_is_looked_at_anew_when_another_adapter_comes_into_it(port: SegmentedLora) -> None:
    a, b = torch.zeros(SLOTS, 1, RANK, WIDTH), torch.zeros(SLOTS, 1, WIDTH, RANK)
    x, ids = torch.randn(2, WIDTH), list[Any]([11, None, None])
    told(port, [0, 0], ids)
    y = torch.zeros(2, WIDTH)
    port.add_lora_linear(y, x, (a,), (b,), 1.0, (WIDTH,))
    assert not y.any(), "an adapter that leaves this layer alone"
    ids[0] = 12
    a[0], b[0] = 1.0, 1.0
    told(port, [0, 0], ids)
    port.add_lora_linear(y, x, (a,), (b,), 1.0, (WIDTH,))
    torch.testing.assert_close(y, expected(torch.zeros(2, WIDTH), x, a, b, [0, 0]))
    again = [12, None, None]  # a list of its own, as after vLLM's warming up: the same ids, other weights
    a[0] = 0
    told(port, [0, 0], again)
    y = torch.zeros(2, WIDTH)
    port.add_lora_linear(y, x, (a,), (b,), 1.0, (WIDTH,))
    assert not y.any()


def test_head_and_embedding_are_looked_at_anew_too_and_what_has_gone_counts_no_more(port: SegmentedLora, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    asked = list[str]()
    for name in ("add_lora_logits", "add_lora_embedding"):
        monkeypatch.setattr(PunicaWrapperCPU, name, lambda *_, _name=name, **__: asked.append(_name))
    a, b, embedding = torch.zeros(SLOTS, 1, RANK, WIDTH), torch.randn(SLOTS, 1, VOCABULARY, RANK), torch.zeros(SLOTS, 1, WIDTH, RANK)
    x, y, wide, ids = torch.randn(2, WIDTH), torch.zeros(2, VOCABULARY), torch.zeros(2, WIDTH), list[Any]([11, None, None])

    def who_is_asked() -> list[str]:
        asked.clear()
        told(port, [0, 0], ids)
        port.add_lora_logits(y, x, a, b, 1.0)
        port.add_lora_embedding(wide, x[:, :RANK], embedding)
        return asked.copy()

    assert who_is_asked() == [], "an adapter that leaves both alone"
    ids[1], a[1] = 12, 1.0
    assert who_is_asked() == ["add_lora_logits"]
    ids[2], embedding[2] = 13, 1.0
    assert who_is_asked() == ["add_lora_logits", "add_lora_embedding"]
    assert who_is_asked() == ["add_lora_logits", "add_lora_embedding"]
    ids[1] = None  # what it left lies there until another comes
    assert who_is_asked() == ["add_lora_embedding"]
    ids[2], embedding[2] = 14, 0.0
    assert who_is_asked() == []
