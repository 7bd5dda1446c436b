"""What came of a run or a turn, out of the event that ends it."""

import json
from typing import Any

from holdfast.core import events as ev
from holdfast.core.codec import json_bytes
from holdfast.core.events import Event
from holdfast.core.specs import AgentSpec
from holdfast.errors import (
    PayloadCollected,
    RunFailed,
    RunWasCancelled,
    SubjectErased,
    VaultMissing,
)
from holdfast.runtime.births import ERASED_RUNS

__all__ = ["result_value"]


def result_value(event: Event, spec: AgentSpec | None) -> Any:
    """Return what the last event of a run or turn says came of it.

    Raises:
        RunFailed, RunWasCancelled: nothing but an error did.
        PayloadCollected, SubjectErased, VaultMissing: it is not kept, or not to be read here.
    """
    if event.sealed:
        raise VaultMissing(
            f"run {event.run!r}: what came of it is sealed, and the vault with the key of subject"
            f" {event.sub!r} is not at hand. Hint: HOLDFAST_VAULT"
        )
    if event.withheld == "collected":
        raise PayloadCollected(
            f"run {event.run!r} has ended so long ago that what came of it is not kept any more",
            run=event.run,
        )
    if event.withheld:
        raise SubjectErased(
            f"run {event.run!r}: what came of it was erased with subject {event.sub!r}"
            f" (run {ERASED_RUNS}{event.sub})",
            subject=event.sub,
        )
    payload = event.payload or b"null"
    match event.body:
        case ev.RunSucceeded():
            return spec.result.decode(payload) if spec is not None else json.loads(payload)
        case ev.TurnFinished():
            reply = json.loads(payload)["reply"]
            return spec.result.decode(json_bytes(reply)) if spec is not None else reply
        case _:
            raise _failure_of(event)


def _failure_of(event: Event) -> RunFailed:
    """Return the exception that the end of a failed or cancelled run stands for."""
    data = json.loads(event.payload or b"null") or {"type": "", "message": ""}
    text = f"run {event.run!r}: {data['type']}: {data['message']}"
    if isinstance(event.body, ev.RunCancelled):
        return RunWasCancelled(f"run {event.run!r} was cancelled")
    return RunFailed(text, error_type=data["type"], error_message=data["message"], run=event.run)
