"""`loom.toml`: what the user declares. Unknown keys are errors with a suggestion."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from runtime.errors import SettingsError
from runtime.tasks.samples import TaskSpec
from runtime.tasks.tool import TOOL_NAME, Tool, check_parameters
from schemas.topics import BASE, CPT, PARTITIONS, PREFERENCES, Topic, catalogue

RESERVED = frozenset({BASE, CPT, PREFERENCES})
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(_Table):
    """How an adapter is trained. Rank at most 16; no `modules_to_save`, which can't be served as an adapter."""

    rank: int = Field(default=16, ge=1, le=16)
    alpha: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    max_steps: int = Field(default=10_000, ge=1, description="A run ends here; of more examples than it can see once, the first by id are taken.")
    batch_size: int = Field(default=16, ge=1)
    max_tokens: int = Field(default=512, ge=32)
    seed: int = 0

    def steps_of(self, examples: int) -> int:
        """How many steps a run over so many examples takes."""
        return min(self.max_steps, max(1, round(self.epochs * examples / self.batch_size)))


class Cpt(_Table):
    """Continued pre-training of the base on the documents; adapters wait for its first run to end."""

    min_examples: int = Field(default=1000, ge=1, description="New chunks that start a run.")
    method: Literal["lora", "full"] = Field(default="lora", description="Train an adapter and merge it, or all weights: learns more, forgets more, and takes 16 bytes a weight.")
    rehearsal: float = Field(default=0.1, ge=0, lt=1, description="Share of what the base wrote by itself among what it learns, against forgetting.")
    max_forgetting: float = Field(default=0.03, ge=0, description="How much its perplexity on what it wrote by itself may rise, in relation.")
    recipe: Recipe = Recipe(learning_rate=5e-4, epochs=1.0)


class Base(_Table):
    """The base model."""

    model: str = Field(default="models/base", description="A folder, relative to loom.toml, or a hub name.")
    cpt: Cpt | None = Field(default=None, description="Without it, adapters are forked from the model as it is.")


class Dpo(_Table):
    """Alignment behind SFT, by direct preference optimisation."""

    learning_rate: float = Field(default=1e-4, gt=0)
    beta: float = Field(default=0.1, gt=0, description="Weight of staying near the SFT adapter.")
    sft_weight: float = Field(default=1.0, ge=0, description="Weight of the chosen answers' own loss, which keeps them likely.")
    ld_alpha: float = Field(default=1.0, ge=0, le=1, description="Weight of an answer's tokens beyond the length of the other: below 1, length counts for less (Liu et al. 2024, arXiv:2409.06411).")
    max_pairs: int = Field(default=512, ge=1, description="Corrections come first; at most half are mistakes of the adapter's own.")
    own_answers: int = Field(default=128, ge=0, description="Training examples that the SFT adapter answers, by chance as it would at temperature 1; where it is wrong, its answer is rejected.")
    weighted: bool = Field(default=False, description="A pair counts for as much as the judge made of its example; one that was not judged counts in full.")


class Gate(_Table):
    """When a version may go live."""

    min_score: float = Field(default=0.5, ge=0, le=1, description="Lowest score on held-out examples.")
    max_loss: float = Field(default=0.02, ge=0, le=1, description="How much lower than the live version's score it may be, by the paired 95 % lower bound, and than the best version's on the anchors.")
    min_valid: float = Field(default=0.9, ge=0, le=1, description="Lowest share of answers that can be read.")
    max_slowdown: float = Field(default=1.5, ge=1, description="How many times the live version's tokens an answer may take.")
    max_megabytes: float = Field(default=500.0, gt=0, description="Of its weights.")
    judged: int = Field(default=0, ge=0, description="Only for `chat`: so many of its held-out answers are scored by the model at LOOM_TEACHER_URL.")
    min_judge_score: float = Field(default=0.0, ge=0, le=1, description="Lowest mean of those scores.")
    underpowered: Literal["publish", "reject"] = Field(default="publish", description="Below 200 held-out examples little can be told: publish what seems good all the same, or reject it.")


