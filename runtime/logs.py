"""Structured logs: JSON lines, or colours at a terminal. Names are `noun.past_verb`; no document or customer text."""

from __future__ import annotations

import logging
import sys
import warnings

import structlog


def configure_logs(level: str = "info") -> None:
    """Sends structlog and the standard library's logging to standard error in one form."""
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    last: structlog.typing.Processor = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, last] if not terminal else [*shared, last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(is_news)
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, logging.getLevelName(level.upper())), format='{"logger": "%(name)s", "level": "%(levelname)s", "event": "%(message)s"}')
    warnings.filterwarnings("ignore", message="The 'default' attribute with value None")  # distilabel's fields, once for each


def is_news(record: logging.LogRecord) -> bool:
    """Whether a record is more than aiokafka's word on an error that it will retry; a broker that is gone is news."""
    if not record.name.startswith("aiokafka."):
        return True
    from aiokafka.errors import KafkaConnectionError, KafkaError

    args = record.args if isinstance(record.args, tuple) else ()
    return not any(isinstance(a, KafkaError) and a.retriable and not isinstance(a, KafkaConnectionError) for a in args)
