"""How runs begin: the first event and row of a run, started from outside or by a parent."""

from collections.abc import Sequence

from holdfast.core import events as ev
from holdfast.core.events import Cause, Event
from holdfast.core.limits import SALT_BYTES
from holdfast.core.state import fold
from holdfast.ports import Entropy, NewRun

__all__ = ["child_run", "new_run"]


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
) -> NewRun:
    """Return a run that is to be created at ``now`` (µs), with a seed drawn from ``entropy``."""
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
    )
    return NewRun(fold([event]).row(), [event])


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
    )
