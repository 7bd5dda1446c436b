"""What all stores say of subjects: when one may be erased, and what is of it."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from holdfast.core.events import Event
from holdfast.errors import SubjectErased, UsageError
from holdfast.stores.vault import is_sealed, sealed_for
from holdfast.subjects import Subject

__all__ = ["check_erasable", "check_open", "check_unused", "is_of", "without"]

_SHOWN_MAX = 5


def is_of(subject: str, payload: bytes) -> bool:
    """Tell whether a payload, as a store keeps it, is a subject's."""
    return is_sealed(payload) and sealed_for(payload) == subject


def check_open(known: Subject | None) -> None:
    """Check that something may be recorded under a subject.

    Raises:
        SubjectErased: it was erased.
    """
    if known is not None and not known.key:
        raise SubjectErased(
            f"subject {known.id!r} was erased by {known.erased}; nothing may be recorded under it"
            " any more. Hint: give the person a new pseudonym.",
            subject=known.id,
        )


def check_erasable(subject: str, known: Subject | None) -> None:
    """Check that a subject is there to be erased.

    Raises:
        UsageError: there is none of that id.
        SubjectErased: it was erased before.
    """
    if known is None:
        raise UsageError(f"there is no subject {subject!r} in this store: nothing was changed.")
    if not known.key:
        raise SubjectErased(
            f"subject {subject!r} was erased by {known.erased} before.", run=known.erased
        )


def check_unused(subject: str, alive: Iterable[tuple[str, str]]) -> None:
    """Check that no run which could go on needs a payload of a subject.

    Args:
        subject: Its id.
        alive: (id, status) of runs that have not ended and hold, or are to get, a payload of it.

    Raises:
        UsageError: there are some.
    """
    runs = sorted(set(alive))
    if runs:
        shown = ", ".join(f"{run!r} ({status})" for run, status in runs[:_SHOWN_MAX])
        more = f" and {len(runs) - _SHOWN_MAX} more" if len(runs) > _SHOWN_MAX else ""
        raise UsageError(
            f"subject {subject!r} cannot be erased while runs are alive that need its payloads:"
            f" {shown}{more}. Nothing was changed. Hint: let them end, or holdfast cancel RUN"
        )


def without(subjects: Container[str], events: Sequence[Event]) -> list[Event]:
    """Return events without the payloads of these subjects."""
    return [replace(e, payload=None) if e.sub in subjects else e for e in events]
