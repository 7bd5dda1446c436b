"""Holds: the moment between a deed and its answer, stretched until somebody lets go.

The demo's supervisor arms a hold for a deed that it knows will come. The next matching deed is done
and committed, then appended to the list of held ones, and only its answer waits: for a release, for
the hold's time to be over, or for the client to be gone. Whoever saw it in the list and kills the
client now has killed it in the window in which the shop has acted and the outcome is not recorded.

Invariants: a hold catches at most one deed; a caught deed stays in the list for ever and its number
never changes; every wait has a limit.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Hold", "Holds", "Status"]

POLL_S = 0.01

Status = Literal["waiting", "released", "expired", "gone"]


@dataclass(slots=True)
class Hold:
    """One armed hold and, once it caught a deed, what became of it.

    Attributes:
        number: Place in the list of held deeds, from 1; 0 until it has caught one.
        deed: Ledger id of the deed caught; 0 until then.
    """

    id: int
    kind: str
    order: str
    hold_ms: int
    number: int = 0
    deed: int = 0
    status: Status = "waiting"

    def as_json(self) -> dict[str, Any]:
        """Return what the list of held deeds shows."""
        return {
            "n": self.number,
            "hold": self.id,
            "kind": self.kind,
            "order": self.order,
            "deed": self.deed,
            "status": self.status,
        }


class Holds:
    """All holds of a shop; safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._last_id = 0
        self._armed: list[Hold] = []
        self._held: list[Hold] = []

    def arm(self, kind: str, order: str, hold_ms: int) -> Hold:
        """Arm a hold for the next such deed."""
        with self._changed:
            self._last_id += 1
            hold = Hold(self._last_id, kind, order, hold_ms)
            self._armed.append(hold)
            return hold

    def is_armed(self, kind: str, order: str) -> bool:
        """Tell whether the next such deed will be held: then no fault may prevent it."""
        with self._changed:
            return any((hold.kind, hold.order) == (kind, order) for hold in self._armed)

    def catch(self, kind: str, order: str, deed: int) -> Hold | None:
        """Put a deed that was just committed on the list, if a hold waits for it."""
        with self._changed:
            for hold in self._armed:
                if (hold.kind, hold.order) == (kind, order):
                    self._armed.remove(hold)
                    self._held.append(hold)
                    hold.number, hold.deed = len(self._held), deed
                    self._changed.notify_all()
                    return hold
            return None

    def wait_released(self, hold: Hold, client_is_gone: Callable[[], bool]) -> Status:
        """Block until the hold is over and return how it ended."""
        deadline = time.monotonic() + hold.hold_ms / 1000
        with self._changed:
            while hold.status == "waiting":
                # The client's end of the connection cannot notify us, hence the poll.
                self._changed.wait(POLL_S)
                if hold.status != "waiting":
                    break
                if client_is_gone():
                    hold.status = "gone"
                elif time.monotonic() >= deadline:
                    hold.status = "expired"
            self._changed.notify_all()
            return hold.status

    def release(self, hold_id: int | None) -> list[int]:
        """End one hold, or all when it is None, armed ones too; return the ids of those ended."""
        with self._changed:
            chosen = [
                hold
                for hold in [*self._armed, *self._held]
                if hold.status == "waiting" and hold_id in (None, hold.id)
            ]
            for hold in chosen:
                hold.status = "released"
            self._armed = [hold for hold in self._armed if hold.status == "waiting"]
            self._changed.notify_all()
            return [hold.id for hold in chosen]

    def held_after(self, number: int, wait_s: float) -> list[dict[str, Any]]:
        """Return the held deeds numbered above ``number``, waiting for one if there is none yet."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._held) > number, timeout=wait_s)
            return [hold.as_json() for hold in self._held[number:]]
