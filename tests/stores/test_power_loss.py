"""After any power cut the file opens, `fsck` is clean, and nothing acknowledged is missing.

*Goal*: whatever a store has answered survives the loss of everything that no sync protected, torn
writes and forgotten file names included; whole commits survive or nothing of them; work goes on.
*Method*: work is recorded by `holdfast.testing.powerloss`, with the moment of each answer. Then the
power fails after each operation on the disk, several times over, and each folder that this may
leave behind is opened, read, checked by `check_file` and worked on, now and then under a second
power cut. Weaker syncs and a disk that lies show that the very same checks can fail.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import apsw
import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.ports import Append, Message
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.testing.powerloss import Cut, Operation, PowerLoss, cuts
from holdfast.testing.script import Script, conversation

NOW = 1_000_000
NAME = "holdfast.db"


@dataclass
class Deed:
    """Facts that one call of the store makes true together, and when it said so."""

    facts: frozenset
    told_at: int | None = None


class Witness:
    """A store whose answers are taken down; ``disk`` tells the time."""

    def __init__(self, inner: SqliteStore, disk: PowerLoss, deeds: list[Deed]):
        self.inner = inner
        self.disk = disk
        self.deeds = deeds

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def tries(self, facts: Iterable) -> Deed:
        known = {fact for deed in self.deeds for fact in deed.facts}
        deed = Deed(frozenset(facts) - known)
        self.deeds.append(deed)
        return deed

    def told(self, deed: Deed, _=None):
        deed.told_at = self.disk.now

    async def create(self, new, deliver=()):
        deed = self.tries([*events(new.events), *messages(deliver)])
        created = await self.inner.create(new, deliver)
        self.told(deed)
        return created

    def append(self, change):
        deed = self.tries(facts_of(change))
        answer = self.inner.append(change)
        if answer.done():
            self.told(deed)
        else:
            answer.add_done_callback(partial(self.told, deed))
        return answer

    async def transact(self, run, epoch, seq, body):
        deed = self.tries([])

        def noted(transaction):
            change = body(transaction)
            rows = transaction.execute("SELECT * FROM ledger")
            deed.facts = self.tries([*facts_of(change), *(("ledger", *row) for row in rows)]).facts
            self.deeds.pop()
            return change

        await self.inner.transact(run, epoch, seq, noted)
        self.told(deed)

    async def deliver(self, letters):
        deed = self.tries(messages(letters))
        arrived = await self.inner.deliver(letters)
        self.told(deed)
        return arrived

    async def claim(self, worker, **which):
        claims = await self.inner.claim(worker, **which)
        self.told(self.tries(("epoch", c.row.run, c.epoch) for c in claims))
        return claims


def events(found: Iterable[ev.Event]) -> Iterator[tuple]:
    return (("event", e.run, e.seq, e.leaf, e.payload) for e in found)


def messages(found: Iterable[Message]) -> Iterator[tuple]:
    return (("message", m.to, m.id) for m in found)


def facts_of(change: Append) -> Iterator[tuple]:
    yield from events(change.events)
    yield from messages(change.deliver)
    yield from (("taken", n) for n in change.consume)
    for new in change.create:
        yield from events(new.events)


async def facts_in(store, path: Path) -> set[tuple]:
    """Return every fact that a store holds."""
    found = set(events(event for _, event in await store.read_log(0, limit=1_000_000)))
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as tables:
        for n, run, id_, taken in tables.execute("SELECT n, run, id, taken FROM inbox"):
            found |= {("message", run, id_)} | ({("taken", n)} if taken else set())
        for run, epoch in tables.execute("SELECT id, epoch FROM run"):
            found |= {("epoch", run, n) for n in range(1, epoch + 1)}
        if tables.table_exists(None, "ledger"):
            found |= {("ledger", *row) for row in tables.execute("SELECT * FROM ledger")}
    return found


def judge(found: set[tuple], deeds: list[Deed], at: int) -> list[Deed]:
    """See that what is found is all of the first deeds and nothing of the others."""
    told = [n for n, deed in enumerate(deeds, 1) if deed.told_at is not None and deed.told_at <= at]
    there = next((n for n, deed in enumerate(deeds) if not deed.facts <= found), len(deeds))
    assert there >= max(told, default=0), f"acknowledged and missing: {deeds[there]}"
    for deed in deeds[there:]:
        assert deed.facts.isdisjoint(found), f"a part of something: {deed.facts & found}"
    tried = {fact for deed in deeds for fact in deed.facts}
    assert {fact for fact in found if fact[0] in ("event", "ledger")} <= tried, "out of nowhere"
    return deeds[:there]


async def go_on(store, worker: str) -> None:
    """Claim the runs that have not ended and add an event to each, and begin a new one."""
    claims = await claim(store, worker, now=NOW + 10**9)
    for claimed in claims:
        script = Script(await store.read(claimed.row.run), at=NOW + 10**9, epoch=claimed.epoch)
        await store.append(script.change((ev.StreamEmitted(1), worker.encode()), release=True))
    await store.create(Script.begin(f"new-{worker}").new())


async def survive(cut: Cut, folder: Path, deeds: list[Deed], *, again: Iterable[int] = ()) -> None:
    """Open what a cut has left, compare it with what was told, and go on; then cut ``again``."""
    path = folder / NAME
    cut.write(folder)
    problems = check_file(path)
    told = any(deed.told_at is not None and deed.told_at <= cut.at for deed in deeds)
    assert not problems or not (told or problems[0].what != "file"), problems
    with PowerLoss(folder) as disk:
        store = await SqliteStore.open(path, inline=True)
        kept = judge(await facts_in(store, path), deeds, cut.at)
        more = [Deed(deed.facts, 0) for deed in kept]
        witness = Witness(store, disk, more)
        await go_on(witness, f"after-{cut.at}")
        judge(await facts_in(store, path), more, disk.now)
        await store.close()
        assert check_file(path) == []
    for n, second in enumerate(disk.cuts(again)):
        await survive(second, folder / f"{n}", more)


async def survive_all(
    disk: PowerLoss,
    deeds: list[Deed],
    folder: Path,
    seeds: Iterable[int],
    *,
    again_every: int = 0,
) -> int:
    """Try every cut; return how many there were."""
    folder.mkdir()
    tried = 0
    for cut in disk.cuts(seeds):
        again = [0, cut.seed + 2] if again_every and tried % again_every == 0 else []
        try:
            await survive(cut, folder / f"{tried}", deeds, again=again)
        except Exception as error:
            last = disk.operations[cut.at - 1] if cut.at else "nothing"
            raise AssertionError(f"cut {cut.at} ({last}), seed {cut.seed}: {error}") from error
        tried += 1
    return tried


# A store alone.


def claim(store, worker: str, *, now: int = NOW, **which):
    whole = {"lease_us": 1_000, "agents": ["agent:test"], "limit": 10} | which
    return store.claim(worker, now=now, **whole)


def letter(to: str, id_: str, payload: bytes = b"1") -> Message:
    return Message(to, id_, "topic", payload, NOW)


async def enter(store, script: Script, row: str) -> None:
    """Append an event together with a row of the user's."""

    def body(transaction):
        transaction.execute("CREATE TABLE IF NOT EXISTS ledger (row TEXT) STRICT")
        transaction.execute("INSERT INTO ledger VALUES (?)", (row,))
        return script.change((ev.StepFinished("book#1"), row.encode()))

    seq = script.state.seq
    await store.transact(script.run, script.epoch, seq, body)


