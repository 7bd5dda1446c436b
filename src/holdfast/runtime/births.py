"""How runs begin: the first event and row of a run, started from outside or by a parent."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.limits import (
    PRIORITY_MAX,
    QUEUE_KEY_CHARS_MAX,
    QUEUE_NAME_CHARS_MAX,
    SALT_BYTES,
    check_name,
)
from holdfast.core.state import fold
from holdfast.errors import UsageError
from holdfast.ports import Entropy, NewRun
from holdfast.retention import COLLECTED_RUNS

__all__ = [
    "ANYWHERE",
    "ERASED_RUNS",
    "OPERATOR",
    "Place",
    "child_run",
    "collection_run",
    "erasure_run",
    "new_run",
]

ERASED_RUNS = "$erased/"
"""How the ids of the runs begin that tell of erasures; the subject follows. No user's may."""
OPERATOR = "agent:$operator"
"""Whose runs they are: acts of a person, which no code carries on."""
DELAY_S_MAX = 100 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands in line for a worker.

    Attributes:
        queue: The queue; empty for its agent's.
        priority: The larger, the sooner; from -1000 to 1000.
        key: Whose work it is: limits per key count it, and keys take turns. Empty: nobody's.
        start_at: Not before this time, which must say its zone.
        delay_s: Not before so many seconds from now, or from ``start_at``.
    """

    queue: str = ""
    priority: int = 0
    key: str = ""
    start_at: dt.datetime | None = None
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        check_name("queue", self.queue, QUEUE_NAME_CHARS_MAX, empty=True)
        check_name("queue key", self.key, QUEUE_KEY_CHARS_MAX, empty=True)
        if not isinstance(self.priority, int) or abs(self.priority) > PRIORITY_MAX:
            raise UsageError(
                f"priority {self.priority!r}: expected an integer from -{PRIORITY_MAX} to"
                f" {PRIORITY_MAX}"
            )
        if self.start_at is not None and self.start_at.tzinfo is None:
            raise UsageError(
                f"start_at {self.start_at} has no time zone. Hint: start_at.astimezone()"
            )
        if not 0 <= self.delay_s <= DELAY_S_MAX:
            raise UsageError(f"delay_s {self.delay_s}: expected 0 to {DELAY_S_MAX:g} seconds")

    def starts_at(self, now: int) -> int:
        """Return the start that this comes to at ``now``, in µs; 0 for at once."""
        if self.start_at is None and not self.delay_s:
            return 0
        begin = now if self.start_at is None else round(self.start_at.timestamp() * 1e6)
        return max(begin, 0) + round(self.delay_s * 1e6)


ANYWHERE = Place()


def new_run(
    run: str,
    agent: str,
    payload: bytes,
    *,
    now: int,
    entropy: Entropy,
    parent: str = "",
    parent_key: str = "",
    cause: Sequence[Cause] = (),
    sub: str = "",
    place: Place = ANYWHERE,
) -> NewRun:
    """Return a run that is to be created at ``now`` (µs), with a seed drawn from ``entropy``.

    ``sub`` is on whose behalf it is, empty for nobody's.
    """
    seed = int.from_bytes(entropy.bytes(8), "big") >> 11
    event = ev.seal(
        ev.RunCreated(
            seed,
            0,
            parent,
            parent_key,
            place.queue or ev.DEFAULT_QUEUE,
            place.priority,
            place.key,
            place.starts_at(now),
        ),
        run=run,
        seq=1,
        prev=ev.GENESIS,
        at=now,
        epoch=0,
        agent=agent,
        cause=tuple(cause),
        payload=payload,
        salt=entropy.bytes(SALT_BYTES),
        sub=sub,
    )
    return NewRun(fold([event]).row(), [event])


def erasure_run(subject: str, said: bytes, *, now: int, entropy: Entropy) -> NewRun:
    """Return the run that tells of an erasure; nothing in it is on behalf of the subject.

    Args:
        subject: Who is erased, which happens once; the run's id comes from it.
        said: Basis and approver, as JSON.
        now: µs since the epoch of Unix.
        entropy: Where salts come from.
    """
    told = ev.SubjectErased(subject)
    return _told(f"{ERASED_RUNS}{subject}", told, said, now=now, entropy=entropy)


def collection_run(before: int, said: bytes, *, now: int, entropy: Entropy) -> NewRun:
    """Return the run that tells that payloads of runs which ended ``before`` a time may be gone.

    Args:
        before: µs since the epoch of Unix; the run's id comes from it.
        said: Who says so, as JSON.
        now: µs since the epoch of Unix.
        entropy: Where salts come from.
    """
    told = ev.PayloadsCollected(before)
    return _told(f"{COLLECTED_RUNS}{before}", told, said, now=now, entropy=entropy)


def _told(run: str, told: ev.Body, said: bytes, *, now: int, entropy: Entropy) -> NewRun:
    """Return an operator's run: a stream of its own, over as it begins."""
    bodies: list[tuple[ev.Body, bytes]] = [
        (ev.RunCreated(0), b"null"),
        (told, said),
        (ev.RunSucceeded(), b"null"),
    ]
    events: list[Event] = []
    for seq, (body, payload) in enumerate(bodies, 1):
        event = ev.seal(
            body,
            run=run,
            seq=seq,
            prev=events[-1].hash if events else ev.GENESIS,
            at=now,
            epoch=0,
            agent=OPERATOR,
            cause=(seq - 1,) if events else (),
            payload=payload,
            salt=entropy.bytes(SALT_BYTES),
        )
        events.append(event)
    return NewRun(fold(events).row(), events)


def child_run(
    body: ev.ChildStarted,
    payload: bytes,
    event: Event,
    *,
    entropy: Entropy,
    place: Place = ANYWHERE,
) -> NewRun:
    """Return the run that a ``child.started`` creates."""
    return new_run(
        body.child,
        body.agent_called,
        payload,
        now=event.at,
        entropy=entropy,
        parent=event.run,
        parent_key=body.key,
        cause=((event.run, event.seq),),
        sub=event.sub,
        place=place,
    )
