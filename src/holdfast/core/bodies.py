"""The closed union of event bodies: one class per type of event, and its role.

Three roles, which the machine and the runner rest on:

* an **input** drives the agent's coroutine (``step.finished``, ``message.received`` …);
* a **note** records a command that the coroutine issued (``step.started``, ``run.succeeded`` …).
  The notes of an input follow it in the order issued, before the next input;
* a **mark** is the runner's own bookkeeping (another attempt, a doubt, parking) and never reaches
  the coroutine.

Invariant: a body's fields are ASCII-named strings, booleans and integers below 2**53, never a float
and nothing personal: they stand in the leaf for ever.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, TypeAlias

__all__ = [
    "BODIES",
    "BODY_FIELDS",
    "DEFAULT_QUEUE",
    "Body",
    "CancelRequested",
    "ChildFinished",
    "ChildStarted",
    "MessageReceived",
    "MessageSent",
    "PayloadsCollected",
    "QuestionAsked",
    "RunAccepted",
    "RunCancelled",
    "RunCreated",
    "RunDiverged",
    "RunFailed",
    "RunParked",
    "RunSucceeded",
    "StepAbandoned",
    "StepDoubted",
    "StepEmitted",
    "StepFailed",
    "StepFinished",
    "StepResolved",
    "StepStarted",
    "StreamEmitted",
    "SubjectErased",
    "TimerFired",
    "TurnFailed",
    "TurnFinished",
    "TurnStarted",
    "VersionMarked",
]

DEFAULT_QUEUE = "default"

Role: TypeAlias = Literal["input", "note", "mark"]


@dataclass(frozen=True, slots=True)
class RunCreated:
    """A run exists. Payload: the agent's input (plain agents), or null."""

    type: ClassVar[str] = "run.created"
    role: ClassVar[Role] = "mark"
    seed: int
    """Drawn once, below 2**53: the source of the run's ``hf.random()``, ``hf.uuid()`` and retry
    jitter."""
    flags: int = 0
    """Bits that choose the behaviour of this run where a later version of holdfast behaves
    otherwise."""
    parent: str = ""
    parent_key: str = ""
    queue: str = DEFAULT_QUEUE
    """Where it waits for a worker; its place in there does not change."""
    priority: int = 0
    """The larger, the sooner."""
    key: str = ""
    """Whose work it is: limits count, and turns are taken, by it. Empty: nobody's."""
    start_at: int = 0
    """Not before this time (µs); 0 for at once."""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A turn begins.

    Payload: the message, absent in the only turn of a plain agent (its input is the run's).
    """

    type: ClassVar[str] = "turn.started"
    role: ClassVar[Role] = "input"
    turn: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step was asked for: the intent.

    Payload: its arguments. A later attempt is a mark without payload.
    """

    type: ClassVar[str] = "step.started"
    role: ClassVar[Role] = "note"
    key: str
    effect: str
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class StepEmitted:
    """A streaming step produced its n-th part, from 1. Payload: the part."""

    type: ClassVar[str] = "step.emitted"
    role: ClassVar[Role] = "input"
    key: str
    attempt: int
    n: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """The outcome of a step is a value. Payload: the value."""

    type: ClassVar[str] = "step.finished"
    role: ClassVar[Role] = "input"
    key: str
    attempt: int = 1
    via: str = "body"
    """``body``, ``reconcile``, ``person`` or ``adopted`` (taken over after an accepted divergence).
    """


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed. Payload: the error. Only a final failure is the step's outcome."""

    type: ClassVar[str] = "step.failed"
    role: ClassVar[Role] = "input"
    key: str
    attempt: int
    final: bool
    retry_at: int = 0
    """When the next attempt is due (µs), 0 when this one is final or in doubt."""


@dataclass(frozen=True, slots=True)
class StepAbandoned:
    """Nobody waits for this ``read`` step any more (a timeout, a lost race).

    Its body is cancelled.
    """

    type: ClassVar[str] = "step.abandoned"
    role: ClassVar[Role] = "note"
    key: str


@dataclass(frozen=True, slots=True)
class StepDoubted:
    """Whether an attempt acted is unknown. Payload: why, when an error said so."""

    type: ClassVar[str] = "step.doubted"
    role: ClassVar[Role] = "mark"
    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StepResolved:
    """Evidence about a doubt.

    ``happened`` is followed by the outcome; after ``not_done`` may come an attempt.
    """

    type: ClassVar[str] = "step.resolved"
    role: ClassVar[Role] = "mark"
    key: str
    attempt: int
    verdict: str
    """``happened``, ``not_done`` or ``unknown``."""
    by: str
    """``reconcile``, ``drain`` (the body had not begun when the run was given back), or a name."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer is due: the ``timer``-th, from 1, that was set under the event which is its cause.

    Not the turn's: a part of a stream that was cut and is void must not change the count.
    """

    type: ClassVar[str] = "timer.fired"
    role: ClassVar[Role] = "input"
    timer: int


@dataclass(frozen=True, slots=True)
class MessageSent:
    """A message leaves for another run's inbox. Payload: the message."""

    type: ClassVar[str] = "message.sent"
    role: ClassVar[Role] = "note"
    key: str
    to: str
    topic: str
    id: str


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """The waiting call ``key`` takes a message out of the inbox. Payload: the message."""

    type: ClassVar[str] = "message.received"
    role: ClassVar[Role] = "input"
    key: str
    topic: str
    id: str


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The run asks a person.

    Payload: question and JSON schema of the answer, which is a message to ``key``.
    """

    type: ClassVar[str] = "question.asked"
    role: ClassVar[Role] = "note"
    key: str


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """Another agent is called: its run is created with this append. Payload: its input."""

    type: ClassVar[str] = "child.started"
    role: ClassVar[Role] = "note"
    key: str
    child: str
    agent_called: str


@dataclass(frozen=True, slots=True)
class ChildFinished:
    """The child run ended. Payload: its result, or the error when not ``ok``."""

    type: ClassVar[str] = "child.finished"
    role: ClassVar[Role] = "input"
    key: str
    child: str
    ok: bool


@dataclass(frozen=True, slots=True)
class StreamEmitted:
    """The run hands a value to whoever follows its stream; n counts from 1 in the turn.

    Payload: the value.
    """

    type: ClassVar[str] = "stream.emitted"
    role: ClassVar[Role] = "note"
    n: int


@dataclass(frozen=True, slots=True)
class VersionMarked:
    """The turn passed this version guard with the new code."""

    type: ClassVar[str] = "version.marked"
    role: ClassVar[Role] = "note"
    name: str


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants the run to stop; its coroutine is told and may clean up."""

    type: ClassVar[str] = "cancel.requested"
    role: ClassVar[Role] = "input"
    by: str


@dataclass(frozen=True, slots=True)
class RunParked:
    """The run leaves memory until ``wake_at`` (µs; 0 for no time) or a message."""

    type: ClassVar[str] = "run.parked"
    role: ClassVar[Role] = "mark"
    status: str
    """``waiting``, ``in_doubt`` or ``diverged``."""
    wake_at: int = 0
    waits_for: str = ""
    """For people: the topics, steps and children waited for, separated by commas."""


@dataclass(frozen=True, slots=True)
class RunDiverged:
    """The code asked for something else than event ``at_seq`` holds.

    Payload: recorded and requested, with a diff.
    """

    type: ClassVar[str] = "run.diverged"
    role: ClassVar[Role] = "mark"
    at_seq: int


@dataclass(frozen=True, slots=True)
class RunAccepted:
    """An operator accepts the divergence.

    The turn's events from ``from_seq`` to here no longer bind the code.
    """

    type: ClassVar[str] = "run.accepted"
    role: ClassVar[Role] = "mark"
    from_seq: int
    by: str


@dataclass(frozen=True, slots=True)
class SubjectErased:
    """The key of a subject and all payloads under it were destroyed, together with this append.

    It stands in a stream of its own. Payload: basis, who, how many runs and payloads.
    """

    type: ClassVar[str] = "subject.erased"
    role: ClassVar[Role] = "mark"
    subject: str


@dataclass(frozen=True, slots=True)
class PayloadsCollected:
    """From here on, payloads of runs that ended before a time may be gone from the store.

    It stands in a stream of its own, and before the first of them goes. Payload: who.
    """

    type: ClassVar[str] = "payloads.collected"
    role: ClassVar[Role] = "mark"
    before: int
    """µs since the epoch of Unix, not to be compared with anything but a run's last event."""


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """A turn of an agent with state ended. Payload: ``{"reply": …, "state": …}``."""

    type: ClassVar[str] = "turn.finished"
    role: ClassVar[Role] = "note"
    turn: int


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """A turn of an agent with state raised; the state stays as it was. Payload: the error."""

    type: ClassVar[str] = "turn.failed"
    role: ClassVar[Role] = "note"
    turn: int


@dataclass(frozen=True, slots=True)
class RunSucceeded:
    """The run is over. Payload: its result."""

    type: ClassVar[str] = "run.succeeded"
    role: ClassVar[Role] = "note"


@dataclass(frozen=True, slots=True)
class RunFailed:
    """The run is over. Payload: the error."""

    type: ClassVar[str] = "run.failed"
    role: ClassVar[Role] = "note"


@dataclass(frozen=True, slots=True)
class RunCancelled:
    """The run is over: it was cancelled and has cleaned up."""

    type: ClassVar[str] = "run.cancelled"
    role: ClassVar[Role] = "note"


Body: TypeAlias = (
    RunCreated
    | TurnStarted
    | StepStarted
    | StepEmitted
    | StepFinished
    | StepFailed
    | StepAbandoned
    | StepDoubted
    | StepResolved
    | TimerFired
    | MessageSent
    | MessageReceived
    | QuestionAsked
    | ChildStarted
    | ChildFinished
    | StreamEmitted
    | VersionMarked
    | CancelRequested
    | RunParked
    | RunDiverged
    | RunAccepted
    | SubjectErased
    | PayloadsCollected
    | TurnFinished
    | TurnFailed
    | RunSucceeded
    | RunFailed
    | RunCancelled
)

BODIES: dict[str, type[Body]] = {body.type: body for body in Body.__args__}
BODY_FIELDS: dict[str, tuple[str, ...]] = {
    body.type: tuple(field.name for field in fields(body)) for body in Body.__args__
}