async def live(store, run: str, talk: int) -> None:
    """Lead one run from its beginning to its end, with everything that a store can do."""
    script = Script.begin(run, payload=conversation(1))
    await store.create(script.new(), [letter(run, "first"), letter(f"{run}/later", "early")])
    await store.deliver([letter(run, "second", conversation(4))])
    [claimed] = await claim(store, "ann", run=run)
    script.epoch = claimed.epoch
    for turn in range(talk):
        started = (ev.StepStarted(f"model#{turn + 1}", "read"), conversation(turn, chars=600))
        await store.append(script.change(started))
        await store.append(script.change((ev.StepFinished(f"model#{turn + 1}"), b'"yes"')))
    unread = await store.unread(run)
    taken = [(ev.MessageReceived(f"receive#{m.n}", "topic", m.message.id), b"1") for m in unread]
    child = Script.begin(f"{run}/child", parent=run, parent_key="child#1")
    begun = ev.ChildStarted("child#1", child.run, "agent:test")
    numbers = [m.n for m in unread]
    await store.append(script.change(*taken, begun, create=[child.new()], consume=numbers))
    await enter(store, script, run)
    out = letter("elsewhere", f"from {run}")
    sent = (ev.MessageSent("send#1", out.to, out.topic, out.id), out.payload)
    await store.append(script.change(sent, deliver=[out]))
    await store.append(script.change(ev.RunParked("waiting", NOW + 5), release=True, seen=99))
    [claimed] = await claim(store, "bob", now=NOW + 10**6, run=run)
    script.epoch = claimed.epoch
    await store.append(script.change((ev.RunSucceeded(), b'"done"'), release=True))


