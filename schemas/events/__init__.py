"""One frozen dataclass a contract, as the `.avsc` files have them."""

from schemas.events.common import ClaimCheck, Sealed
from schemas.events.dead_letters import DeadLetter, Header
from schemas.events.documents import Chunk, ChunkStatus, Document, Revision
from schemas.events.examples import DatasetRecord, Example, ExampleStatus, Label, RecordStatus, Split
from schemas.events.serving import (
    CompletionStatus,
    Feedback,
    FeedbackVerdict,
    Request,
    RequestCompleted,
    Result,
    ResultReference,
    ResultStatus,
    RouteStatus,
)
from schemas.events.training import (
    AdapterAction,
    AdapterAlias,
    AdapterCommand,
    AdapterEvent,
    AdapterEventKind,
    AdapterVersion,
    ArtifactFile,
    BaseEpoch,
    OffsetRange,
    RunStatus,
    RunTrigger,
    TrainingRun,
)

Event = (
    Document | Label | Revision | Chunk | Example | DatasetRecord | TrainingRun | AdapterEvent | AdapterCommand
    | Request | Result | RequestCompleted | Feedback | DeadLetter
)  # fmt: skip

__all__ = [
    "AdapterAction", "AdapterAlias", "AdapterCommand", "AdapterEvent", "AdapterEventKind", "AdapterVersion", "ArtifactFile", "BaseEpoch",
    "Chunk", "ChunkStatus", "ClaimCheck", "CompletionStatus", "DatasetRecord", "DeadLetter", "Document", "Event", "Example", "ExampleStatus",
    "Feedback", "FeedbackVerdict", "Header", "Label", "OffsetRange", "RecordStatus", "Request", "RequestCompleted", "Result",
    "ResultReference", "ResultStatus", "Revision", "RouteStatus", "RunStatus", "RunTrigger", "Sealed", "Split", "TrainingRun",
]  # fmt: skip
