"""Events: the envelope around a body, its leaf bytes, and how a leaf is read back.

An event is an envelope (run, seq, time, epoch, cause …) around a *body*, one class per type. Its
leaf is the one form that counts: a UTF-8 JSON object on one line, keys sorted, ending in a newline,
never re-serialised once written. The payload stands beside the leaf; the leaf commits to it by
``HMAC-SHA256(salt, payload)``, so that erasing payload and salt leaves the leaf verifiable.

::

    {"agent":"agent:triage","at":1790000000000000,"attempt":1,"cause":[3],"effect":"once","epoch":1,
     "key":"refund#1","payload":"hs256:…","prev":"…","run":"ticket-7","seq":4,"type":"step.started","v":1}

Invariants: seq counts from 1 without a gap; ``prev`` is the leaf hash of the run's previous event;
epochs never fall; a body's fields are ASCII-named strings, booleans and integers below 2**53, never
a float and nothing personal.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from holdfast.core.bodies import (
    BODIES,
    BODY_FIELDS,
    DEFAULT_QUEUE,
    Body,
    CancelRequested,
    ChildFinished,
    ChildStarted,
    MessageReceived,
    MessageSent,
    PayloadsCollected,
    QuestionAsked,
    RunAccepted,
    RunCancelled,
    RunCreated,
    RunDiverged,
    RunFailed,
    RunParked,
    RunSucceeded,
    StepAbandoned,
    StepDoubted,
    StepEmitted,
    StepFailed,
    StepFinished,
    StepResolved,
    StepStarted,
    StreamEmitted,
    SubjectErased,
    TimerFired,
    TurnFailed,
    TurnFinished,
    TurnStarted,
    VersionMarked,
)
from holdfast.core.limits import LEAF_BYTES_MAX, SALT_BYTES
from holdfast.errors import StoreRefused, UsageError

__all__ = [
    "BODIES",
    "DEFAULT_QUEUE",
    "GENESIS",
    "Body",
    "CancelRequested",
    "Cause",
    "ChildFinished",
    "ChildStarted",
    "Event",
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


def _queued(facts: dict[str, Any]) -> dict[str, Any]:
    """Runs of the first version stood in the one queue that there was."""
    place = {"queue": DEFAULT_QUEUE, "priority": 0, "key": "", "start_at": 0}
    return facts | place | {"v": 2}


UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("run.created", 1): _queued
}
"""(type, v) of an older form → the function that turns its leaf object into that of v + 1."""

_VERSIONS = {**dict.fromkeys(BODIES, 1), "run.created": 2}
"""Type → the version of its leaf that is written."""
_sha256 = hashlib.sha256
_BLOCK_BYTES = 64
"""How much SHA-256 takes at a time."""
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))
_quoted = json.encoder.encode_basestring
_encode = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, sort_keys=True, separators=(",", ":")
).encode


_ENVELOPE = {
    "agent": "%s",
    "at": "%d",
    "cause": "%s",
    "epoch": "%d",
    "payload": '"%s"',
    "prev": '"%s"',
    "run": "%s",
    "seq": "%d",
    "sub": "%s",
}
_FORMATS: dict[Any, tuple[str, str]] = {
    str: ("%s", "quoted(body.{})"),
    int: ("%d", "body.{}"),
    bool: ("%s", "('true' if body.{} else 'false')"),
}


@functools.cache
def _form(kind: str, payload: bool, sub: bool) -> Callable[..., str]:  # noqa: FBT001 - a cache's key
    """Return a function of the envelope's facts and the body that writes a type's leaf.

    It is made of source, as dataclasses make theirs: what comes out is what ``json`` writes with
    sorted keys, in a fifth of its time.
    """
    facts = {name: (form, name) for name, form in _ENVELOPE.items()}
    for field in fields(BODIES[kind]):
        form, source = _FORMATS[field.type]
        facts[field.name] = (form, source.format(field.name))
    for name, given in (("payload", payload), ("sub", sub)):
        if not given:
            del facts[name]
    text = {name: f'"{name}":{form}' for name, (form, _) in facts.items()}
    text |= {"type": f'"type":"{kind}"', "v": f'"v":{_VERSIONS[kind]}'}
    template = "{" + ",".join(text[name] for name in sorted(text)) + "}\n"
    values = ", ".join(facts[name][1] for name in sorted(facts))
    source = f"lambda {', '.join(_ENVELOPE)}, body: {template!r} % ({values},)"
    writes: Callable[..., str] = eval(source, {"quoted": _quoted})  # noqa: S307 - our own source
    return writes


@dataclass(slots=True)
class Event:
    """One fact of a run: the leaf as stored, what it says, and the payload beside it.

    ``payload`` and ``salt`` are None when the event has no payload (``committed`` is empty), or it
    is not to be had (``withheld``).
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
    sub: str = ""
    """On whose behalf: the pseudonymous id of the person that the payload is about, or empty."""
    sealed: bool = False
    """Whether the payload is there and cannot be read: the key of ``sub`` is not at hand."""
    collected: bool = False
    """Whether the payload is gone although ``sub`` was not erased."""

    @property
    def withheld(self) -> str:
        """Why the payload that the leaf commits to is not here; empty if it is.

        ``sealed``, or ``erased`` with the subject, or ``collected``: the run had ended long ago.
        """
        if self.payload is not None or not self.committed:
            return ""
        if self.sealed:
            return "sealed"
        return "erased" if self.sub and not self.collected else "collected"


