"""Each kind of damage to a store file is found, and named by run and event.

*Goal*: fsck finds whatever does not hold, blames the event that was altered and no neighbour, and
never raises. *Method*: a healthy file with every kind of thing in it; each damage is a statement
that somebody might run on a copy of it, beside what fsck must say; then single bits are flipped.
"""

import asyncio
import random
import re
import shutil
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from holdfast.core import events as ev
from holdfast.ports import Message
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.fsck import Problem, check_file
from holdfast.testing.conformance import log_of_schedule
from holdfast.testing.harness import NOTE, NOW, hold, letter, transact
from holdfast.testing.script import conversation

BIG = conversation(40)


async def fill(path: Path) -> None:
    """Make a file with runs that are held and parked, messages, chunks and its user's tables."""
    store = await SqliteStore.open(path, inline=True)
    a, b, c = [await hold(store, name) for name in "abc"]
    await store.append(a.change((ev.StepStarted("s#1", "read"), BIG)))
    await store.append(a.change((ev.StepFinished("s#1"), b'{"ok":true}'), NOTE))
    await store.deliver([letter("b", "m1"), letter("b", "m2", payload=BIG), letter("none", "m1")])
    received = (ev.MessageReceived("receive#1", "topic", "m1"), b"1")
    await store.append(b.change(received, consume=[1]))
    await store.append(b.change(ev.RunParked("waiting", NOW + 5), release=True, seen=1))

    d = await hold(store, "d")
    words = {"child/done": "$child", "resolve": "$resolve", "resolve-2": "$resolve"}
    words |= {"cancel": "$cancel"}
    sent = [Message("d", f"d/{id_}", topic, b"1", NOW) for id_, topic in words.items()]
    await store.deliver(sent)
    done, *steered = [m.n for m in await store.unread("d")]
    started = (ev.StepStarted("s#1", "once"), b"{}")
    ended = (ev.ChildFinished("c#1", "d/child", ok=True), b"1")
    await store.append(d.change(started, ended, consume=[done]))
    settled = ev.StepResolved("s#1", 1, "unknown", "ann")
    await store.append(
        d.change(ev.StepDoubted("s#1", 1), settled, ev.CancelRequested("ann"), consume=steered)
    )

    def theirs(transaction):
        transaction.execute("CREATE TABLE theirs (run)")
        transaction.execute("CREATE INDEX by_run ON theirs (run)")
        transaction.execute("CREATE VIEW looking AS SELECT * FROM theirs")
        body = "BEGIN DELETE FROM theirs; END"
        transaction.execute(f"CREATE TRIGGER tidy AFTER INSERT ON theirs {body}")

    await transact(store, c.change(NOTE), theirs)
    await store.close()


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("healthy") / "holdfast.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def file(healthy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(healthy, tmp_path))


def replace(old: str, new: str, pos: int) -> str:
    leaf = f"CAST(replace(CAST(leaf AS TEXT), '{old}', '{new}') AS BLOB)"
    return f"UPDATE event SET leaf = {leaf} WHERE pos = {pos}"


