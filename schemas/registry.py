"""A Confluent-compatible schema registry in the place of the committed catalogue.

Subjects follow the topic-name strategy: `<topic>-value`, compatibility FULL_TRANSITIVE.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from schemas import contracts
from schemas.codec import RECORDS, Codec
from schemas.topics import Topic

TIMEOUT_SECONDS = 3
"""Well under a consumer's session timeout: a call holds up its event loop. Who calls tries again."""
SERVER_FAULT = 500


class RegistryUnavailable(Exception):
    """The registry can't be reached, or fails; the same call may succeed later."""


class Registry:
    """A client of the registry at `url`, for topics under `prefix`."""

    def __init__(self, url: str, topics: Iterable[Topic], prefix: str = "") -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        self._url = url
        self._client = SchemaRegistryClient({"url": url, "timeout": TIMEOUT_SECONDS, "max.retries": 0})
        self._subjects: Mapping[str, str] = {f"{prefix}{topic.name}-value": RECORDS[topic.record] for topic in topics}

    def codec(self) -> Codec:
        """A codec that writes the registry's ids, and reads these and the committed catalogue's."""
        return Codec(self.schema_id, self.contract)

    def register(self) -> list[str]:
        """Registers the contract of every topic; the subjects that are new.

        Raises:
            RegistryUnavailable: see there.
            ValueError: the registry refuses a contract, as not compatible with an earlier one.
        """
        known = set(self._call(self._client.get_subjects))
        for subject, record in self._subjects.items():
            if subject not in known:
                self._call(self._client.set_compatibility, subject, "FULL_TRANSITIVE")
            try:
                self._call(self._client.register_schema, subject, _schema(record))
            except LookupError as error:
                raise ValueError(f"the registry at {self._url} refuses the contract of {subject}: {error}") from error
        return sorted(self._subjects.keys() - known)

    def schema_id(self, record: str) -> int:
        """The registry's id of `record` as it stands. Raises LookupError when it is not registered, RegistryUnavailable."""
        subject = next(subject for subject, name in self._subjects.items() if name == record)
        try:
            return int(self._call(self._client.lookup_schema, subject, _schema(record)).schema_id)
        except LookupError as error:
            raise LookupError(f"{subject} is not in the registry at {self._url}: `loom topics apply` registers it ({error})") from error

    def contract(self, schema_id: int) -> contracts.Contract:
        """The contract with this id. Raises LookupError for an unknown one, RegistryUnavailable."""
        if schema_id >= contracts.FIRST_ID:
            return contracts.landed()[schema_id][1]
        loaded: contracts.Contract = json.loads(self._call(self._client.get_schema, schema_id).schema_str)
        return loaded

    def _call(self, method: Any, *arguments: Any) -> Any:
        """What `method` returns. Raises LookupError when the registry says no, RegistryUnavailable when it can't answer."""
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        try:
            return method(*arguments)
        except SchemaRegistryError as error:
            if error.http_status_code >= SERVER_FAULT:
                raise RegistryUnavailable(f"the schema registry at {self._url} fails: {error}") from error
            raise LookupError(error.error_message) from error
        except Exception as error:  # the client lets through the errors of the HTTP library that it was built on
            raise RegistryUnavailable(f"the schema registry at {self._url} can't be reached: {type(error).__name__}: {error}") from error


def _schema(record: str) -> Any:
    from confluent_kafka.schema_registry import Schema

    return Schema(json.dumps(contracts.contract(record)), "AVRO")


def open_codec(url: str | None, topics: Iterable[Topic] = (), prefix: str = "") -> Codec:
    """The codec of the registry at `url`; the committed catalogue's when there is none."""
    return Registry(url, topics, prefix).codec() if url else Codec()
