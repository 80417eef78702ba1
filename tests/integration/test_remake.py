"""A version is made again from its manifest, to the same dataset and weights."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from loom.client import Client
from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.versions import PastRun, run_of
from runtime.objects import Objects
from runtime.settings import Settings
from tests.support.runs import carry_out, small_project
from trainers.remake import Remade, is_near, remake


def on_another_number_of_threads(past: PastRun) -> Remade:
    torch.set_num_threads(past.manifest["threads"] + 1)
    return remake(past.spec, past.version, past.manifest, lambda _: None)


@pytest.mark.asyncio
async def test_a_version_is_made_again_from_its_manifest(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    carried = await carry_out(kafka, postgres, tmp_path)
    settings = Settings(broker=kafka.address, database=postgres.url, objects=(tmp_path / "objects").as_uri(), data=tmp_path, prefix=carried.prefix)  # type: ignore[arg-type]

    async def again() -> Remade:
        async with Client(small_project(steps=1), kafka.address, Objects(settings.objects_url), carried.prefix) as client:  # declared otherwise by now
            fleet = await client.fleet()
        past = await run_of(fleet, "classifier", 1, settings)
        return await asyncio.to_thread(on_another_number_of_threads, past)

    made = await again()
    assert (made.examples, made.missing, made.same_dataset, made.same_weights, made.holds) == (60, 0, True, True, True)
    assert made.scores.keys() == {"macro_f1"}


def test_scores_are_compared_in_points_and_perplexities_in_relation() -> None:
    assert is_near(0.90, 0.915)
    assert not is_near(0.90, 0.93)
    assert is_near(60.0, 61.0)
    assert not is_near(60.0, 62.0)