# Positions: run a has 1, 4, 5, 6; run b has 2, 7, 8; run c has 3, 15; run d has 9 to 14.
EXACTLY = {
    "a leaf": (replace('"key":"s#1"', '"key":"s#2"', 4), [("a", 2, "leaf hash")]),
    "a first leaf": (replace('"seed":0', '"seed":1', 1), [("a", 1, "leaf hash")]),
    "a last leaf": (replace('"n":1', '"n":2', 6), [("a", 4, "leaf hash")]),
    "a leaf's prev": (replace('"prev":"', '"prev":"0', 5), [("a", 3, "leaf hash")]),
    "a leaf that is not JSON": (
        replace("}", "", 4),
        [("a", 2, "leaf")],
    ),
    "a payload": ("UPDATE event SET payload = x'31' WHERE pos = 5", [("a", 3, "payload")]),
    "a lost payload": ("UPDATE event SET payload = NULL WHERE pos = 5", [("a", 3, "payload")]),
    "a lost salt": ("UPDATE event SET salt = NULL WHERE pos = 5", [("a", 3, "salt")]),
    "another salt": ("UPDATE event SET salt = zeroblob(32) WHERE pos = 5", [("a", 3, "payload")]),
    "another form": ("UPDATE event SET form = 1 WHERE pos = 5", [("a", 3, "payload")]),
    "a payload from nowhere": (
        "UPDATE event SET payload = x'31' WHERE pos = 8",
        [("b", 3, "payload")],
    ),
    "a lost last event": (
        "DELETE FROM event WHERE pos = 15",
        [("c", 2, "length of the stream")],
    ),
    "a row's status": ("UPDATE run SET status = 'idle' WHERE id = 'b'", [("b", 3, "row.status")]),
    "a row's wake_at": ("UPDATE run SET wake_at = 7 WHERE id = 'b'", [("b", 3, "row.wake_at")]),
    "a row's seed": ("UPDATE run SET seed = 7 WHERE id = 'c'", [("c", 2, "row.seed")]),
    "a row's parent": ("UPDATE run SET parent = 'a' WHERE id = 'c'", [("c", 2, "row.parent")]),
    "a row's head": ("UPDATE run SET head = 'x' WHERE id = 'c'", [("c", 2, "leaf hash")]),
    "a row's seq": ("UPDATE run SET seq = 3 WHERE id = 'c'", [("c", 3, "length of the stream")]),
    "a fallen epoch": ("UPDATE run SET epoch = 0 WHERE id = 'c'", [("c", 2, "row.epoch")]),
    "a lost worker": ("DELETE FROM worker", [(run, 0, "lease") for run in "acd"]),
    "a held run that looks free": (
        f"UPDATE run SET ready_at = {NOW} WHERE id = 'a'",
        [("a", 0, "ready_at")],
    ),
    "a lost wake-up": ("UPDATE run SET ready_at = NULL WHERE id = 'b'", [("b", 0, "ready_at")]),
    "a message that can be read again": (
        "UPDATE inbox SET taken = NULL, payload = x'31' WHERE n = 1",
        [("b", 2, "message 'm1'")],
    ),
    "a lost message": ("DELETE FROM inbox WHERE n = 1", [("b", 2, "message 'm1'")]),
    "a message consumed by nothing": (
        "UPDATE inbox SET taken = 3, payload = NULL WHERE n = 2",
        [("b", 3, "message 'm2'"), ("b", 0, "ready_at")],
    ),
    "a message consumed before it was": (
        "UPDATE inbox SET taken = 1 WHERE n = 1",
        [("b", 1, "message 'm1'")],
    ),
    "a child that never ended": (
        "DELETE FROM inbox WHERE id = 'd/child/done'",
        [("d", 3, "message 'd/child/done'")],
    ),
    "a child's end taken too early": (
        "UPDATE inbox SET taken = 2 WHERE id = 'd/child/done'",
        [("d", 2, "message 'd/child/done'")],
    ),
    "a cancellation by nobody": (
        "DELETE FROM inbox WHERE id = 'd/cancel'",
        [("d", 6, "a $cancel message")],
    ),
    "a cancellation taken too early": (
        "UPDATE inbox SET taken = 2 WHERE id = 'd/cancel'",
        [("d", 6, "a $cancel message")],
    ),
    "a cancellation that led to nothing": (
        "UPDATE inbox SET topic = '$cancel' WHERE id = 'd/resolve-2'",
        [("d", 6, "a $cancel message")],
    ),
    "a word that was never said": (
        "DELETE FROM inbox WHERE topic = '$resolve'",
        [("d", 5, "a $resolve message")],
    ),
    "a message without payload": (
        "UPDATE inbox SET payload = NULL WHERE n = 2",
        [("b", 0, "inbox number 2")],
    ),
    "a message consumed by no run": (
        "UPDATE inbox SET taken = 1, payload = NULL WHERE n = 3",
        [("none", 0, "inbox number 3")],
    ),
    "a trigger": (
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM theirs; END",
        [("", 0, "object 't'")],
    ),
    "an index": ("CREATE INDEX i ON run (status)", [("", 0, "object 'i'")]),
    "a lost index": ("DROP INDEX run_held", [("", 0, "object 'run_held'")]),
    "a further column": ("ALTER TABLE worker ADD COLUMN x TEXT", [("", 0, "object 'worker'")]),
    "a run without events": (
        "DELETE FROM event WHERE run = 3",
        [("", 0, "position"), ("c", 2, "length of the stream")],
    ),
}
AMONG_OTHERS = {
    "a lost event": ("DELETE FROM event WHERE pos = 5", ("a", 3, "seq")),
    "a lost event's place": ("DELETE FROM event WHERE pos = 5", ("", 0, "position")),
    "an event twice": (
        "INSERT INTO event SELECT 16, run, 5, leaf, salt, form, payload FROM event WHERE pos = 6",
        ("a", 5, "leaf"),
    ),
    "a renumbered event": ("UPDATE event SET seq = 9 WHERE pos = 6", ("a", 4, "seq")),
    "events in another order": ("UPDATE event SET pos = 16 WHERE pos = 4", ("a", 3, "position")),
    "another run's event": (
        "UPDATE event SET run = 2, seq = 4 WHERE pos = 6",
        ("b", 4, "leaf"),
    ),
    "a run without a row": ("DELETE FROM run WHERE id = 'c'", ("#3", 0, "row")),
    "a run with another id": ("UPDATE run SET id = 'z' WHERE id = 'c'", ("z", 1, "leaf")),
    "a chunk": ("UPDATE chunk SET form = 0, data = x'31' WHERE n = 2", ("", 0, "chunk 2")),
    "a payload's chunk": (
        "UPDATE chunk SET form = 0, data = x'31' WHERE n = 2",
        ("a", 2, "payload"),
    ),
    "a message's chunk": ("DELETE FROM chunk WHERE n = 2", ("b", 0, "reading")),
    "a lost chunk": ("DELETE FROM chunk WHERE n = 2", ("a", 2, "payload")),
    "a chunk's hash": ("UPDATE chunk SET hash = x'31' WHERE n = 2", ("", 0, "chunk 2")),
    "a lost table": ("DROP TABLE worker", ("", 0, "object 'worker'")),
}


