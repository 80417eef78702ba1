"""`loom bench`: benchmarks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loom.commands.common import Data, Project, connected_settings, settings_of

if TYPE_CHECKING:
    from loom.bench.scores import Score

TENTH = 10
Quick = Annotated[bool, typer.Option("--quick", help="A tenth of the work, for a first look.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Draw the rows that have a baseline to this file, as SVG.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")]


def quality(
    test: Annotated[Path, typer.Option("--test", help="JSON lines of {text, label}, {text, calls}, {text, tools, calls}, {text, entities} or {text, passage, answer}.")],
    train: Annotated[Path | None, typer.Option("--train", help="Rows of the same form, or frames (.toml): what the baselines (constant, TF-IDF, a linear head on MiniLM) are trained on.")] = None,
    classifier: Annotated[str, typer.Option("--classifier", help="Adapter that the labels are for.")] = "classifier",
    tool: Annotated[str, typer.Option("--tool", help="Adapter that the calls are for.")] = "tool",
    entities: Annotated[str, typer.Option("--entities", help="Adapter that the entities are for.")] = "ner",
    chat: Annotated[str, typer.Option("--chat", help="Adapter that the answers are for.")] = "chat",
    key: Annotated[str | None, typer.Option("--key", envvar="LOOM_API_KEY", help="A key with the scopes `ask` and `generate`, where the system asks for one (`loom keys`).")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Also train all weights of the base on the rows of --train, by the adapter's recipe: minutes.")] = False,
    data: Data = None,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Ask a running system every text of a test, by router and adapter alone and together, and score the answers.

    Example: loom bench quality --test tests/phrasings/requests.jsonl --train examples/pebblewire/frames.toml
    """
    from loom.bench.quality import Names
    from loom.bench.quality import quality as score_quality
    from loom.bench.scores import load_rows
    from loom.bench.whole import Whole
    from runtime.errors import SettingsError
    from runtime.project import load_project

    settings = connected_settings(data=data)
    declared = (loaded := load_project(settings.project)).adapters
    labels, types = (declared[name].labels if name in declared else () for name in (classifier, entities))
    rows, known = load_rows(test)[:: TENTH if quick else 1], load_rows(train) if train else []
    if whole and not known:
        raise SettingsError("--whole trains on the rows of --train: name a file of them")
    url, names = f"http://{settings.http_host}:{settings.http_port}", Names(classifier, tool, entities, chat, labels, types)
    _show_scores("quality", asyncio.run(score_quality(rows, known, url, names, Whole(loaded) if whole else None, key)), json_file)