class Canary(_Table):
    """How a new version that passed its gate proves itself beside the live one, before it takes its place."""

    share: float = Field(default=0.1, gt=0, lt=1, description="Of conversations, by a hash of their ids, that the candidate answers; a conversation stays with its version.")
    shadow: bool = Field(default=False, description="It answers nobody, but beside the live version to as many conversations; its answers go to the topic `shadows`.")
    min_answers: int = Field(default=200, ge=1, description="Of the candidate: with fewer nothing is decided but that it is far worse.")
    min_feedback: int = Field(default=0, ge=0, description="Judgements by users of the candidate's answers that a decision needs.")
    max_worse: float = Field(default=0.05, ge=0, le=1, description="How much lower its shares of valid answers and of users' approval may be than the live version's, by their 95 % bounds.")
    min_agreement: float = Field(default=0.0, ge=0, le=1, description="Only for a shadow: of its answers so many must be those of the live version.")
    max_hours: float = Field(default=24.0, gt=0, description="After which it ends.")
    undecided: Literal["promote", "rollback"] = Field(default="promote", description="What becomes of a candidate that after this time is neither better nor worse for sure.")

    @model_validator(mode="after")
    def _compares(self) -> Canary:
        if self.min_agreement and not self.shadow:
            raise ValueError("min_agreement needs `shadow = true`: else nothing is answered twice")
        if self.min_feedback and self.shadow:
            raise ValueError("min_feedback is not for a shadow: nobody sees its answers")
        return self


class ToolDeclaration(_Table):
    """A tool in the OpenAI form."""

    name: str = Field(pattern=TOOL_NAME)
    description: str
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    utterances: tuple[str, ...] = Field(default=(), description="Examples of messages that it is for: the router and the shortlist go by them.")

    @model_validator(mode="after")
    def _callable(self) -> ToolDeclaration:
        check_parameters(self.parameters)
        return self

    @property
    def tool(self) -> Tool:
        """The tool as the tool task has it."""
        return Tool(self.name, self.description, self.parameters, self.utterances)


