"""Small signed logs for tests: keys from fixed seeds, and runs whose payloads have every form.

``write_signed`` makes a store file whose bytes depend on nothing but its arguments, so that a test
may ruin it bit by bit. The keys are public and so are worth nothing.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from holdfast.core import events as ev
from holdfast.ports import Message, Store
from holdfast.proof import keys
from holdfast.proof.notary import TreeNotary
from holdfast.proof.note import SignerKey
from holdfast.signed import Notary, Signer
from holdfast.stores.sqlite import SqliteStore
from holdfast.testing.script import Fact, Script, conversation

__all__ = ["HEIR", "KEY", "Writing", "begin", "notaries", "open_signed", "write", "write_signed"]

KEY = SignerKey("example.com/log", bytes(range(32)))
HEIR = SignerKey("example.com/log", bytes(range(1, 33)))
"""Takes over from KEY."""

RUNS = ("one", "two", "three")
PAYLOADS = (b"1", conversation(3), conversation(20), None)
"""Kept as they are, deflated, as a tree of chunks, and none."""


def notaries(signer: Signer) -> Notary:
    """Return who signs for one of the keys above."""
    (key,) = [key for key in (KEY, HEIR) if str(key.verifier) == signer.key]
    return TreeNotary(key, signer.since)


async def open_signed(path: Path, *, inline: bool = True) -> SqliteStore:
    """Open a store file that these keys may sign."""
    return await SqliteStore.open(path, inline=inline, notaries=notaries)


async def begin(store: Store, key: SignerKey = KEY) -> None:
    """Have a store signed."""
    await store.signed.enrol(lambda _: keys.signer_of(key))


class Writing:
    """Runs that are written to a store, each change a commit of its own if it is inline."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.scripts: dict[str, Script] = {}

    async def start(self, run: str) -> None:
        """Create a run and claim it."""
        script = self.scripts[run] = Script.begin(run, payload=b'{"run":"%s"}' % run.encode())
        await self.store.create(script.new())
        (claim,) = await self.store.claim(
            "w", now=1, lease_us=10**9, agents=["agent:test"], limit=1, run=run
        )
        script.epoch = claim.epoch

    async def add(self, run: str, *facts: Fact) -> None:
        """Append events to a run."""
        await self.store.append(self.scripts[run].change(*facts))


async def write(store: Store, *, rounds: int = 3, runs: Sequence[str] = RUNS) -> Writing:
    """Write runs that take turns, two events a round each."""
    writing = Writing(store)
    for run in runs:
        await writing.start(run)
    for number in range(rounds):
        for run in runs:
            payload = PAYLOADS[(number + len(run)) % len(PAYLOADS)]
            key = f"model#{number + 1}"
            await writing.add(run, (ev.StepStarted(key, "read"), payload), ev.StepFinished(key))
    await store.deliver([Message(runs[0], "m", "topic", b"1", 5)])
    return writing


def write_signed(path: Path, *, rounds: int = 3, runs: Sequence[str] = RUNS) -> Path:
    """Make a signed store file that nobody has open."""

    async def main() -> None:
        store = await open_signed(path)
        await begin(store)
        await write(store, rounds=rounds, runs=runs)
        await store.close()

    asyncio.run(main())
    return path
