"""The closed union of events, their leaf bytes, and how a leaf is read back.

An event is an envelope (run, seq, time, epoch, cause …) around a *body*, one class per type. Its leaf is the
one form that counts: a UTF-8 JSON object on one line, keys sorted, ending in a newline, never
re-serialised once written. The payload stands beside the leaf; the leaf commits to it by
``HMAC-SHA256(salt, payload)``, so that erasing payload and salt leaves the leaf verifiable.

::

    {"agent":"agent:triage","at":1790000000000000,"attempt":1,"cause":[3],"effect":"once","epoch":1,
     "key":"refund#1","payload":"hs256:…","prev":"…","run":"ticket-7","seq":4,"type":"step.started","v":1}

Three roles, which the machine and the runner rest on:

* an **input** drives the agent's coroutine (``step.finished``, ``message.received``, ``timer.fired`` …);
* a **note** records a command that the coroutine issued (``step.started``, ``message.sent``, ``run.succeeded`` …).
  The notes of an input follow it in the order issued, before the next input;
* a **mark** is the runner's own bookkeeping (another attempt, a doubt, parking) and never reaches the coroutine.

Invariants: seq counts from 1 without a gap; ``prev`` is the leaf hash of the run's previous event; epochs never
fall; a body's fields are ASCII-named strings, booleans and integers below 2**53, never a float and nothing personal.
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeAlias

from holdfast.core.limits import LEAF_BYTES_MAX
from holdfast.errors import StoreRefused, UsageError

__all__ = [
    "BODIES",
    "GENESIS",
    "Body",
    "CancelRequested",
    "Cause",
    "ChildFinished",
    "ChildStarted",
    "Event",
    "MessageReceived",
    "MessageSent",
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
    "TimerFired",
    "TurnFailed",
    "TurnFinished",
    "TurnStarted",
    "VersionMarked",
    "commitment",
    "decode_leaf",
    "leaf_hash",
    "open_leaf",
    "seal",
]

GENESIS = "0" * 64
"""``prev`` of a run's first event."""

Cause: TypeAlias = int | tuple[str, int]
"""A seq of the same run, or (run, seq) of another."""

Role: TypeAlias = Literal["input", "note", "mark"]


@dataclass(frozen=True, slots=True)
class RunCreated:
    """A run exists. Payload: the agent's input (plain agents), or null."""

    type: ClassVar[str] = "run.created"
    role: ClassVar[Role] = "mark"
    seed: int
    """Drawn once, below 2**53: the source of the run's ``hf.random()``, ``hf.uuid()`` and retry jitter."""
    flags: int = 0
    """Bits that choose the behaviour of this run where a later version of holdfast behaves otherwise."""
    parent: str = ""
    parent_key: str = ""


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A turn begins. Payload: the message, absent in the only turn of a plain agent (its input is the run's)."""

    type: ClassVar[str] = "turn.started"
    role: ClassVar[Role] = "input"
    turn: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step was asked for: the intent. Payload: its arguments. A later attempt is a mark without payload."""

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
    """``body``, ``reconcile``, ``person`` or ``adopted`` (taken over after an accepted divergence)."""


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
    """Nobody waits for this ``read`` step any more (a timeout, a lost race); its body is cancelled."""

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
    """Evidence about a doubt. ``happened`` is followed by the outcome; after ``not_done`` may come an attempt."""

    type: ClassVar[str] = "step.resolved"
    role: ClassVar[Role] = "mark"
    key: str
    attempt: int
    verdict: str
    """``happened``, ``not_done`` or ``unknown``."""
    by: str
    """``reconcile``, or who said so."""


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The turn's ``timer``-th timer, from 1 in the order they were set, is due."""

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
    """The run asks a person. Payload: question and JSON schema of the answer, which is a message to ``key``."""

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
    """The run hands a value to whoever follows its stream; n counts from 1 in the turn. Payload: the value."""

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
    """The code asked for something else than event ``at_seq`` holds. Payload: recorded and requested, with a diff."""

    type: ClassVar[str] = "run.diverged"
    role: ClassVar[Role] = "mark"
    at_seq: int


@dataclass(frozen=True, slots=True)
class RunAccepted:
    """An operator accepts the divergence: the turn's events from ``from_seq`` to here no longer bind the code."""

    type: ClassVar[str] = "run.accepted"
    role: ClassVar[Role] = "mark"
    from_seq: int
    by: str


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
    | TurnFinished
    | TurnFailed
    | RunSucceeded
    | RunFailed
    | RunCancelled
)

BODIES: dict[str, type[Body]] = {body.type: body for body in Body.__args__}
_FIELDS: dict[str, tuple[str, ...]] = {
    body.type: tuple(field.name for field in fields(body)) for body in Body.__args__
}

UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""(type, v) of an older form → the function that turns its leaf object into that of v + 1."""

_VERSION = 1
_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


@dataclass(slots=True)
class Event:
    """One fact of a run: the leaf as stored, what it says, and the payload beside it.

    ``payload`` and ``salt`` are None when the event has no payload (``committed`` is empty) or it was erased.
    """

    run: str
    seq: int
    at: int
    """The recorded clock: µs since the epoch of Unix."""
    epoch: int
    agent: str
    """The agent's URI, ``agent:NAME``."""
    cause: tuple[Cause, ...]
    body: Body
    prev: str
    leaf: bytes
    hash: str
    """The leaf hash, 64 hex digits: the next event's ``prev``."""
    committed: str = ""
    """The payload's commitment, ``hs256:…``."""
    payload: bytes | None = None
    salt: bytes | None = None


def leaf_hash(leaf: bytes) -> str:
    """Return ``SHA-256(0x00 ‖ leaf)`` as 64 hex digits (RFC 6962, section 2.1)."""
    return hashlib.sha256(b"\x00" + leaf).hexdigest()


def commitment(salt: bytes, payload: bytes) -> str:
    """Return what a leaf says of a payload: ``hs256:`` and the HMAC-SHA256 under a salt of 32 bytes, in hex."""
    return "hs256:" + hmac.digest(salt, payload, "sha256").hex()


def seal(
    body: Body,
    *,
    run: str,
    seq: int,
    prev: str,
    at: int,
    epoch: int,
    agent: str,
    cause: tuple[Cause, ...],
    payload: bytes | None = None,
    salt: bytes | None = None,
) -> Event:
    """Write an event's leaf and return the event.

    Raises:
        UsageError: a name holds a lone surrogate, or the leaf is over LEAF_BYTES_MAX.
    """
    facts: dict[str, Any] = {name: getattr(body, name) for name in _FIELDS[body.type]}
    facts["agent"] = agent
    facts["at"] = at
    facts["cause"] = cause
    facts["epoch"] = epoch
    committed = ""
    if payload is not None:
        assert salt is not None
        committed = commitment(salt, payload)
        facts["payload"] = committed
    facts["prev"] = prev
    facts["run"] = run
    facts["seq"] = seq
    facts["type"] = body.type
    facts["v"] = _VERSION
    try:
        leaf = (_encode(facts) + "\n").encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"run {run!r}: a name in event {body.type} is not valid Unicode: {error.object!r}"
        ) from None
    if len(leaf) > LEAF_BYTES_MAX:
        raise UsageError(
            f"run {run!r}: the leaf of event {body.type} has {len(leaf)} bytes; at most"
            f" {LEAF_BYTES_MAX} are possible. Hint: shorten ids, topics and step names."
        )
    return Event(
        run, seq, at, epoch, agent, cause, body, prev, leaf, leaf_hash(leaf), committed, payload, salt
    )


def decode_leaf(leaf: bytes) -> dict[str, Any]:
    """Return a leaf's facts, brought up to today's form.

    Raises:
        StoreRefused: the bytes are not a leaf, or of a type or version that this release does not know.
    """
    try:
        facts: dict[str, Any] = json.loads(leaf)
        kind, version = facts["type"], facts["v"]
        while version != _VERSION and (upcast := UPCASTS.get((kind, version))):
            facts = upcast(facts)
            kind, version = facts["type"], facts["v"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreRefused(f"not an event's leaf ({error}): {leaf[:80]!r}") from None
    if kind not in BODIES or version != _VERSION:
        raise StoreRefused(
            f"event type {kind!r} version {version!r} is unknown to this release; it was written by a newer"
            " one. Hint: upgrade holdfast."
        )
    return facts


def open_leaf(leaf: bytes, *, payload: bytes | None = None, salt: bytes | None = None) -> Event:
    """Read a stored leaf back into an event.

    Raises:
        StoreRefused: as ``decode_leaf`` does, or a fact is missing.
    """
    facts = decode_leaf(leaf)
    kind = facts["type"]
    try:
        body: Body = BODIES[kind](**{name: facts[name] for name in _FIELDS[kind]})
        return Event(
            facts["run"],
            facts["seq"],
            facts["at"],
            facts["epoch"],
            facts["agent"],
            tuple(c if isinstance(c, int) else (c[0], c[1]) for c in facts["cause"]),
            body,
            facts["prev"],
            leaf,
            leaf_hash(leaf),
            facts.get("payload", ""),
            payload,
            salt,
        )
    except (KeyError, TypeError, IndexError) as error:
        raise StoreRefused(f"event {kind!r} lacks {error}: {leaf[:120]!r}") from None
