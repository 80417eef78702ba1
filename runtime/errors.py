"""Errors, and what a worker does about each.

LoomError
├── SettingsError      ends the start; says every fault at once
├── InvalidInput       the record goes to the dead letters
│   ├── KeyDestroyed   its owner was forgotten
│   └── IntegrityError bytes are not what their hash says
├── Transient          a dependency fails; retried with jitter while the partition waits
└── Fenced             a newer owner of the partition exists; the worker starts over
"""

from __future__ import annotations


class LoomError(Exception):
    """Everything that loraloom raises on purpose."""


class SettingsError(LoomError):
    """A setting, a project file or the machine does not allow a start."""


class InvalidInput(LoomError):
    """A record that can never be processed as it is."""


class KeyDestroyed(InvalidInput):
    """The text's owner was forgotten: its key is gone."""


class IntegrityError(InvalidInput):
    """Bytes are not what their hash or tag says."""


class Transient(LoomError):
    """A dependency failed; the same call may succeed later."""


class Fenced(LoomError):
    """A transaction ended in a way that only a fresh start from the committed offsets makes good."""
