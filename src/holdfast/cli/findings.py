"""What `holdfast doctor` finds, one line each; and how it words what stores of all kinds have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.cli.text import ago, clock

__all__ = ["Finding", "last_event", "log_signed", "megabytes", "runs_by_status"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    value: str
    verdict: Literal["ok", "note", "broken"] = "ok"
    hint: str = ""


def runs_by_status(counts: Mapping[str, int]) -> Finding:
    """Return how many runs have which status, and what to do about those that are stuck."""
    said = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.items())
    stuck = counts.get("in_doubt", 0) + counts.get("diverged", 0)
    hint = "holdfast doubts" if counts.get("in_doubt") else "holdfast ls --status diverged"
    return Finding("runs", said or "none", "note" if stuck else "ok", hint if stuck else "")


def last_event(last: int, now: int, hint: str) -> Iterator[Finding]:
    """Yield when the last event was (µs, 0 for never), and ``hint`` if that is yet to come."""
    if last > now + 1_000_000:
        said = f"{clock(last)}, {ago(last - now)} in the future"
        yield Finding("last event", said, "broken", hint)
    elif last:
        yield Finding("last event", f"{ago(now - last)} ago")


def log_signed(events: int, signed: int | None) -> Finding:
    """Return how long the log is, and up to where it is signed; None for not at all."""
    said = f"{events} events" + (", not signed" if signed is None else f", signed up to {signed}")
    if signed is not None and signed != events:
        return Finding("log", said, "broken", "holdfast verify")
    return Finding("log", said)


def megabytes(n: int) -> str:
    """Return a number of bytes for people."""
    if n < 1024 * 1024:
        return f"{n / 1024:.0f} KB"
    return f"{n / 1024**3:.1f} GB" if n >= 1024**3 else f"{n / 1024**2:.1f} MB"
