"""What a run is after some prefix of its stream: ``apply`` one event, ``fold`` many.

``RunState`` is computed from events alone. The part that must outlive a turn is ``RunRow``, the
projection a store keeps beside the stream and updates in the same transaction; everything else
(open steps, doubts) belongs to the current turn, so a worker rebuilds it from the row and the
events since ``turn_seq``.

Invariant: for every prefix, ``row(fold(prefix))`` equals the row stored with it; fsck checks it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from holdfast.core import events as ev
from holdfast.core.events import Event
from holdfast.errors import StoreRefused

__all__ = [
    "ENDED",
    "OpenStep",
    "RunRow",
    "RunState",
    "apply",
    "check_row",
    "fold",
    "restore",
    "state_before",
]

ENDED = frozenset({"succeeded", "failed", "cancelled"})


class RunRow(NamedTuple):
    """The projection of one run. Times are µs since the epoch of Unix; 0 means never."""

    run: str
    agent: str
    """The agent's URI, ``agent:NAME``."""
    status: str
    seq: int
    """The last event's seq: the length of the stream."""
    head: str
    """The last event's leaf hash, 64 hex digits."""
    turn: int
    """The current or last turn, from 1; 0 before the first."""
    turn_seq: int
    """The seq of its ``turn.started``, 0 before the first."""
    state_seq: int
    """The seq of the last ``turn.finished``, which holds the durable state; 0 for none."""
    wake_at: int
    created_at: int
    updated_at: int
    seed: int
    flags: int
    parent: str
    parent_key: str
    queue: str
    priority: int
    key: str


@dataclass(slots=True)
class OpenStep:
    """A step without an outcome.

    ``stage`` is ``started`` (an attempt may be under way), ``failed`` (another attempt is due at
    ``retry_at``), ``doubted`` or ``not_done`` (evidence allows another attempt).
    """

    key: str
    effect: str
    seq: int
    """The seq of the intent, which holds the arguments."""
    attempt: int
    stage: str = "started"
    failures: int = 0
    """Attempts that failed; lost workers do not count."""
    retry_at: int = 0
    doubt_seq: int = 0
    attempt_seq: int = 0
    """The seq of the latest attempt's ``step.started``: what its outcome is caused by."""
    failed_seq: int = 0
    """The seq of the latest failure: what the next attempt is caused by."""


@dataclass(slots=True)
class RunState:
    """A run after some prefix of its stream."""

    run: str = ""
    agent: str = ""
    status: str = ""
    seq: int = 0
    head: str = ev.GENESIS
    epoch: int = 0
    turn: int = 0
    turn_seq: int = 0
    state_seq: int = 0
    wake_at: int = 0
    created_at: int = 0
    updated_at: int = 0
    seed: int = 0
    flags: int = 0
    parent: str = ""
    parent_key: str = ""
    sub: str = ""
    """On whose behalf the run is; its row does not say, its first event does."""
    queue: str = ""
    priority: int = 0
    key: str = ""
    open_steps: dict[str, OpenStep] = field(default_factory=dict)
    effects_done: list[str] = field(default_factory=list)
    """Keys of the turn's steps, ``read`` ones excepted, that have finished, in that order."""
    diverged_seq: int = 0
    """The recorded event that the code did not match, while the run is diverged."""
    cancelling: bool = False

    def row(self) -> RunRow:
        """Return the part that a store keeps."""
        return RunRow(
            self.run,
            self.agent,
            self.status,
            self.seq,
            self.head,
            self.turn,
            self.turn_seq,
            self.state_seq,
            self.wake_at,
            self.created_at,
            self.updated_at,
            self.seed,
            self.flags,
            self.parent,
            self.parent_key,
            self.queue,
            self.priority,
            self.key,
        )


def apply(state: RunState, event: Event) -> None:
    """Bring ``state`` forward by one event, in place.

    Raises:
        StoreRefused: the event is not the next one: a gap, another run, a broken ``prev`` or a
        falling epoch.
    """
    if event.seq != state.seq + 1 or event.prev != state.head or event.epoch < state.epoch:
        raise StoreRefused(
            f"run {event.run!r}: event {event.seq} (epoch {event.epoch}, prev"
            f" {event.prev[:12]}…) cannot follow"
            f" event {state.seq} (epoch {state.epoch}, leaf hash {state.head[:12]}…). Hint:"
            " holdfast fsck"
        )
    state.seq, state.head, state.epoch = event.seq, event.hash, event.epoch
    state.updated_at = event.at
    body = event.body
    if body.role != "mark":
        state.status = "running"
        state.wake_at = 0
        state.diverged_seq = 0
    _APPLY.get(body.type, _nothing)(state, event, body)


def fold(events: Iterable[Event], state: RunState | None = None) -> RunState:
    """Return the state after ``events``, from nothing or from ``state``, brought forward."""
    state = state or RunState()
    for event in events:
        apply(state, event)
    return state


def restore(row: RunRow, turn_events: list[Event], sub: str = "") -> RunState:
    """Return the state of a run from its row and the events since the row's ``turn_seq``.

    Args:
        row: The row.
        turn_events: The events, at least one.
        sub: On whose behalf the run is.

    Raises:
        StoreRefused: the row is not what those events fold to.
    """
    state = fold(turn_events, state_before(row, turn_events[0], sub))
    check_row(row, state)
    return state


