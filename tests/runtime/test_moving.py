"""Runs move between stores byte for byte, and nothing else moves.

*Goal*: what is imported is what was exported, leaf by leaf, and carries on there; a file that is
torn, altered or foreign, or a run that the store has otherwise, changes nothing. *Method*: real
stores of both kinds; every cut of a small file, an altered byte in each of its lines, an import
that dies between any two of its writes; fsck looks over what SQLite has.
"""

import asyncio
import gzip
import json
import tracemalloc

import pytest

import holdfast as hf
from holdfast.core import events as ev
from holdfast.errors import RunUnknown, StoreRefused, StoreUnavailable, UsageError
from holdfast.runtime import export_file
from holdfast.runtime.moving import export_runs, import_runs
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import check_file
from holdfast.testing.harness import (
    LATE,
    NOTE,
    NOW,
    append,
    begin,
    claim,
    everything,
    hold,
    letter,
    park,
)
from holdfast.testing.schedule import log_of_schedule
from holdfast.testing.script import Script, conversation


async def sqlite(path):
    return await SqliteStore.open(path, inline=True)


async def fill(store) -> None:
    """Make runs of every kind, with messages consumed, unread and for nobody."""
    for name in ("a", "a/x", "b"):
        script = await hold(store, name)
        await store.deliver([letter(name, "m1"), letter(name, "m2", payload=conversation(20))])
        first = (await store.unread(name))[0]
        received = (ev.MessageReceived("receive#1", "topic", "m1"), b"1")
        await store.append(script.change(received, NOTE, consume=[first.n]))
        await park(store, script, wake_at=NOW + 5, seen=first.n)
    script = await hold(store, "done")
    await store.append(script.change((ev.RunSucceeded(), b'"ok"'), release=True))
    await store.deliver([letter("nobody", "m1"), letter("nobody", "m2")])


async def streams(store) -> dict:
    rows = sorted(await store.rows(limit=10**6))
    return {
        row.run: (
            row,
            [(e.leaf, e.salt, e.payload) for e in await store.read(row.run)],
            [m.message for m in await store.unread(row.run)],
        )
        for row in rows
    }


@pytest.fixture
def run():
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def filled(run):
    store = MemoryStore()
    run(fill(store))
    return store


@pytest.fixture
def file(run, filled, tmp_path):
    path = tmp_path / "runs.export"
    run(export_runs(filled, path, now=LATE))
    return path


@pytest.mark.parametrize("source", ["memory", "sqlite"])
@pytest.mark.parametrize("target", ["memory", "sqlite"])
def test_logs_are_the_same_byte_for_byte_between_any_two_stores(source, target, run, tmp_path):
    async def main():
        one = MemoryStore() if source == "memory" else await sqlite(tmp_path / "one.db")
        two = MemoryStore() if target == "memory" else await sqlite(tmp_path / "two.db")
        await log_of_schedule(one, 1)
        for worker in ("w0", "w1", "w2"):
            await one.release(worker)
        await fill(one)
        exported = await export_runs(one, tmp_path / "f", now=10**15)
        imported = await import_runs(two, tmp_path / "f")
        assert await streams(two) == await streams(one)
        assert [m.message for m in await two.unread("nobody")] == [
            m.message for m in await one.unread("nobody")
        ]
        assert (imported.runs, imported.there) == (exported.runs, 0)
        assert imported.events == exported.events
        before = await everything(two, "nobody")
        again = await import_runs(two, tmp_path / "f")
        assert (again.runs, again.there, again.events) == (0, exported.runs, 0)
        assert await everything(two, "nobody") == before
        await export_runs(two, tmp_path / "g", now=10**15)
        assert (tmp_path / "g").read_bytes() == (tmp_path / "f").read_bytes()
        await one.close()
        await two.close()

    run(main())
    for database in tmp_path.glob("*.db"):
        assert check_file(database) == []


def test_a_message_that_was_consumed_does_not_arrive_again(run, file):
    store = MemoryStore()
    run(import_runs(store, file))
    assert run(store.deliver([letter("a", "m1"), letter("a", "m2")])) == [False, False]
    [unread] = run(store.unread("a"))
    assert unread.message.payload == conversation(20)


def test_epochs_go_on_rising_where_a_run_is_imported(run, file):
    store = MemoryStore()
    run(import_runs(store, file))
    claims = run(claim(store, "ann", LATE))
    assert {c.row.run: c.epoch for c in claims} == {"a": 2, "a/x": 2, "b": 2}