def checkpoint(path: Path) -> None:
    """Empty the write-ahead log, as a person may do."""
    with closing(apsw.Connection(str(path))) as tool:
        assert tool.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall() == [(0, 0, 0)]


async def one_by_one(path: Path, disk: PowerLoss, deeds: list[Deed]) -> None:
    """One transaction after the other, over two lives of the store."""
    store = await SqliteStore.open(path, inline=True)
    await live(Witness(store, disk, deeds), "one", talk=6)
    checkpoint(path)
    await live(Witness(store, disk, deeds), "two", talk=1)
    await store.close()
    store = await SqliteStore.open(path, inline=True)
    await live(Witness(store, disk, deeds), "three", talk=1)
    await store.close()


async def in_groups(path: Path, disk: PowerLoss, deeds: list[Deed]) -> None:
    """Many runs share each commit: they queue up behind a transaction that waits for them."""
    store = await SqliteStore.open(path)
    witness = Witness(store, disk, deeds)
    scripts = [Script.begin(f"run-{n}") for n in range(6)]
    for script in scripts:
        await witness.create(script.new())
    for claimed in await claim(witness, "ann"):
        next(s for s in scripts if s.run == claimed.row.run).epoch = claimed.epoch
    first, *others = scripts
    for n in range(4):
        queued = threading.Event()

        def body(transaction, queued=queued, n=n):
            assert queued.wait(10)
            transaction.execute("CREATE TABLE IF NOT EXISTS ledger (row TEXT) STRICT")
            transaction.execute("INSERT INTO ledger VALUES (?)", (str(n),))
            return first.change((ev.StreamEmitted(1), b"1"))

        alone = asyncio.ensure_future(witness.transact(first.run, first.epoch, 1 + n, body))
        await asyncio.sleep(0)
        changes = [s.change((ev.StreamEmitted(1), conversation(n, chars=900))) for s in others]
        together = [witness.append(change) for change in changes]
        queued.set()
        await asyncio.gather(alone, *together)
    await store.close()


class Attentive(PowerLoss):
    """Lets the loop run before each sync of another thread: an answer too early comes before it."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.loop = asyncio.get_running_loop()
        self.thread = threading.current_thread()

    def record(self, operation: Operation) -> None:
        if operation.kind == "sync" and threading.current_thread() is not self.thread:
            for _ in range(3):
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()
        super().record(operation)


@pytest.fixture
def often_checkpointed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apsw, "connection_hooks", [lambda c: c.wal_autocheckpoint(30)])


async def recorded(folder: Path, work) -> tuple[PowerLoss, list[Deed]]:
    folder.mkdir()
    deeds: list[Deed] = []
    with Attentive(folder) as disk:
        await work(folder / NAME, disk, deeds)
    assert all(deed.told_at is not None for deed in deeds)
    return disk, deeds
