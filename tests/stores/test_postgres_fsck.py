"""Each kind of damage to a store in a database is found, and named by run and event.

*Goal*: fsck finds in PostgreSQL what it finds in a file, and what only a database can have. What
must hold of a run is tried in full on files (``test_sqlite_fsck.py``); here each check is met once.
*Method*: a healthy store with every kind of thing in it, and statements that somebody might run.
"""

import asyncio

import psycopg
import pytest

from holdfast.core import events as ev
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.postgres.fsck import check_database
from holdfast.stores.vault import WRAPPED_BYTES
from holdfast.subjects import Subject
from holdfast.testing.harness import NOTE, NOW, append, hold, letter
from holdfast.testing.retention import TOLD, ended, tell
from holdfast.testing.script import conversation

BIG = conversation(40)


async def fill(url):
    """Make runs that are held, parked, ended and collected, messages, chunks and subjects."""
    store = await PostgresStore.open(url, lease_clock="caller")
    await ended(store, "gone")
    a, b, c = [await hold(store, name) for name in "abc"]
    await append(store, a.change((ev.StepStarted("s#1", "read"), BIG)))
    await append(store, a.change((ev.StepFinished("s#1"), b'{"ok":true}'), NOTE))
    await store.deliver([letter("b", "m1"), letter("b", "m2", payload=BIG), letter("none", "m1")])
    received = (ev.MessageReceived("receive#1", "topic", "m1"), b"1")
    await append(store, b.change(received, consume=[1]))
    await append(store, b.change(ev.RunParked("waiting", NOW + 5), release=True, seen=1))
    await store.add_subject(Subject("S", b"k" * WRAPPED_BYTES))
    await tell(store)
    await store.collect(["gone"], TOLD)
    await append(store, c.change(NOTE))
    await store.close()


@pytest.fixture
def healthy(database):
    asyncio.run(fill(database))
    return database


def damage(url, *statements):
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.replace("@", "holdfast."))
    return [(p.run, p.seq, p.what) for p in check_database(url)]


OF = "run = (SELECT n FROM @run WHERE id = '{}') AND seq = {}".format
EDITED = "convert_to(replace(convert_from(leaf, 'UTF8'), 's#1', 's#2'), 'UTF8')"
DESTROYED = f"decode(repeat('00', {WRAPPED_BYTES}), 'hex')"
FUNCTION = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW;END'"
EXACTLY = {
    "a leaf": (
        f"UPDATE @event SET leaf = {EDITED} WHERE {OF('a', 2)}",
        [("a", 2, "leaf hash")],
    ),
    "a payload": (
        rf"UPDATE @event SET payload = '\x31' WHERE {OF('a', 3)}",
        [("a", 3, "payload")],
    ),
    "a payload taken out": (
        f"UPDATE @event SET payload = NULL, salt = NULL, form = 3 WHERE {OF('a', 3)}",
        [("a", 3, "payload")],
    ),
    "a status": ("UPDATE @run SET status = 'idle' WHERE id = 'b'", [("b", 3, "row.status")]),
    "a lost worker": ("DELETE FROM @worker WHERE id = 'ann'", [(r, 0, "lease") for r in "ac"]),
    "a lost wake-up": ("UPDATE @run SET ready_at = NULL WHERE id = 'b'", [("b", 0, "ready_at")]),
    "a lost message": ("DELETE FROM @inbox WHERE n = 1", [("b", 2, "message 'm1'")]),
    "a message without payload": (
        "UPDATE @inbox SET payload = NULL WHERE n = 2",
        [("b", 0, "inbox number 2")],
    ),
    "a chunk's hash": (r"UPDATE @chunk SET hash = '\x31' WHERE n = 2", [("", 0, "chunk 2")]),
    "a key": (
        r"UPDATE @subject SET key = '\x31'",
        [("", 0, "key of subject 'S'")],
    ),
    "an erasure that nothing tells of": (
        f"UPDATE @subject SET erased = '$erased/S', key = {DESTROYED}",
        [("", 0, "erasure of 'S'")],
    ),
    "a run that ended later than what was collected": (
        "UPDATE @run SET updated_at = 9000000 WHERE id = 'gone'",
        [("gone", 1, "payload"), ("gone", 3, "payload"), ("gone", 4, "payload")],
    ),
    "a trigger": (
        f"{FUNCTION}; CREATE TRIGGER t BEFORE INSERT ON @event EXECUTE FUNCTION f()",
        [("", 0, "holdfast.event")],
    ),
    "a rule": (
        "CREATE RULE r AS ON DELETE TO @event DO INSTEAD NOTHING",
        [("", 0, "holdfast.event")],
    ),
    "a policy": ("ALTER TABLE @run ENABLE ROW LEVEL SECURITY", [("", 0, "holdfast.run")]),
    "a version": ("UPDATE @meta SET version = 99", [("", 0, "schema")]),
}
AMONG_OTHERS = {
    "a lost event": (f"DELETE FROM @event WHERE {OF('a', 3)}", ("a", 3, "position")),
    "an event without position": (
        "DELETE FROM @placed WHERE run = (SELECT n FROM @run WHERE id = 'b') AND seq <= 2",
        ("b", 2, "position"),
    ),
    "a gap of positions": (
        "UPDATE @placed SET pos = pos + 100 WHERE pos = (SELECT max(pos) FROM @placed)",
        ("", 0, "position"),
    ),
    "two positions": (
        "INSERT INTO @unplaced (run, seq, count) SELECT n, 2, 1 FROM @run WHERE id = 'b'",
        ("b", 2, "position"),
    ),
    "a run without a row": ("DELETE FROM @run WHERE id = 'b'", ("#3", 0, "row")),
    "a lost chunk": ("DELETE FROM @chunk WHERE n = 2", ("a", 2, "payload")),
}


def test_a_healthy_store_has_no_problem(healthy):
    assert check_database(healthy) == []


@pytest.mark.parametrize("name", EXACTLY)
def test_damage_is_named_and_nothing_else_is(name, healthy):
    statements, expected = EXACTLY[name]
    assert sorted(damage(healthy, *statements.split("; "))) == expected


@pytest.mark.parametrize("name", AMONG_OTHERS)
def test_damage_with_consequences_is_named(name, healthy):
    statement, expected = AMONG_OTHERS[name]
    assert expected in damage(healthy, statement)


def test_what_is_no_store_is_a_problem(database):
    assert [p.what for p in check_database(database)] == ["schema"]
    assert [p.what for p in check_database("postgresql://nobody@127.0.0.1:1/none")] == ["database"]