def leaf_hash(leaf: bytes) -> str:
    """Return ``SHA-256(0x00 ‖ leaf)`` as 64 hex digits (RFC 6962, section 2.1)."""
    return _sha256(b"\x00" + leaf).hexdigest()


def commitment(salt: bytes, payload: bytes) -> str:
    """Return what a leaf says of a payload.

    ``hs256:`` and the HMAC-SHA256 under a salt of 32 bytes, in hex. Written out (RFC 2104, section
    2), since the library's looks up its algorithm each time, which takes longer than the hashing,
    and lets go of the interpreter, even for a few bytes.
    """
    key = salt.ljust(_BLOCK_BYTES, b"\0")
    inner = _sha256(key.translate(_INNER) + payload).digest()
    return "hs256:" + _sha256(key.translate(_OUTER) + inner).hexdigest()


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
    sub: str = "",
) -> Event:
    """Write an event's leaf and return the event.

    Raises:
        UsageError: a name holds a lone surrogate, or the leaf is over LEAF_BYTES_MAX.
    """
    committed = ""
    if payload is not None:
        assert salt is not None
        assert len(salt) == SALT_BYTES
        committed = commitment(salt, payload)
    links = f"[{cause[0]}]" if len(cause) == 1 and type(cause[0]) is int else _encode(cause)
    write = _form(body.type, payload is not None, bool(sub))
    names = _quoted(agent), _quoted(run), _quoted(sub)
    text = write(names[0], at, links, epoch, committed, prev, names[1], seq, names[2], body)
    try:
        leaf = text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"run {run!r}: a name in event {body.type} is not valid Unicode: {error.object!r}"
        ) from None
    if len(leaf) > LEAF_BYTES_MAX:
        raise UsageError(
            f"run {run!r}: the leaf of event {body.type} has {len(leaf)} bytes; at most"
            f" {LEAF_BYTES_MAX} are possible. Hint: shorten ids, topics and step names."
        )
    hashed = leaf_hash(leaf)
    return Event(
        run, seq, at, epoch, agent, cause, body, prev, leaf, hashed, committed, payload, salt, sub
    )


@functools.cache
def _json_reader() -> Callable[[bytes], Any]:
    """Return pydantic's reader of JSON: it takes half the time of Python's own."""
    from pydantic_core import from_json  # noqa: PLC0415 - heavy, on first use

    return from_json


def decode_leaf(leaf: bytes) -> dict[str, Any]:
    """Return a leaf's facts, brought up to today's form.

    Raises:
        StoreRefused: the bytes are not a leaf, or of a type or version that this release does not
        know.
    """
    try:
        facts: dict[str, Any] = _json_reader()(leaf)
        kind, version = facts["type"], facts["v"]
        while version != _VERSIONS.get(kind) and (upcast := UPCASTS.get((kind, version))):
            facts = upcast(facts)
            kind, version = facts["type"], facts["v"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreRefused(f"not an event's leaf ({error}): {leaf[:80]!r}") from None
    if version != _VERSIONS.get(kind):
        raise StoreRefused(
            f"event type {kind!r} version {version!r} is unknown to this release; it was"
            " written by a newer"
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
        body: Body = BODIES[kind](*map(facts.__getitem__, BODY_FIELDS[kind]))
        cause = facts["cause"]
        if len(cause) != 1 or not isinstance(cause[0], int):
            cause = [c if isinstance(c, int) else (c[0], c[1]) for c in cause]
        return Event(
            facts["run"],
            facts["seq"],
            facts["at"],
            facts["epoch"],
            facts["agent"],
            tuple(cause),
            body,
            facts["prev"],
            leaf,
            leaf_hash(leaf),
            facts.get("payload", ""),
            payload,
            salt,
            facts.get("sub", ""),
        )
    except (KeyError, TypeError, IndexError) as error:
        raise StoreRefused(f"event {kind!r} lacks {error}: {leaf[:120]!r}") from None
