"""One sync makes many changes durable, and none of them suffers for its neighbours.

*Goal*: group commit groups; a refused, broken or abandoned change harms nobody; a disk that is full
or fails, at a write or at a sync, loses nothing and stops nothing for longer than it lasts.
*Method*: commits are counted in the write-ahead log itself; a lock held from outside makes a batch
form behind it; a layer between SQLite and the disk refuses to write.
"""

import asyncio
import inspect
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from random import Random

import apsw
import pytest

from holdfast.errors import Conflict, Fenced, StoreUnavailable
from holdfast.ports import Message
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.stores.sqlite.store import LONG_BYTES
from holdfast.testing.harness import NOTE, hold
from holdfast.testing.script import Script


def on_a_file(test):
    """Run a coroutine function on an open store and check the file afterwards."""

    wanted = inspect.signature(test).parameters

    @wraps(test)
    def run(tmp_path: Path):
        path = tmp_path / "holdfast.db"

        async def main():
            store = await SqliteStore.open(path)
            facts = {"store": store, "path": path}
            try:
                await test(**{name: facts[name] for name in wanted})
            finally:
                await store.close()

        asyncio.run(main())
        assert check_file(path) == []

    del run.__wrapped__  # for pytest would look for fixtures of these names
    return run


def commits(path: Path) -> int:
    """Count the commits in a write-ahead log: frames that say how large the file is now."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page = struct.unpack(">I", log[8:12])[0]
    salt = log[16:24]
    frames = [log[at : at + 24] for at in range(32, len(log), 24 + page)]
    return sum(frame[8:16] == salt and frame[4:8] != bytes(4) for frame in frames)


class Lock:
    """Another connection that holds the file's write lock inside the block."""

    def __init__(self, path: Path):
        self.connection = apsw.Connection(str(path))

    def __enter__(self):
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_):
        self.connection.execute("COMMIT")
        self.connection.close()


@on_a_file
async def test_what_queues_up_behind_a_commit_shares_the_next(store: SqliteStore, path: Path):
    scripts = [await hold(store, f"r{n}") for n in range(50)]
    with Lock(path):
        before = commits(path)
        first = store.append(scripts[0].change(NOTE))
        await asyncio.sleep(0.05)  # the writer takes it and waits for the lock
        rest = [store.append(script.change(NOTE)) for script in scripts for _ in range(4)]
        assert not first.done()
    await asyncio.gather(first, *rest)
    assert commits(path) - before == 2


@on_a_file
async def test_a_change_alone_commits_at_once(store: SqliteStore, path: Path):
    script = await hold(store)
    before = commits(path)
    for _ in range(5):
        await store.append(script.change(NOTE))
    assert commits(path) - before == 5


@on_a_file
async def test_a_refused_change_does_not_disturb_its_neighbours(store: SqliteStore, path: Path):
    good, stale, gone = [await hold(store, f"r{n}") for n in range(3)]
    calls = []
    with Lock(path):
        before = commits(path)
        calls.append(store.append(good.change(NOTE)))
        fenced = replace(stale.change(NOTE), epoch=0)
        calls.append(store.append(fenced))
        late = replace(gone.change(NOTE), expected_seq=9)
        calls.append(store.append(late))
        calls.append(store.append(good.change(NOTE)))
        await asyncio.sleep(0.05)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), Fenced, Conflict, type(None)]
    assert commits(path) - before <= 2
    assert (await store.read("r0"))[-2:] == good.events[-2:]


@on_a_file
async def test_a_broken_change_fails_alone(store: SqliteStore, path: Path):
    """Its fault shows only in the middle of writing it, after its row was moved."""
    good, bad = await hold(store, "good"), await hold(store, "bad")
    letter = Message("x", "m", "t", b"1", 2**70)  # no such time fits a column
    with Lock(path):
        broken = replace(bad.change(NOTE), deliver=[letter])
        calls = [store.append(good.change(NOTE)), store.append(broken)]
        calls += [store.append(bad.change(NOTE)), store.append(good.change(NOTE))]
        await asyncio.sleep(0.05)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    kinds = [type(None), OverflowError, Conflict, type(None)]
    assert [type(answer) for answer in answers] == kinds
    assert len(await store.read("bad")) == 1
    assert await store.read("good") == good.events


@on_a_file
async def test_who_stops_waiting_stops_nothing(store: SqliteStore, path: Path):
    script = await hold(store)
    with Lock(path):
        task = asyncio.ensure_future(store.append(script.change(NOTE)))
        behind = store.append(script.change(NOTE))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await behind
    assert await store.read("r") == script.events


@on_a_file
async def test_a_body_is_run_once_whatever_is_queued_around_it(store: SqliteStore, path: Path):
    script, other = await hold(store, "r"), await hold(store, "other")
    calls = []

    def body(transaction):
        calls.append(transaction)
        raise KeyError

    with Lock(path):
        before = store.append(other.change(NOTE))
        during = asyncio.ensure_future(store.transact("r", script.epoch, 1, body))
        await asyncio.sleep(0)
        after = store.append(other.change(NOTE))
        await asyncio.sleep(0.05)
    await asyncio.gather(before, after)
    with pytest.raises(KeyError):
        await during
    assert len(calls) == 1
    assert await store.read("other") == other.events


