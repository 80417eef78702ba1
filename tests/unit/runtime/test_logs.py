"""What the logs leave out."""

from __future__ import annotations

import logging

from aiokafka.errors import KafkaConnectionError, NotLeaderForPartitionError, TopicAuthorizationFailedError

from runtime.logs import is_news


def test_an_error_that_aiokafka_retries_is_no_news_and_a_lost_broker_is() -> None:
    def said(error: Exception, logger: str = "aiokafka.consumer.fetcher") -> bool:
        return is_news(logging.LogRecord(logger, logging.ERROR, "", 0, "Failed fetch offsets from %s: %s", (1, error), None))

    assert not said(NotLeaderForPartitionError())
    assert said(KafkaConnectionError())
    assert said(TopicAuthorizationFailedError("orders"))
    assert said(NotLeaderForPartitionError(), logger="runtime.kafka")