def test_a_run_goes_with_its_family_and_alone_without_it(run, filled, tmp_path):
    store = MemoryStore()
    exported = run(export_runs(filled, tmp_path / "f", ["a", "a/x"], now=LATE))
    assert (exported.runs, exported.unended) == (2, 2)
    run(import_runs(store, tmp_path / "f"))
    assert set(run(streams(store))) == {"a", "a/x"}
    assert run(store.unread("nobody")) == []
    assert run(export_runs(filled, tmp_path / "g", ["a/x"], now=LATE)).runs == 1
    with pytest.raises(RunUnknown, match="'c'"):
        run(export_runs(filled, tmp_path / "h", ["c"], now=LATE))
    assert not (tmp_path / "h").exists()


def test_a_run_that_a_worker_holds_is_refused_until_it_is_given_back(run, filled, tmp_path):
    run(claim(filled, "ann", LATE, run="b"))
    path = tmp_path / "f"
    for runs in ([], ["b"]):
        with pytest.raises(UsageError, match=r"'b' \(by ann\).*drain the workers"):
            run(export_runs(filled, path, runs, now=LATE))
        assert list(tmp_path.iterdir()) == []
    assert run(export_runs(filled, path, ["a"], now=LATE)).runs == 2
    run(filled.release("ann"))
    assert run(export_runs(filled, tmp_path / "g", now=LATE)).runs == 4


def test_an_export_never_writes_over_a_file(run, filled, file):
    before = file.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        run(export_runs(filled, file, now=LATE))
    assert file.read_bytes() == before


def test_every_cut_of_a_file_is_refused_and_changes_nothing(run, file, tmp_path):
    whole, store, torn = file.read_bytes(), MemoryStore(), tmp_path / "torn"
    for length in range(len(whole)):
        torn.write_bytes(whole[:length])
        with pytest.raises(StoreRefused, match="torn"):
            run(import_runs(store, torn))
    assert run(everything(store, "nobody")) == [[], [], [[]]]


def altered(lines, number, old, new):
    assert old in lines[number], lines[number]
    return [*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]]


