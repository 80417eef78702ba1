"""`loom plan`: what the declared trainings, and serving, will take."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from loom.commands.common import AsJson, Project, settings_of


def plan(
    examples: Annotated[int | None, typer.Option("--examples", help="Of each training; else what is declared to start one.", min=1)] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Of an example on average; else as many as a recipe lets through.", min=1)] = None,
    tflops: Annotated[float | None, typer.Option("--tflops", help="Of another machine's GPU in bfloat16, dense (H100: 989); else this machine is measured.", min=0.001)] = None,
    memory_gib: Annotated[float, typer.Option("--memory-gib", help="Of that GPU.", min=1)] = 80.0,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Serving alone, on a GPU of so much memory, such as 24GB.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="With --gpu: a model's folder, or its name on the hub, instead of the project's.")] = None,
    adapters: Annotated[int | None, typer.Option("--adapters", help="With --gpu: adapters in one batch; else as many as are declared.", min=1)] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="With --gpu: their rank; else the highest that is declared.", min=1)] = None,
    context: Annotated[int, typer.Option("--context", help="With --gpu: tokens of a request, prompt and answer together.", min=1)] = 1024,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the memory and time of trainings and serving.

    Of every training that is declared, on this machine or on a GPU that is elsewhere; with --gpu, of serving: how many requests at once.

    Example: loom plan --examples 5000 --tokens 120
    """
    from inference.engines.vllm import MAX_LORAS
    from runtime.errors import SettingsError
    from runtime.project import load_project
    from trainers import plan as estimate

    if gpu is not None:
        memory = _bytes(gpu)
        declared = None if base and adapters and rank else load_project(settings_of(project=project).project)
        ranks = [adapter.recipe.rank for adapter in declared.adapters.values()] if declared else []
        slots, most = adapters or min(MAX_LORAS, len(ranks)), rank or max(ranks, default=16)
        shape = estimate.shape_of(base or (declared.base_folder if declared else ""))
        fits = estimate.serving(shape, most, slots, memory, context)
        if as_json:
            typer.echo(json.dumps({"base": asdict(shape), "adapters": slots, "rank": most, "context": context, "serving": asdict(fits)}))
            return
        _print_serving(fits, slots, most, context)
        return
    if base or adapters or rank:
        raise SettingsError("--base, --adapters and --rank are for serving: say --gpu too, such as --gpu 24GB")
    _plan_trainings(examples, tokens, tflops, memory_gib, project, as_json)


def _bytes(size: str) -> int:
    """24GB, 24GiB or 24: as GPUs are named, in units of 2^30 bytes. Raises SettingsError."""
    from runtime.errors import SettingsError

    if not (found := re.fullmatch(r"(\d{1,5}(?:\.\d+)?) ?(?:G|GB|GiB)?", size, re.IGNORECASE)):
        raise SettingsError(f"--gpu {size}: say how much memory it has, such as 24GB")
    return int(float(found[1]) * 2**30)


def _print_serving(fits: Any, adapters: int, rank: int, context: int) -> None:
    for what, size in (("the base", fits.weights_bytes), (f"slots of {adapters} adapters of rank {rank}", fits.adapters_bytes), ("a batch, CUDA graphs", fits.batch_bytes), ("keys and values", fits.cache_bytes)):
        typer.echo(f"{size / 2**30:8.2f} GiB  {what}")
    if fits.requests < 1:
        typer.echo("it does not fit: take a larger GPU, a smaller base, fewer slots or a shorter context")
        raise typer.Exit(1)
    typer.echo(f"room for {fits.cache_tokens:,} tokens ({fits.token_bytes / 2**10:,.1f} KiB each): {fits.requests:,.1f} requests of {context} tokens at once")


def _plan_trainings(examples: int | None, tokens: int | None, tflops: float | None, memory_gib: float, project: Path | None, as_json: bool) -> None:
    import torch

    from inference.engines.vllm import MAX_LORAS, MAX_MODEL_LEN
    from runtime.machine import cores
    from runtime.project import load_project
    from trainers import plan as estimate
    from trainers.backends.trl import rows_at_once, rows_on_a_cpu
    from trainers.worker import runs_at_once

    settings = settings_of(project=project)
    declared = load_project(settings.project)
    if tflops is None:
        torch.set_num_threads(max(1, cores() // runs_at_once(settings.runs_at_once)))
    machine = estimate.machine_here() if tflops is None else estimate.Machine(int(memory_gib * 2**30), tflops * 1e12, estimate.HALF, is_gpu=True)
    shape = estimate.shape_of(declared.base_folder)
    rows: list[dict[str, Any]] = []
    cpt, shards = declared.base.cpt, settings.run_processes if settings.run_sharded else 1
    wanted = [("base", cpt.min_examples, cpt.recipe, cpt.method == "full")] if cpt else []
    for name, fewest, recipe, is_whole in [*wanted, *((name, adapter.min_examples, adapter.recipe, False) for name, adapter in declared.adapters.items())]:
        length = min(tokens or recipe.max_tokens, recipe.max_tokens)
        at_once = rows_at_once(recipe.batch_size, recipe.batch_size if machine.is_gpu else rows_on_a_cpu(length), 0)
        rows.append({"training": name, **asdict(estimate.training(shape, recipe, machine, examples or fewest, length, at_once, is_whole=is_whole, shards=shards))})
    rank = max((adapter.recipe.rank for adapter in declared.adapters.values()), default=0)
    served = estimate.serving(shape, rank, min(MAX_LORAS, len(declared.adapters)), machine.memory_bytes, MAX_MODEL_LEN, machine.bytes_a_number)
    if as_json:
        typer.echo(json.dumps({"machine": asdict(machine), "base": asdict(shape), "trainings": rows, "serving": asdict(served)}))
        return
    _print(machine, shape, rows, served)


def _print(machine: Any, shape: Any, rows: list[dict[str, Any]], served: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("training", "steps", "memory", "time")
    for row in rows:
        table.add_row(row["training"], str(row["steps"]), f"{row['memory_bytes'] / 2**30:.1f} GiB", _duration(row["seconds"]))
    Console().print(table)
    typer.echo(f"{shape.weights / 1e6:,.1f} million weights; {machine.flops / 1e12:,.2f} TFLOP/s and {machine.memory_bytes / 2**30:.0f} GiB of memory")
    typer.echo(f"serving: {served.weights_bytes / 2**20:,.0f} MiB for the base, {served.adapters_bytes / 2**20:,.1f} MiB for its adapters, {served.token_bytes / 2**10:,.1f} KiB a token of context")
    too_large = [row["training"] for row in rows if row["memory_bytes"] > machine.memory_bytes]
    if too_large:
        typer.echo(f"{', '.join(too_large)} will not fit: a run halves the rows that are in memory at once until it does, or take a smaller max_tokens")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
