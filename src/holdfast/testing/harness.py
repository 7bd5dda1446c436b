"""What the tests of the suite share: running on a store, and the smallest of steps.

A test is a coroutine function on one store, or on two that are open on the same data;
``on_a_store`` and ``on_two_stores`` turn it into what pytest collects.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

from holdfast.core import events as ev
from holdfast.ports import Append, Claim, Message, Store, Transaction
from holdfast.testing.script import Script

__all__ = [
    "EVERYTHING",
    "LATE",
    "LEASE_US",
    "NOTE",
    "NOW",
    "PATIENCE_S",
    "Boom",
    "agree",
    "append",
    "begin",
    "claim",
    "everything",
    "hold",
    "insert",
    "letter",
    "on_a_store",
    "on_two_stores",
    "park",
    "refused",
    "transact",
]

OpenStore: TypeAlias = Callable[[], Awaitable[Store]]

NOW = 1_000_000
LEASE_US = 10_000
LATE = NOW + LEASE_US + 1
"""When a lease taken at NOW has run out."""
EVERYTHING = 1_000_000
PATIENCE_S = 5
"""How long a waiter waits that was not told."""
NOTE = (ev.StreamEmitted(1), b"1")
"""An event that changes nothing but the stream."""


class Boom(Exception):  # noqa: N818 - a bang, not a failure
    """What a body raises."""


def on_a_store(
    test: Callable[[Any, Store], Coroutine[Any, Any, None]],
) -> Callable[[Any, OpenStore], None]:
    """Make a test of a coroutine function that takes an open store."""
    return _on(1, test)


def on_two_stores(
    test: Callable[[Any, Store, Store], Coroutine[Any, Any, None]],
) -> Callable[[Any, OpenStore], None]:
    """Make a test of a coroutine function that takes two stores open on the same data."""
    return _on(2, test)


def _on(
    count: int, test: Callable[..., Coroutine[Any, Any, None]]
) -> Callable[[Any, OpenStore], None]:
    def run(self: Any, open_store: OpenStore) -> None:
        async def main() -> None:
            async with AsyncExitStack() as stack:
                stores = [await open_store() for _ in range(count)]
                for store in stores:
                    stack.push_async_callback(store.close)
                await test(self, *stores)

        with asyncio.Runner() as runner:
            runner.run(main())

    # Not functools.wraps: pytest would follow it and look for a fixture named store.
    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    return run


def agree(what: str, answer: object, expected: object) -> None:
    """Assert that a store's answer is the expected one."""
    assert answer == expected, (
        f"{what}\n  the store answers {answer}\n  expected was      {expected}"
    )


async def refused(error: type[Exception], call: Awaitable[object]) -> None:
    """Assert that a call raises this error."""
    try:
        answer = await call
    except error:
        return
    raise AssertionError(f"the store answers {answer}; expected was {error.__name__}")


async def begin(
    store: Store, run: str = "r", *, at: int = NOW, agent: str = "agent:test", **place: Any
) -> Script:
    """Create a run."""
    script = Script.begin(run, at=at, agent=agent, **place)
    agree("create", await store.create(script.new()), expected=True)
    return script


async def claim(store: Store, worker: str, now: int = NOW, **facts: Any) -> list[Claim]:
    """Claim what there is of the test agent's runs."""
    whole: dict[str, Any] = {"lease_us": LEASE_US, "agents": ["agent:test"], "limit": 10} | facts
    return await store.claim(worker, now=now, **whole)


async def hold(store: Store, run: str = "r", *, worker: str = "ann", now: int = NOW) -> Script:
    """Create a run and claim it."""
    script = await begin(store, run, at=now)
    [claimed] = await claim(store, worker, now, run=run)
    script.epoch = claimed.epoch
    return script


async def park(
    store: Store, script: Script, *, wake_at: int = 0, seen: int = 0, consume: Sequence[int] = ()
) -> None:
    """Park a run that is held, as waiting, and give up its lease."""
    parked = ev.RunParked("waiting", wake_at)
    await store.append(script.change(parked, release=True, seen=seen, consume=consume))


async def append(store: Store, change: Append) -> None:
    """Apply a change when the coroutine starts, not when it is called."""
    await store.append(change)


async def transact(
    store: Store, change: Append, body: Callable[[Transaction], object] = lambda _: None
) -> None:
    """Apply a change in a transaction of its own, after ``body``."""

    def whole(transaction: Transaction) -> Append:
        body(transaction)
        return change

    await store.transact(change.run, change.epoch, change.expected_seq, whole)


def insert(transaction: Transaction, n: int) -> list[int]:
    """Insert a number into a table of the user's; return those that were there before."""
    transaction.execute("CREATE TABLE IF NOT EXISTS ledger (n INTEGER UNIQUE)")
    before = [row[0] for row in transaction.execute("SELECT n FROM ledger ORDER BY n")]
    transaction.execute("INSERT INTO ledger (n) VALUES (?)", (n,))
    return before


def letter(to: str, id_: str, *, sender: str = "", at: int = NOW, payload: bytes = b"1") -> Message:
    """Return a message."""
    return Message(to, id_, "topic", payload, at, sender)


async def everything(store: Store, *inboxes: str) -> list[object]:
    """Return all that can be read: the log, the rows, the inboxes of all runs and of some more."""
    rows = await store.rows(limit=EVERYTHING)
    runs = [row.run for row in rows] + list(inboxes)
    unread = [await store.unread(run) for run in runs]
    return [await store.read_log(0, limit=EVERYTHING), rows, unread]