@on_a_file
async def test_a_body_may_raise_anything(store: SqliteStore):
    script = await hold(store)

    def stop(_):
        raise StopIteration("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await store.transact("r", script.epoch, 1, stop)
    await store.append(script.change(NOTE))


def test_closing_finishes_what_was_begun(tmp_path: Path):
    async def main():
        store = await SqliteStore.open(tmp_path / "a.db")
        script = await hold(store)
        calls = [store.append(script.change(NOTE)) for _ in range(20)]
        await store.close()
        assert all(call.done() for call in calls)
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.append(script.change(NOTE))
        await store.close()
        again = await SqliteStore.open(tmp_path / "a.db")
        assert len(await again.read("r")) == 21
        await again.close()

    asyncio.run(main())


class Disk(apsw.VFS):
    """The disk, with a fault: what to raise at which call on which kind of file."""

    def __init__(self):
        self.below = apsw.vfs_names()[0]
        super().__init__("faulty", self.below, makedefault=True)
        self.fault: tuple[str, str, type[Exception]] | None = None
        self.calls = 0
        self.slow: threading.Event | None = None  # what a sync waits for
        self.syncing = threading.Event()

    def xOpen(self, name, flags):  # noqa: N802 - apsw's name
        return DiskFile(self, name, flags)

    def check(self, call: str, name: str) -> None:
        if self.fault and self.fault[0] == call and name.endswith(self.fault[1]):
            self.calls += 1
            raise self.fault[2]


class DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name, flags):
        super().__init__(disk.below, name, flags)
        self.disk = disk
        self.name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)

    def xWrite(self, data, offset):  # noqa: N802 - apsw's name
        self.disk.check("write", self.name)
        super().xWrite(data, offset)

    def xSync(self, flags):  # noqa: N802 - apsw's name
        self.disk.check("sync", self.name)
        if self.disk.slow:
            self.disk.syncing.set()
            assert self.disk.slow.wait(10), "the loop that would end the wait does not run"
        super().xSync(flags)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.unregister()


def test_the_loop_goes_on_while_the_disk_syncs(tmp_path: Path, disk: Disk):
    @on_a_file
    async def main(store: SqliteStore):
        script = await hold(store)
        disk.slow = threading.Event()
        call = store.append(script.change(NOTE))
        await asyncio.to_thread(disk.syncing.wait)
        assert not call.done()
        disk.slow.set()
        await call

    main(tmp_path=tmp_path)


class Seen(list):
    """A list that knows which threads have gone through it."""

    def __iter__(self):
        self.threads = {*getattr(self, "threads", ()), threading.get_ident()}
        return super().__iter__()


@pytest.mark.parametrize("size", [100, LONG_BYTES])
def test_what_takes_long_is_kept_out_of_the_loop(tmp_path: Path, size: int):
    @on_a_file
    async def main(store: SqliteStore):
        change = (await hold(store)).change((NOTE[0], bytes(size)))
        events = Seen(change.events)
        await store.append(replace(change, events=events))
        assert (events.threads == {threading.get_ident()}) == (size < LONG_BYTES)

    main(tmp_path=tmp_path)


FAULTS = [
    ("write", "-wal", apsw.FullError, "the disk is full. Nothing was written"),
    ("write", "-wal", apsw.IOError, "Nothing was written"),
    ("sync", "-wal", apsw.IOError, "Nothing was written"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault[2].__name__} at {fault[0]}")
def test_when_the_disk_fails_all_are_told_and_later_calls_go_through(tmp_path: Path, disk, fault):
    @on_a_file
    async def main(store: SqliteStore):
        scripts = [await hold(store, f"r{n}") for n in range(5)]
        rows = await store.rows()
        changes = [script.change((NOTE[0], b"x" * 10_000)) for script in scripts]
        disk.fault = fault[:3]
        calls = [asyncio.ensure_future(store.append(change)) for change in changes]
        calls.append(asyncio.ensure_future(store.claim("w", now=1, lease_us=1, agents=[], limit=1)))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert disk.calls
        for answer in answers:
            assert isinstance(answer, StoreUnavailable)
            assert fault[3] in str(answer)
        assert len({id(answer) for answer in answers}) == len(answers)
        assert await store.rows() == rows
        disk.fault = None
        await asyncio.gather(*[store.append(change) for change in changes])
        for script in scripts:
            assert await store.read(script.run) == script.events

    main(tmp_path=tmp_path)


def test_what_an_undone_transaction_told_is_forgotten(tmp_path: Path, disk: Disk):
    """The number that a run had in it goes to another run."""

    @on_a_file
    async def main(store: SqliteStore, path: Path):
        script, other = Script.begin("r"), Script.begin("other")
        change = script.change((NOTE[0], bytes(5_000)))
        with Lock(path):
            disk.fault = ("write", "-wal", apsw.FullError)
            created = asyncio.ensure_future(store.create(Script.begin("r").new()))
            await asyncio.sleep(0)
            calls = [created, store.append(change)]
            await asyncio.sleep(0.05)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
        disk.fault = None
        assert await store.create(other.new())
        assert await store.create(Script.begin("r").new())
        await store.append(change)
        assert await store.read("r") == script.events
        assert await store.read("other") == other.events

    main(tmp_path=tmp_path)


def test_when_checkpoints_fail_appends_go_on(tmp_path: Path, disk: Disk):
    @on_a_file
    async def main(store: SqliteStore):
        script = await hold(store)
        disk.fault = ("write", "holdfast.db", apsw.FullError)
        for n in range(60):
            await store.append(script.change((NOTE[0], Random(n).randbytes(100_000))))
        assert disk.calls, "no checkpoint was tried"
        disk.fault = None
        assert await store.read("r") == script.events

    main(tmp_path=tmp_path)
