"""The contracts: `avro/*.avsc` as they stand, `versions/<record>/<id>.avsc` as they ever landed.

Without a schema registry a version's id is its file's name. Ids start at 1,000,000,000, so that they never meet a
registry's. A changed contract is landed by copying it to the next free id (`python -m schemas.contracts`).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

FIRST_ID = 1_000_000_000
ROOT = Path(__file__).parent

Contract = dict[str, Any]


@cache
def contract(record: str) -> Contract:
    """The current contract of `record`, the stem of its `.avsc`."""
    loaded: Contract = json.loads((ROOT / "avro" / f"{record}.avsc").read_text())
    return loaded


@cache
def records() -> tuple[str, ...]:
    """Every record's name."""
    return tuple(sorted(path.stem for path in (ROOT / "avro").glob("*.avsc")))


@cache
def landed() -> dict[int, tuple[str, Contract]]:
    """Id -> (record, contract), for every version that ever landed."""
    paths = sorted((ROOT / "versions").glob("*/*.avsc"), key=lambda path: int(path.stem))
    return {int(path.stem): (path.parent.name, json.loads(path.read_text())) for path in paths}


@cache
def current_id(record: str) -> int:
    """The id of the newest landed version of `record`.

    Raises:
        LookupError: the contract as it stands has not landed.
    """
    ids = [i for i, (name, version) in landed().items() if name == record and version == contract(record)]
    if not ids:
        raise LookupError(f"contract {record} has changed and not landed: run python -m schemas.contracts")
    return max(ids)


def incompatibilities(reader: Contract, writer: Contract) -> list[str]:
    """Why `reader` can't read what `writer` wrote; empty when it can. Source: Avro 1.12, schema resolution."""
    result = ReaderWriterCompatibilityChecker().get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    return sorted(result.messages)


def transitive_incompatibilities(record: str) -> list[str]:
    """Faults of `record` against FULL_TRANSITIVE: each landed version must read the current one, and be read by it."""
    now = contract(record)
    faults = []
    for schema_id, (name, version) in landed().items():
        if name == record:
            faults += [f"{record} can't read {schema_id}: {fault}" for fault in incompatibilities(now, version)]
            faults += [f"{schema_id} can't read {record}: {fault}" for fault in incompatibilities(version, now)]
    return faults


def land() -> list[Path]:
    """Gives each new or changed contract an id; the files written.

    Raises:
        ValueError: a changed contract is not compatible with every version before it.
    """
    known = landed()
    free = max(known, default=FIRST_ID - 1) + 1
    written = []
    for record in records():
        if any(name == record and version == contract(record) for name, version in known.values()):
            continue
        if faults := transitive_incompatibilities(record):
            raise ValueError("\n".join(faults))
        path = ROOT / "versions" / record / f"{free}.avsc"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((ROOT / "avro" / f"{record}.avsc").read_text())
        written.append(path)
        free += 1
    return written


if __name__ == "__main__":
    land()