def state_before(row: RunRow, first: Event, sub: str = "") -> RunState:
    """Return what is known of a run before ``first``, the first event of its row's turn."""
    return RunState(
        run=row.run,
        agent=row.agent,
        status="running",
        seq=first.seq - 1,
        head=first.prev,
        turn=row.turn,
        turn_seq=row.turn_seq,
        state_seq=row.state_seq,
        created_at=row.created_at,
        seed=row.seed,
        flags=row.flags,
        parent=row.parent,
        parent_key=row.parent_key,
        sub=sub,
        queue=row.queue,
        priority=row.priority,
        key=row.key,
    )


def check_row(row: RunRow, state: RunState) -> None:
    """Check that a stored row is what the events fold to.

    Raises:
        StoreRefused: it is not.
    """
    if state.row() != row:
        raise StoreRefused(
            f"run {row.run!r}: the stored row {row} is not the fold of its events {state.row()}."
            " Hint: holdfast fsck"
        )


def _nothing(state: RunState, _event: Event, _body: ev.Body) -> None:
    pass


def _created(state: RunState, event: Event, body: ev.RunCreated) -> None:
    state.run, state.agent, state.created_at = event.run, event.agent, event.at
    state.seed, state.flags = body.seed, body.flags
    state.parent, state.parent_key = body.parent, body.parent_key
    state.sub = event.sub
    state.queue, state.priority, state.key = body.queue, body.priority, body.key
    late = body.start_at > event.at
    state.status, state.wake_at = ("waiting", body.start_at) if late else ("pending", 0)


def _turn_started(state: RunState, event: Event, body: ev.TurnStarted) -> None:
    state.turn, state.turn_seq = body.turn, event.seq
    state.open_steps = {}
    state.effects_done = []
    state.cancelling = False
    state.diverged_seq = 0


def _step_started(state: RunState, event: Event, body: ev.StepStarted) -> None:
    if body.attempt == 1:
        state.open_steps[body.key] = OpenStep(body.key, body.effect, event.seq, 1)
    step = state.open_steps[body.key]
    step.attempt, step.stage, step.retry_at, step.attempt_seq = (
        body.attempt,
        "started",
        0,
        event.seq,
    )


def _step_finished(state: RunState, _event: Event, body: ev.StepFinished) -> None:
    step = state.open_steps.pop(body.key, None)
    if step and step.effect != "read":
        state.effects_done.append(body.key)


def _step_failed(state: RunState, event: Event, body: ev.StepFailed) -> None:
    if body.final:
        state.open_steps.pop(body.key, None)
        return
    step = state.open_steps[body.key]
    step.stage, step.retry_at, step.failed_seq = "failed", body.retry_at, event.seq
    step.failures += 1


def _step_abandoned(state: RunState, _event: Event, body: ev.StepAbandoned) -> None:
    state.open_steps.pop(body.key, None)


def _step_doubted(state: RunState, event: Event, body: ev.StepDoubted) -> None:
    step = state.open_steps[body.key]
    step.stage, step.doubt_seq = "doubted", event.seq


def _step_resolved(state: RunState, _event: Event, body: ev.StepResolved) -> None:
    if body.verdict != "unknown":
        # The run can go on, even if whoever recorded this was drained before it could.
        state.status, state.wake_at = "running", 0
    if body.verdict == "not_done":
        state.open_steps[body.key].stage = "not_done"


def _parked(state: RunState, _event: Event, body: ev.RunParked) -> None:
    state.status, state.wake_at = body.status, body.wake_at


def _diverged(state: RunState, _event: Event, body: ev.RunDiverged) -> None:
    state.diverged_seq = body.at_seq


def _accepted(state: RunState, _event: Event, body: ev.RunAccepted) -> None:
    state.diverged_seq = 0
    state.status = "running"
    state.wake_at = 0
    state.open_steps = {k: s for k, s in state.open_steps.items() if s.seq < body.from_seq}


def _cancel_requested(state: RunState, _event: Event, _body: ev.CancelRequested) -> None:
    state.cancelling = True


def _turn_finished(state: RunState, event: Event, _body: ev.TurnFinished) -> None:
    state.status, state.state_seq = "idle", event.seq
    state.open_steps = {}


def _turn_failed(state: RunState, _event: Event, _body: ev.TurnFailed) -> None:
    state.status = "idle"
    state.open_steps = {}


def _ended(state: RunState, _event: Event, body: ev.Body) -> None:
    state.status = body.type.removeprefix("run.")
    state.open_steps = {}


_APPLY: dict[str, Callable[[RunState, Event, Any], None]] = {
    "run.created": _created,
    "turn.started": _turn_started,
    "step.started": _step_started,
    "step.finished": _step_finished,
    "step.failed": _step_failed,
    "step.abandoned": _step_abandoned,
    "step.doubted": _step_doubted,
    "step.resolved": _step_resolved,
    "run.parked": _parked,
    "run.diverged": _diverged,
    "run.accepted": _accepted,
    "cancel.requested": _cancel_requested,
    "turn.finished": _turn_finished,
    "turn.failed": _turn_failed,
    "run.succeeded": _ended,
    "run.failed": _ended,
    "run.cancelled": _ended,
}