class Adapter(_Table):
    """One adapter: its task, what it may answer, when the router chooses it, how it is trained."""

    task: Literal["chat", "tool", "classify", "extract"]
    result: Name = Field(description="Result topic, without `results.`.")
    labels: tuple[str, ...] = Field(default=(), description="Labels of `classify`, entity types of `extract`.")
    tools: tuple[ToolDeclaration, ...] = ()
    context: dict[str, str] = Field(default_factory=dict, description="Only for `tool`: what applications send beside each message, with values such as theirs; a teacher's examples have it.")
    utterances: tuple[str, ...] = Field(default=(), description="Examples of messages that it is for.")
    teach: bool = Field(default=True, description="A teacher makes examples for it from documents; else it learns from labels alone.")
    shortlist: int = Field(default=4, ge=1, description="Of more tools than this a prompt shows those that are nearest to the message; of a passage to quote, so many of the sentences that are nearest to the question.")
    threshold: float = Field(default=0.5, ge=-1, le=1, description="Cosine to the nearest utterance below which the router does not choose it, where its routes are not fitted.")
    whole_message: bool = Field(default=False, description="It answers the message as a whole, whatever its clauses are about.")
    min_examples: int = Field(default=200, ge=1, description="New training examples that start a run; twice as many after a version that its gate rejected, and so on.")
    max_age_hours: float | None = Field(default=None, gt=0, description="Fewer start one too, when the oldest has waited so long.")
    min_corrections: int = Field(default=10, ge=1, description="Corrections by users that start one, which goes on from the live version.")
    priority: int = Field(default=0, description="Of runs that wait, one of an adapter with a higher number comes first; what a command asks for comes before all.")
    quote: bool = Field(default=False, description="Only for `chat`: where a passage is given, answers are sentences of it, word for word.")
    recipe: Recipe = Recipe()
    dpo: Dpo | None = Field(default=None, description="Only for `chat` and `tool`.")
    gate: Gate = Gate()
    pinned: bool = Field(default=False, description="Its live version stays in the engine's memory and has a place in every batch, however seldom it is asked: for an engine in the inference worker's own process.")
    fallback: tuple[Literal["previous", "base"], ...] = Field(default=(), description="Who answers, one after the other, where the version has answered what can't be read, or has done so again and again, or there is none: the version that was live before, which is kept loaded for it, or the base. The result names them; without any it is refused.")
    canary: Canary | None = Field(default=None, description="Without it, a new version that passed its gate is live at once.")

    @model_validator(mode="after")
    def _complete(self) -> Adapter:
        if self.task in ("classify", "extract") and len(self.labels) < 1:
            raise ValueError(f"task {self.task} needs `labels`")
        if self.task == "tool" and not self.tools and self.teach:
            raise ValueError("task tool needs `tools`, or `teach = false` where labels and requests bring theirs")
        if self.context and self.task != "tool":
            raise ValueError(f"task {self.task} has no `context`")
        if self.quote and self.task != "chat":
            raise ValueError(f"task {self.task} has no `quote`")
        if self.gate.judged and self.task != "chat":
            raise ValueError(f"task {self.task} has no answers for a judge: `judged` is for `chat`")
        if self.gate.min_judge_score and not self.gate.judged:
            raise ValueError("min_judge_score needs `judged`")
        if self.dpo and self.task not in ("chat", "tool"):
            raise ValueError(f"task {self.task} has no `dpo`: its answers are right or wrong, which SFT learns as well")
        return self

    @property
    def routes(self) -> dict[str, tuple[str, ...]]:
        """Examples of messages that it is for, by the tool that they are for; its own are under ""."""
        every = {"": self.utterances} | {tool.name: tool.utterances for tool in self.tools}
        return {topic: utterances for topic, utterances in every.items() if utterances}

    @property
    def sees_every_message(self) -> bool:
        """Whether it has no examples of messages to be chosen by; one whose tools come with each message is asked for by its name."""
        return not self.routes and (self.task != "tool" or bool(self.tools))

    @property
    def declared_tools(self) -> list[Tool]:
        """The tools as the tool task has them."""
        return [declared.tool for declared in self.tools]

    @property
    def spec(self) -> TaskSpec:
        """What the adapter may answer."""
        return TaskSpec(self.task, self.labels, tuple(self.declared_tools), self.quote, self.shortlist)


class Documents(_Table):
    """What is done with documents before they are learned from."""

    pii: Literal["off", "tag", "redact", "pseudonymise"] = Field(
        default="off", description="Personal data that has a form (mail and network addresses, phone, card, account and social security numbers): left, counted, replaced by its kind, or by a pseudonym."
    )
    sources: tuple[str, ...] = Field(default=(), description="URL prefixes (s3://…, gs://…, https://…, file://…) that claim checks of upstream's may name.")

    @model_validator(mode="after")
    def _absolute(self) -> Documents:
        for source in self.sources:
            if not re.match(r"^[a-z][a-z0-9]*://\S+$", source):
                raise ValueError(f"sources: {source!r} is no URL prefix such as s3://bucket/folder")
        return self


class Router(_Table):
    """Which messages adapters are for."""

    fitted: str | None = Field(default=None, description="A folder that `loom routes fit` wrote, relative to loom.toml; without it the adapters' utterances and thresholds say what they are for.")
    margin: float = Field(default=0.1, ge=0, le=1, description="A choice whose score is less than this above that of the next adapter is called ambiguous.")


class Kafka(_Table):
    """The topics."""

    partitions: int = Field(default=PARTITIONS, ge=1, le=4096, description="Of each topic but the registry's: as many workers of a kind can share the work, evenly where their number divides it. Fixed when the topics are made.")


class Inference(_Table):
    """How requests on the topic are answered."""

    delivery: Literal["exactly-once", "idempotent"] = Field(
        default="exactly-once",
        description="Results, and that their requests are done, in one transaction; or one after the other: results can be read some milliseconds earlier, and those that a worker had not noted as done when it died are written again under the same result_id.",
    )


