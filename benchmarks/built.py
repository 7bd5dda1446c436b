"""Large stores, built fast and honestly: real events through the store's own ``create``.

A run may be created with more than its first event, so one that has parked or ended is created
with all it has; many are created at once and share a commit. Every leaf is sealed and chained,
every row is what its events fold to.
"""

import asyncio
import gc
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holdfast.core import events as ev
from holdfast.core.limits import SALT_BYTES
from holdfast.core.state import fold
from holdfast.ports import NewRun, Store
from holdfast.stores.sqlite import SqliteStore

__all__ = ["build", "create_all", "finished_run", "parked_run"]

TOGETHER = 2_000
"""How many runs share a commit."""


async def build(path: Path, runs: Iterable[NewRun]) -> None:
    """Create runs in a store file, which is made when it is missing."""
    store = await SqliteStore.open(path)
    try:
        await create_all(store, runs)
    finally:
        await store.close()


async def create_all(store: Store, runs: Iterable[NewRun]) -> None:
    """Create runs in a store."""
    waiting = iter(runs)
    gc.disable()  # nothing below makes cycles, and millions of events are looked at for none
    try:
        while some := list(itertools.islice(waiting, TOGETHER)):
            created = await asyncio.gather(*(store.create(run) for run in some))
            assert all(created), "a run's id was taken"
    finally:
        gc.enable()


def parked_run(run: str, agent: str, arguments: list[Any], at: float, sleep_s: float) -> NewRun:
    """Return a run that began at a time (Unix) and has slept since; ``arguments`` are its input."""
    wake_at = _us(at) + int(sleep_s * 1e6)
    return _new(
        run,
        f"agent:{agent}",
        _us(at),
        [
            (ev.RunCreated(_us(at) & (2**53 - 1), 0, "", ""), _json(_named(arguments))),
            (ev.TurnStarted(1, ""), None),
            (ev.RunParked("waiting", wake_at, ""), None),
        ],
    )


def finished_run(run: str, agent: str, result: bytes, at: float) -> NewRun:
    """Return a run that made one effect and succeeded."""
    return _new(
        run,
        f"agent:{agent}",
        _us(at),
        [
            (ev.RunCreated(_us(at) & (2**53 - 1), 0, "", ""), b"1"),
            (ev.TurnStarted(1, ""), None),
            (ev.StepStarted("effect#1", "idempotent", 1), b'{"n":0}'),
            (ev.StepFinished("effect#1", 1, "body"), result),
            (ev.RunSucceeded(), b"1"),
        ],
    )


def _named(arguments: list[Any]) -> dict[str, Any]:
    return dict(zip(("name", "seconds"), arguments, strict=True))


def _us(at: float) -> int:
    return int(at * 1e6)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _new(run: str, agent: str, at: int, bodies: list[tuple[ev.Body, bytes | None]]) -> NewRun:
    events: list[ev.Event] = []
    for seq, (body, payload) in enumerate(bodies, 1):
        events.append(
            ev.seal(
                body,
                run=run,
                seq=seq,
                prev=events[-1].hash if events else ev.GENESIS,
                at=at,
                epoch=0,
                agent=agent,
                cause=(seq - 1,) if events else (),
                payload=payload,
                salt=None if payload is None else os.urandom(SALT_BYTES),
            )
        )
    return NewRun(fold(events).row(), events)
