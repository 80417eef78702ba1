"""Estimates: weights are counted as they are, what is known of a large model comes out, more of anything takes more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from runtime.errors import SettingsError
from runtime.project import Recipe
from trainers.plan import FULL, HALF, Machine, Shape, serving, shape_of, training

BASE = str(Path(__file__).parents[3] / "models/base")
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
}  # fmt: skip
CPU = Machine(8 << 30, 1e11, FULL, is_gpu=False)
H100 = Machine(80 << 30, 989e12, HALF, is_gpu=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    folder = tmp_path_factory.mktemp("llama")
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return shape_of(str(folder))


def test_weights_are_those_of_the_model_and_of_its_adapter() -> None:
    shape, model = shape_of(BASE), AutoModelForCausalLM.from_pretrained(BASE)
    assert shape.weights == model.num_parameters()
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert 16 * shape.lora_weights_a_rank == adapted.get_nb_trainable_parameters()[0]


def test_what_is_known_of_a_model_of_eight_billion_weights(large: Shape) -> None:
    assert large.weights == 8_030_261_248
    assert 16 * large.lora_weights_a_rank == 41_943_040
    served = serving(large, 16, 8, 24 << 30, 2048)
    assert served.token_bytes == 128 << 10
    assert served.weights_bytes == pytest.approx(15 * 2**30, rel=0.01)
    assert served.adapters_bytes == 8 * 41_943_040 * HALF


def test_more_examples_take_more_time_and_no_more_memory_and_longer_ones_more_of_both(large: Shape) -> None:
    recipe = Recipe(epochs=2, batch_size=16)
    once = training(large, recipe, H100, examples=1600, tokens=200, rows=4)
    assert once.steps == 200
    twice = training(large, recipe, H100, examples=3200, tokens=200, rows=4)
    assert (twice.steps, twice.memory_bytes) == (400, once.memory_bytes)
    assert twice.seconds == pytest.approx(2 * once.seconds)
    longer = training(large, recipe, H100, examples=1600, tokens=400, rows=4)
    assert longer.activation_bytes > 2 * once.activation_bytes
    assert longer.seconds > 2 * once.seconds
    assert training(large, replace_steps(recipe, 50), H100, 1600, 200, 4).steps == 50


def test_all_weights_take_sixteen_bytes_each_and_half_as_much_time_again(large: Shape) -> None:
    recipe = Recipe(epochs=2, batch_size=16)
    lora, whole = (training(large, recipe, H100, 1600, 200, 4, is_whole=is_whole) for is_whole in (False, True))
    assert whole.memory_bytes > 16 * large.weights > 7 * lora.memory_bytes / 2
    assert whole.seconds == pytest.approx(1.5 * lora.seconds, rel=0.05)


def test_half_the_rows_at_once_are_half_the_activations() -> None:
    shape = shape_of(BASE)
    whole, half = (training(shape, Recipe(), CPU, 1000, 100, rows) for rows in (8, 4))
    assert whole.activation_bytes == pytest.approx(2 * half.activation_bytes, abs=2)
    assert whole.seconds == half.seconds


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{tmp_path}.*config.json"):
        shape_of(str(tmp_path))


def replace_steps(recipe: Recipe, steps: int) -> Recipe:
    return recipe.model_copy(update={"max_steps": steps})


def test_of_weights_that_four_processes_share_each_holds_a_quarter(large: Shape) -> None:
    alone, shared = (training(large, Recipe(), H100, 100, 200, 4, is_whole=True, shards=shards) for shards in (1, 4))
    assert alone.memory_bytes - shared.memory_bytes == 16 * large.weights * 3 // 4
    assert shared.memory_bytes < H100.memory_bytes < alone.memory_bytes


def test_an_eight_billion_base_with_four_adapters_serves_on_24_gib_and_not_on_16(large: Shape) -> None:
    served = serving(large, 16, 4, 24 << 30, 2048)
    assert served.weights_bytes + served.adapters_bytes + served.batch_bytes + served.cache_bytes == int(0.9 * (24 << 30))
    assert 15 < served.requests < 30
    assert served.cache_tokens == served.cache_bytes // (128 << 10)
    assert serving(large, 16, 4, 16 << 30, 2048).requests == 0
    assert serving(large, 16, 64, 24 << 30, 2048).requests < served.requests
