"""How runs begin: the first event and row of a run, started from outside or by a parent."""

from collections.abc import Sequence

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.limits import SALT_BYTES
from holdfast.core.state import fold
from holdfast.ports import Entropy, NewRun

__all__ = ["ERASED_RUNS", "OPERATOR", "child_run", "erasure_run", "new_run"]

ERASED_RUNS = "$erased/"
"""How the ids of the runs begin that tell of erasures; the subject follows. No user's may."""
OPERATOR = "agent:$operator"
"""Whose runs they are: acts of a person, which no code carries on."""


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
) -> NewRun:
    """Return a run that is to be created at ``now`` (µs), with a seed drawn from ``entropy``.

    ``sub`` is on whose behalf it is, empty for nobody's.
    """
    seed = int.from_bytes(entropy.bytes(8), "big") >> 11
    event = ev.seal(
        ev.RunCreated(seed, 0, parent, parent_key),
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
    """Return the run that tells of an erasure: a stream of its own, over as it begins.

    Its id comes from the subject, which is erased once. Nothing in it is on behalf of the subject.

    Args:
        subject: Who is erased.
        said: Basis and approver, as JSON.
        now: µs since the epoch of Unix.
        entropy: Where salts come from.
    """
    bodies: list[tuple[ev.Body, bytes]] = [
        (ev.RunCreated(0), b"null"),
        (ev.SubjectErased(subject), said),
        (ev.RunSucceeded(), b"null"),
    ]
    events: list[Event] = []
    for seq, (body, payload) in enumerate(bodies, 1):
        event = ev.seal(
            body,
            run=f"{ERASED_RUNS}{subject}",
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
    body: ev.ChildStarted, payload: bytes, event: Event, *, clock_now: int, entropy: Entropy
) -> NewRun:
    """Return the run that a ``child.started`` creates."""
    return new_run(
        body.child,
        body.agent_called,
        payload,
        now=clock_now,
        entropy=entropy,
        parent=event.run,
        parent_key=body.key,
        cause=((event.run, event.seq),),
        sub=event.sub,
    )