def damage(file: Path, statement: str) -> list[tuple[str, int, str]]:
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute(statement)
        assert connection.total_changes() or not statement.startswith(("UPDATE", "DELETE"))
    return [(p.run, p.seq, p.what) for p in check_file(file)]


def test_a_healthy_file_has_no_problem_and_is_not_touched(healthy: Path):
    before = healthy.read_bytes()
    assert check_file(healthy) == []
    assert healthy.read_bytes() == before
    assert [path.name for path in healthy.parent.iterdir() if "workers" not in path.name] == [
        healthy.name
    ]


@pytest.mark.parametrize("name", EXACTLY)
def test_damage_is_named_and_nothing_else_is(name: str, file: Path):
    statement, expected = EXACTLY[name]
    assert sorted(damage(file, statement)) == sorted(expected)


@pytest.mark.parametrize("name", AMONG_OTHERS)
def test_damage_with_consequences_is_named(name: str, file: Path):
    statement, expected = AMONG_OTHERS[name]
    assert expected in damage(file, statement)


def test_a_store_in_use_can_be_checked(tmp_path: Path):
    async def main():
        store = await SqliteStore.open(tmp_path / "a.db")
        await log_of_schedule(store, 5)
        assert check_file(tmp_path / "a.db") == []
        await store.close()

    asyncio.run(main())


def test_every_bit_of_a_leaf_counts(file: Path):
    with closing(apsw.Connection(str(file))) as connection:
        rows = connection.execute(
            "SELECT id, event.seq, leaf FROM event JOIN run ON run.n = event.run"
        ).fetchall()
    whole = file.read_bytes()
    chance = random.Random(1)
    for run, seq, leaf in rows:
        # A page that was split may hold an old copy beside the one that counts.
        copies = [found.start() for found in re.finditer(re.escape(leaf), whole)]
        for _ in range(6):
            place, bit = chance.randrange(len(leaf) - 1), 1 << chance.randrange(8)
            torn = bytearray(whole)
            for at in copies:
                torn[at + place] ^= bit
            file.write_bytes(torn)
            found = {(p.run, p.seq) for p in check_file(file)}
            assert (run, seq) in found, f"byte {place} of {leaf!r}: {found}"


def test_no_flipped_bit_makes_it_raise(file: Path):
    whole = file.read_bytes()
    chance = random.Random(2)
    found = 0
    for _ in range(300):
        torn = bytearray(whole)
        torn[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(torn)
        found += bool(check_file(file))
    assert found > 20  # most of the others hit free space


@pytest.mark.parametrize("size", [0, 1, 99, 100, 4096, 3 * 4096, 3 * 4096 + 1])
def test_a_torn_file_is_a_problem(size: int, file: Path):
    file.write_bytes(file.read_bytes()[:size])
    assert check_file(file)


def test_what_is_no_store_is_a_problem(tmp_path: Path):
    other = apsw.Connection(str(tmp_path / "other.db"))
    other.execute("CREATE TABLE t (a)")
    other.close()
    for name in ("other.db", "none.db", ".", "no/such"):
        [problem] = check_file(tmp_path / name)
        assert problem.what == "file"
        assert str(tmp_path / name) in problem.found


def test_a_problem_reads_as_a_sentence():
    problem = Problem("r", 3, "salt", "one", "none")
    assert str(problem) == "run 'r' event 3: salt: expected one, found none"
    assert str(Problem("r", 0, "row", "x", "y")) == "run 'r': row: expected x, found y"
    assert str(Problem("", 0, "file", "x", "y")) == "file: expected x, found y"