class TeacherLimits(_Table):
    """How the teacher at LOOM_TEACHER_URL is asked, by all workers together. The offline teacher has no limits and no judge."""

    concurrency: int = Field(default=16, ge=1, description="Requests at once, a worker.")
    timeout_seconds: int = Field(default=120, ge=1)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Tokens of prompts and replies.")
    usd_per_million_input: float = Field(default=0.0, ge=0, description="Price of a million tokens of prompts, in US dollars.")
    usd_per_million_output: float = Field(default=0.0, ge=0)
    budget_usd: float | None = Field(default=None, gt=0, description="When it is spent, documents wait until it is raised.")
    budget_tokens: int | None = Field(default=None, ge=1)
    min_judge_score: float = Field(default=0.6, ge=0, le=1, description="What it scores lower as its own judge is not kept; 0: nothing is judged.")

    @model_validator(mode="after")
    def _priced(self) -> TeacherLimits:
        if self.budget_usd is not None and not self.usd_per_million_input + self.usd_per_million_output:
            raise ValueError("budget_usd needs `usd_per_million_input` and `usd_per_million_output`")
        return self


class Gpu(_Table):
    """How training and serving share a GPU, or a machine without one: those of one LOOM_DATA folder do."""

    share: Literal["separate", "split", "sleep"] = Field(
        default="separate",
        description="separate: they don't; split: each has its part of a GPU's memory, training has what serving leaves of the processor, and stops while answers are slower than `max_p99_ms`; sleep: training stops whenever somebody asks, until nobody has for `quiet_seconds`.",
    )
    serving: float = Field(default=0.5, gt=0, lt=0.95, description="Share of the GPU's memory that serving takes; training has the rest, but for a twentieth.")
    max_p99_ms: int = Field(default=2000, ge=1, description="The 99th percentile of answers' times in ten seconds beyond which trainings stop.")
    quiet_seconds: float = Field(default=2.0, gt=0)


class Evaluation(_Table):
    """Sets that models are judged by; nothing near them is trained on."""

    files: tuple[str, ...] = Field(default=(), description="JSON lines with a `text` or `question` each; paths or patterns, relative to loom.toml.")
    similarity: float = Field(default=0.9, gt=0, le=1, description="Cosine from which a text is near one of theirs.")


class Project(_Table):
    """The whole file. `root` is its folder."""

    root: Path = Path()
    base: Base = Base()
    documents: Documents = Documents()
    router: Router = Router()
    kafka: Kafka = Kafka()
    inference: Inference = Inference()
    gpu: Gpu = Gpu()
    teacher: TeacherLimits = TeacherLimits()
    evaluation: Evaluation = Evaluation()
    adapters: dict[Name, Adapter] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_reserved_name(self) -> Project:
        if taken := RESERVED & self.adapters.keys():
            raise ValueError(f"an adapter can't be named {min(taken)!r}: {', '.join(sorted(RESERVED))} have a meaning of their own")
        return self

    def training_of(self, name: str) -> Adapter | Cpt | None:
        """How adapter `name`, or the base, is trained; None when that is not declared."""
        return self.base.cpt if name == BASE else self.adapters.get(name)

    @property
    def topics(self) -> dict[str, Topic]:
        """The topic catalogue of this project."""
        return catalogue(self.adapters, (adapter.result for adapter in self.adapters.values()), self.kafka.partitions)

    @property
    def base_folder(self) -> str:
        """The base model: an existing folder's path, else the name for the hub."""
        folder = (self.root / self.base.model).resolve()
        return str(folder) if folder.exists() else self.base.model


def load_project(path: Path) -> Project:
    """The project file at `path`.

    Raises:
        SettingsError: there is no such file, or it lists every fault with its place.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"no project file {path}: `loom init` writes one, --project names another") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    try:
        return Project.model_validate({**data, "root": path.parent.resolve()})
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_fault(e)}" for e in error.errors())) from error


_FIELDS = {name for table in (Project, Base, Documents, Router, Kafka, Inference, Gpu, TeacherLimits, Evaluation, Cpt, Recipe, Dpo, Gate, Canary, ToolDeclaration, Adapter) for name in table.model_fields}


def _fault(error: Any) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg']}"
    near = difflib.get_close_matches(str(error["loc"][-1]), _FIELDS, n=1)
    return f"{place}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")