ALTERED = {
    "a leaf": (2, rb"\"seed\":0", rb"\"seed\":1", "cannot follow|checksum|leaf"),
    "a payload": (2, b'"payload":"bnVsbA=="', b'"payload":"MQ=="', "commits to"),
    "a run's name": (1, b'"run":"a"', b'"run":"z"', "among those of 'z'"),
    "a number of events": (1, b'"events":4', b'"events":3', "ends with"),
    "an epoch that falls": (1, b'"epoch":1', b'"epoch":0', "epoch 0"),
    "a message": (6, b'"id":"m1"', b'"id":"m9"', "checksum"),
    "a version": (0, b'"v":1', b'"v":9', "upgrade"),
    "a format": (0, b"holdfast", b"hold", "not an export"),
    "the end's count": (-1, b'"runs":4', b'"runs":5', "it holds"),
    "what is no JSON": (3, b"{", b"", "not a line"),
    "a line of another kind": (3, b'"leaf"', b'"leef"', "not an export"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_file_is_refused_with_its_line_and_changes_nothing(what, run, file):
    number, old, new, said = ALTERED[what]
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    if what == "a message":
        number = next(n for n, line in enumerate(lines) if line.startswith(b'{"message":"m1"'))
        old, new = b'"topic":"topic"', b'"topic":"other"'
    file.write_bytes(gzip.compress(b"".join(altered(lines, number, old, new))))
    store = MemoryStore()
    with pytest.raises(StoreRefused, match=said) as refused:
        run(import_runs(store, file))
    assert f"{file}, line " in str(refused.value)
    assert run(everything(store)) == [[], [], []]


def test_lines_that_are_missing_doubled_or_behind_the_end_are_refused(run, file):
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    broken = [
        [*lines[:n], *lines[n + 1 :]]
        for n in range(len(lines))  # one is missing
    ]
    broken += [[*lines[: n + 1], *lines[n:]] for n in range(len(lines))]
    for some in broken:
        file.write_bytes(gzip.compress(b"".join(some)))
        with pytest.raises(StoreRefused):
            run(import_runs(MemoryStore(), file))


def test_a_foreign_file_is_refused(run, tmp_path):
    path = tmp_path / "f"
    for content in (b"hello", gzip.compress(b"hello\n"), gzip.compress(b'{"a":1}\n'), bytes(500)):
        path.write_bytes(content)
        with pytest.raises(StoreRefused, match="not a"):
            run(import_runs(MemoryStore(), path))
    with pytest.raises(StoreRefused, match="No such file"):
        run(import_runs(MemoryStore(), tmp_path / "none"))


def test_a_run_that_is_there_otherwise_refuses_the_whole_import(run, file):
    store = MemoryStore()
    run(begin(store, "done", at=NOW + 1))
    before = run(everything(store))
    with pytest.raises(StoreRefused, match=r"'done' is there already.*from event 1 on"):
        run(import_runs(store, file))
    assert run(everything(store)) == before


def test_a_run_that_went_on_is_left_alone_and_moves_back_with_what_it_did(
    run, filled, file, tmp_path
):
    store = MemoryStore()
    run(import_runs(store, file))
    [claimed] = run(claim(store, "ann", LATE, run="b"))
    script = Script(run(store.read("b")), at=LATE, epoch=claimed.epoch)
    run(append(store, script.change(NOTE, release=True)))
    before = run(everything(store))
    assert run(import_runs(store, file)).there == 4
    assert run(everything(store)) == before
    run(export_runs(store, tmp_path / "back", now=LATE))
    run(filled.deliver([letter("b", "m3")]))
    back = run(import_runs(filled, tmp_path / "back"))
    assert (back.runs, back.there, back.events) == (1, 3, 1)
    assert run(filled.read("b")) == script.events
    assert [m.message.id for m in run(filled.unread("b"))] == ["m2", "m3"]


def test_runs_that_both_stores_carried_on_are_refused(run, filled, file, tmp_path):
    store = MemoryStore()
    run(import_runs(store, file))
    for at, one in ((LATE, store), (LATE + 1, filled)):
        [claimed] = run(claim(one, "ann", LATE, run="b"))
        script = Script(run(one.read("b")), at=at, epoch=claimed.epoch)
        run(append(one, script.change(NOTE, release=True)))
    run(export_runs(store, tmp_path / "back", now=LATE))
    before = run(everything(filled))
    with pytest.raises(StoreRefused, match="'b' is there already and is another one from event 5"):
        run(import_runs(filled, tmp_path / "back"))
    assert run(everything(filled)) == before


def test_an_import_that_died_anywhere_is_taken_up_where_it_stopped(run, filled, file, monkeypatch):
    monkeypatch.setattr(export_file, "PART_EVENTS", 2)
    expected = run(streams(filled))

    class Dies(MemoryStore):
        left = 0

        async def receive(self, part):
            if not self.left:
                raise StoreUnavailable("the process died")
            self.left -= 1
            await super().receive(part)

    for left in range(7):
        store = Dies()
        store.left = left
        with pytest.raises(StoreUnavailable):
            run(import_runs(store, file))
        half = [c.row.run for c in run(store.held("$import"))]
        assert [c.row.run for c in run(claim(store, "ann", LATE, limit=99))] != half or not half
        run(store.release("ann"))
        store.left = 99
        run(import_runs(store, file))
        assert run(streams(store)) == expected
        assert run(store.held("$import")) == []


def test_a_half_imported_run_is_not_exported(run, file, tmp_path, monkeypatch):
    monkeypatch.setattr(export_file, "PART_EVENTS", 2)
    store = MemoryStore()
    part = next(iter(export_file.Reader(file).parts()))
    run(store.receive(part))
    with pytest.raises(UsageError, match="import the file again first"):
        run(export_runs(store, tmp_path / "f", now=LATE))


def test_memory_does_not_grow_with_what_is_moved(run, tmp_path):
    """A payload of 1 MB may be there a few times at once, fifty of them may not."""

    async def main():
        one, two = await sqlite(tmp_path / "one.db"), await sqlite(tmp_path / "two.db")
        script = await hold(one, "r")
        for n in range(50):
            noise = json.dumps([f"{n:02}" * 500_000]).encode()
            await one.append(script.change((ev.StreamEmitted(n + 1), noise)))
        await park(one, script)
        tracemalloc.start()
        await export_runs(one, tmp_path / "f", now=LATE)
        exporting = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        await import_runs(two, tmp_path / "f")
        importing = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert await streams(two) == await streams(one)
        await one.close()
        await two.close()
        return exporting, importing

    for peak in run(main()):
        assert peak < 25_000_000


def test_a_run_is_carried_on_where_it_was_imported(run, tmp_path):
    done = []

    @hf.tool(effect="once")
    async def ship(order: str) -> str:
        done.append(order)
        return f"shipped {order}"

    @hf.agent
    async def approve(order: str) -> str:
        shipped = await ship(order)
        return f"{shipped}: {await hf.receive('note', str)}"

    async def main():
        async with hf.App(tmp_path / "one.db", agents=[approve]) as one:
            with pytest.raises(hf.RunParked):
                await one.run(approve, "7", id="r")
            await export_runs(one.store, tmp_path / "f", ["r"], now=10**17)
        async with hf.App(tmp_path / "two.db", agents=[approve]) as two:
            await import_runs(two.store, tmp_path / "f")
            await two.client.message("r", "fine", topic="note")
            return await two.run(approve, "7", id="r")

    assert run(main()) == "shipped 7: fine"
    assert done == ["7"]