def router(
    test: Annotated[list[Path], typer.Option("--test", help="JSON lines of {text, intents}, no intent being out of scope; or files as CLINC150, BANKING77 and NLU++ are published. May be repeated.")],
    train: Annotated[list[Path] | None, typer.Option("--train", help="Rows of the same forms that routes are fitted to, instead of the project's routes; semantic-router with its torch encoder runs beside.")] = None,
    validation: Annotated[list[Path] | None, typer.Option("--validation", help="Rows that the threshold is fitted to; a tenth of --train when unset.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over --train that teach the encoder.")] = 0,
    fitted: Annotated[Path | None, typer.Option("--fitted", help="A folder for what is fitted: made where it is missing, used where it is there.")] = None,
    part: Annotated[str, typer.Option("--part", help="The part of CLINC150's file that is tested.")] = "test",
    project: Project = None,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Score the router alone, without a running system: the intents are adapters' names, or those of --train.

    Example: loom bench router --test requests.jsonl --train utterances.jsonl
    """
    from loom.bench import router as bench
    from runtime.errors import SettingsError
    from runtime.project import load_project

    rows = bench.intent_rows(test, part)[:: TENTH if quick else 1]
    if not any(row.routes for row in rows):
        raise SettingsError(f"{', '.join(map(str, test))}: no row with intents")
    if train:
        known, held_out = bench.intent_rows(train, "train"), bench.intent_rows(validation or [], "val")
        sides = bench.beside_semantic_router(known, held_out, epochs, fitted)
    else:
        sides = bench.alone(load_project(settings_of(project=project).project))
    _show_scores("router", bench.router_scores(sides, rows), json_file)


def dedup(
    pairs: Annotated[Path, typer.Option("--pairs", help="A folder with pairs.csv (path, …, relation) and two editions of the same pages in folders beside it.")],
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Find twins among two editions of the same pages: recall, precision, and speed beside datasketch.

    Example: loom bench dedup --pairs docs-near-duplicates --quick
    """
    from loom.bench.compare import show
    from loom.bench.dedup import dedup as measure

    show("dedup", measure(pairs, quick), json_file)


def parse(
    documents: Annotated[Path, typer.Option("--documents", help="A folder of PDFs, HTML or Markdown.")],
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Parse a folder with our parsers and with plain unstructured, by turns: speed, and whose text is whole.

    Example: loom bench parse --documents docs-pdf --quick
    """
    from loom.bench.compare import show
    from loom.bench.parse import parse_rows

    show("parse", parse_rows(documents, quick), json_file)


def train(
    data: Annotated[Path, typer.Option("--data", help="Frames (.toml), or JSON lines as `loom label` takes them.")],
    adapter: Annotated[str, typer.Option("--adapter", help="A declared adapter that the rows are for.")] = "tool",
    project: Project = None,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Train an adapter with our SFT and with TRL's own defaults to the same held-out loss, by turns, each at its best rate.

    Example: loom bench train --data examples/pebblewire/frames.toml --project examples/pebblewire/loom.toml --quick
    """
    from loom.bench.compare import show
    from loom.bench.train import train_rows
    from runtime.errors import SettingsError
    from runtime.project import load_project

    declared = load_project(settings_of(project=project).project)
    if adapter not in declared.adapters:
        raise SettingsError(f"no adapter {adapter!r} is declared: one of {', '.join(declared.adapters)}")
    show("train", train_rows(data, declared.adapters[adapter], adapter, declared.base_folder, quick), json_file)


def streams(quick: Quick = False, json_file: JsonFile = None) -> None:
    """Send records through a worker on a Kafka of its own: how many a second, beside Faust and aiokafka alone.

    Example: loom bench streams --quick
    """
    from loom.bench.compare import show
    from loom.bench.streams import streams_rows

    show("streams", streams_rows(quick), json_file)


def pipeline(
    documents: Annotated[int | None, typer.Option("--documents", help="Documents a round; with --memory, of the run.")] = None,
    workers: Annotated[list[int] | None, typer.Option("--workers", help="Workers a stage, once for each number. [default: 1, 2, 4]")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Instead of speed, whether the workers' memory grows.")] = False,
    quick: Quick = False,
    json_file: JsonFile = None,
) -> None:
    """Send documents through all stream workers, one of each and more, on a Kafka and a PostgreSQL of its own, then replay them.

    Example: loom bench pipeline --workers 1 --workers 2 --quick
    """
    from loom.bench.compare import show
    from loom.bench.pipeline import DOCUMENTS_A_ROUND, QUICK_DOCUMENTS, memory_rows, pipeline_rows

    number = documents or (QUICK_DOCUMENTS if quick else DOCUMENTS_A_ROUND)
    show("pipeline", memory_rows(number) if memory else pipeline_rows(number, tuple(workers or (1, 2, 4))), json_file)


def inference(project: Project = None, quick: Quick = False, json_file: JsonFile = None, picture: Picture = None) -> None:
    """Serve the project's base with four adapters of random weights, beside stock vLLM, PEFT and Transformers; then requests through a Kafka of its own, beside the engine alone.

    Example: loom bench inference --project examples/pebblewire/loom.toml --quick
    """
    from loom.bench.compare import show_as_they_come
    from loom.bench.inference import inference_rows
    from runtime.project import load_project

    show_as_they_come("inference", inference_rows(load_project(settings_of(project=project).project).base_folder, quick), json_file, picture)


def swap(project: Project = None, quick: Quick = False, json_file: JsonFile = None, picture: Picture = None) -> None:
    """Change adapters of the project's base from request to request, out of up to 256, and publish versions under load: first tokens, throughput, first answers.

    Example: loom bench swap --project examples/pebblewire/loom.toml --quick
    """
    from loom.bench.compare import show_as_they_come
    from loom.bench.swap import swap_rows
    from runtime.project import load_project

    show_as_they_come("swap", swap_rows(load_project(settings_of(project=project).project).base_folder, quick), json_file, picture)


def share(project: Project = None, quick: Quick = False, json_file: JsonFile = None, picture: Picture = None) -> None:
    """Answer at a quarter of capacity while a training goes on beside: as it comes, split, and asleep whenever somebody asks.

    Example: loom bench share --project examples/pebblewire/loom.toml --quick
    """
    from loom.bench.compare import show
    from loom.bench.share import share_rows
    from runtime.project import load_project

    show("share", asyncio.run(share_rows(load_project(settings_of(project=project).project).base_folder, quick)), json_file, picture)


def _show_scores(name: str, scores: Sequence[Score], target: Path | None) -> None:
    """Prints scores as a table; writes them to `target` where one is named, side by side as in other benchmarks and each with its interval."""
    from rich.console import Console
    from rich.table import Table

    from loom.bench.compare import report
    from loom.bench.scores import compared

    table = Table("what", "mode", "score", "95 % interval", "p", "n")
    for s in scores:
        interval = f"{s.low:.3f} to {s.high:.3f}" if s.low is not None else "-"
        table.add_row(s.what, s.mode, f"{s.value:.3f}", interval, f"{s.p_value:.2g}" if s.p_value is not None else "-", str(s.count))
    Console().print(table)
    if target:
        target.write_text(json.dumps({**report(name, compared(scores)), "scores": [s.to_json() for s in scores]}, indent=1) + "\n", encoding="utf-8")
