"""Subjects, the persons on whose behalf runs are, as stores know them; beside ``ports.py``."""

from dataclasses import dataclass

__all__ = ["Erasure", "Subject"]


@dataclass(frozen=True, slots=True)
class Subject:
    """A person on whose behalf runs are, by a pseudonymous id, and the key of their payloads."""

    id: str
    key: bytes
    """The subject's data key as the vault has wrapped it, empty once it was destroyed."""
    erased: str = ""
    """The run that tells of its destruction, empty while the key is there."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What the destruction of a subject came to."""

    runs: int
    payloads: int
    messages: int
    """Unread ones, to runs that had ended or never were."""
    scrubbed: bool
    """Whether no copy of the key is left beside the store's tables; if not, the next open tries."""
