"""A signed log in PostgreSQL: who gives positions signs, and nobody does without the key.

*Goal*: as in a file, the newest head covers exactly the events that have a position; whatever is
altered is found and named; nothing is signed on top of what was not signed; a sequencer that is
killed leaves nothing half done. *Method*: the root is recomputed from the leaves with the RFC's
definition, for one store, two that take turns, and processes that are killed by ``kill -9``; the
tables are altered by hand, as whoever owns the database can.
"""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from holdfast.core import events as ev
from holdfast.errors import KeyMissing, RunUnknown
from holdfast.proof import keys, merkle
from holdfast.proof.export import checkpoint_of, consistency_of, proof_of, publish
from holdfast.proof.note import Checkpoint
from holdfast.proof.postgres_source import VERSIONS, verify_database
from holdfast.proof.tiles_source import TilesSource, fetch_from
from holdfast.proof.verify import verify
from holdfast.stores.postgres import PostgresStore, schema
from holdfast.stores.postgres import store as store_module
from holdfast.testing.signed import HEIR, KEY, Writing, begin, notaries, write


async def opened(url, **options):
    return await PostgresStore.open(url, lease_clock="caller", notaries=notaries, **options)


async def covered(store, key=KEY):
    """Assert that the newest head is that of the whole log, and return its size."""
    head = await store.signed.head()
    leaves = [merkle.leaf_hash(event.leaf) for _, event in await store.read_log(0, limit=10**6)]
    assert (head.size, head.root) == (len(leaves), merkle.root_of(leaves))
    assert key.verifier.signed(Checkpoint(key.name, head.size, head.root).text(), head.signature)
    return head.size


def change(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else cursor.rowcount


@pytest.fixture
def written(database):
    """A signed database of 21 events that nobody has open."""

    async def main():
        store = await opened(database)
        await begin(store)
        await write(store)
        await covered(store)
        await store.close()

    asyncio.run(main())
    return database


def test_the_newest_head_covers_all_that_has_a_position(database):
    async def main():
        store = await opened(database)
        await begin(store)
        writing = Writing(store)
        sizes = [await covered(store)]
        for run in ("one", "two"):
            await writing.start(run)
            sizes.append(await covered(store))
        for number in range(3):
            await writing.add("one", ev.StepStarted(f"m#{number + 1}", "read"))
            sizes.append(await covered(store))
        await store.close()
        return sizes

    assert asyncio.run(main()) == [0, 1, 2, 3, 4, 5]
    heads = change(database, "SELECT size FROM holdfast.head ORDER BY size")
    assert [size for (size,) in heads] == [0, 1, 2, 3, 4, 5]
    report = verify_database(database)
    assert report.ok, report.findings
    assert (report.events, report.runs) == (5, 2)


@pytest.mark.parametrize("added", [4, 300])
def test_tiles_are_kept_and_of_the_heads_before_the_last_one_the_first_in_each(database, added):
    async def main():
        store = await opened(database)
        await begin(store)
        writing = Writing(store)
        await writing.start("one")
        await covered(store)
        for _ in range(600 // added):
            await writing.add("one", *[ev.StreamEmitted(1)] * added)
            await store.read_log(10**9, limit=1)  # whoever reads the log gives positions
        await covered(store)
        await store.close()

    asyncio.run(main())
    heads = [s for (s,) in change(database, "SELECT size FROM holdfast.head ORDER BY size")]
    made = [0, *range(1, 602, added)]
    first = [next(size for size in made if size >= begun) for begun in (0, 256, 512)]
    assert heads == sorted({*first, *(size for size in made if size >= 512)})
    tiles = change(database, "SELECT level, n, length(hashes) FROM holdfast.tile ORDER BY n")
    assert tiles == [(0, 0, 8192), (0, 1, 8192)]
    assert verify_database(database).ok


def test_two_stores_take_turns_in_growing_one_tree(database):
    async def main():
        ann, bob = await opened(database), await opened(database)
        await begin(ann)
        writings = Writing(ann), Writing(bob)
        for number, writing in enumerate(writings * 3):
            await writing.start(f"run{number}")
            await writing.add(f"run{number}", *[ev.StreamEmitted(1)] * 100)
            assert await covered(writing.store) == 101 * (number + 1)
        await asyncio.gather(
            *(w.add(run, ev.StreamEmitted(2)) for w in writings for run in w.scripts)
        )
        assert await covered(bob) == await covered(ann) == 612
        await ann.close()
        await bob.close()

    asyncio.run(main())
    assert verify_database(database).ok


def test_a_log_that_was_written_before_is_signed_as_it_stands(database):
    async def main():
        store = await opened(database)
        writing = await write(store, rounds=60)
        assert await store.signed.head() is None
        before = len(await store.read_log(0, limit=1000))
        await writing.add("one", ev.StreamEmitted(1))  # which has no position yet
        await begin(store)
        assert await covered(store) == before + 1 > 256
        await store.close()

    asyncio.run(main())
    assert verify_database(database).ok


def test_nobody_opens_a_signed_database_to_write_without_the_key(written):
    async def main():
        with pytest.raises(KeyMissing, match="nobody here has its private key"):
            await PostgresStore.open(written)
        reading = await PostgresStore.open(written, read_only=True)
        assert await covered(reading) == 21
        await reading.close()

    asyncio.run(main())


def test_who_has_not_the_key_gives_no_positions(database, caplog):
    async def main():
        keyless = await PostgresStore.open(database, lease_clock="caller")
        store = await opened(database)
        await begin(store)
        writing = Writing(keyless)
        await writing.start("one")
        assert await keyless.read_log(0, limit=9) == []
        assert await keyless.read_log(0, limit=9) == []
        assert await covered(store) == 1
        await keyless.close()
        await store.close()

    asyncio.run(main())
    assert [r.getMessage() for r in caplog.records if "no event gets a position" in r.getMessage()]


def test_another_key_takes_over_where_the_old_one_says(written):
    async def main():
        store = await opened(written)
        signer = await store.signed.enrol(lambda head: keys.hand_over(KEY, head, HEIR))
        assert signer.since == await covered(store, KEY) == 21
        await Writing(store).start("later")
        assert await covered(store, HEIR) == 22
        await store.close()

    asyncio.run(main())
    report = verify_database(written)
    assert report.ok, report.findings
    assert report.keys == [str(KEY.verifier), str(HEIR.verifier)]


def test_a_signer_who_cannot_be_asked_leaves_all_as_it_was(database):
    stranger = keys.signer_of(keys.new_key("example.com/log"))

    def refuse(_signer):
        raise KeyMissing("no such key")

    async def main():
        store = await PostgresStore.open(database, lease_clock="caller", notaries=refuse)
        with pytest.raises(KeyMissing):
            await store.signed.enrol(lambda _: stranger)
        assert await store.signed.signers() == []
        await Writing(store).start("one")
        assert len(await store.read_log(0, limit=9)) == 1
        await store.close()

    asyncio.run(main())


def test_proofs_are_made_as_from_a_file(written, tmp_path):
    async def main():
        store = await opened(written)
        old = Checkpoint.parse((await checkpoint_of(store.signed)).text)
        proof = await proof_of(store.signed, "two", 2)
        (event,) = await store.read("two", after=1, until=2)
        head = Checkpoint.parse(proof.checkpoint.text)
        leaf = merkle.leaf_hash(event.leaf)
        assert merkle.is_included(leaf, proof.index, head.size, proof.hashes, head.root)
        await Writing(store).start("later")
        hashes, note = await consistency_of(store.signed, old)
        new = Checkpoint.parse(note.text)
        assert merkle.is_consistent(old.size, old.root, new.size, new.root, hashes)
        await publish(store.signed, tmp_path / "log")
        await store.close()
        return note

    note = asyncio.run(main())
    folder = str(tmp_path / "log")
    report = verify(TilesSource(fetch_from(folder), folder), against=[note])
    assert report.ok, report.findings
    assert report.events == 22


def test_an_event_without_a_position_is_not_in_the_tree_yet(written, monkeypatch):
    monkeypatch.setattr(store_module, "PLACE_S", 1e6)

    async def main():
        store = await opened(written)
        await Writing(store).start("later")
        report = verify_database(written)
        assert (report.ok, report.events) == (True, 21)
        with pytest.raises(RunUnknown):
            await store.signed.index("later", 1)
        assert await covered(store) == 22
        assert await store.signed.index("later", 1) == 21
        await store.close()

    asyncio.run(main())


_LEAF = "UPDATE holdfast.event SET leaf = set_byte(leaf, 40, get_byte(leaf, 40) # 1) WHERE seq = 3"
ATTACKS = {
    "leaf": _LEAF,
    "payload": "UPDATE holdfast.event SET payload = '1', form = 0 WHERE payload <> '1' AND seq = 2",
    "salt": "UPDATE holdfast.event SET salt = decode(repeat('00', 32), 'hex') WHERE seq = 1",
    "drop": "DELETE FROM holdfast.event WHERE seq = 3",
    "drop the last": "DELETE FROM holdfast.event WHERE (run, seq) IN "
    "(SELECT run, max(seq) FROM holdfast.event GROUP BY run)",
    "truncate": "DELETE FROM holdfast.placed WHERE pos > 9",
    "swap": "UPDATE holdfast.placed SET run = 9 WHERE run = 1 AND seq = 4;"
    " UPDATE holdfast.placed SET run = 1 WHERE run = 2 AND seq = 4;"
    " UPDATE holdfast.placed SET run = 2 WHERE run = 9",
    "renumber": "UPDATE holdfast.placed SET pos = pos + 1 WHERE pos > 15",
    "root": "UPDATE holdfast.head SET root = decode(repeat('00', 32), 'hex') WHERE size = 21",
    "signature": "UPDATE holdfast.head SET signature = decode(repeat('00', 64), 'hex')",
    "head of the end": "DELETE FROM holdfast.head WHERE size = 21",
    "signer": "UPDATE holdfast.signer SET since = 3",
    "row": "UPDATE holdfast.run SET head = repeat('0', 64) WHERE n = 2",
    "chunk": "DELETE FROM holdfast.chunk",
    "rule": "CREATE RULE quiet AS ON DELETE TO holdfast.event DO INSTEAD NOTHING",
    "trigger": "CREATE FUNCTION f() RETURNS trigger AS 'BEGIN RETURN NULL; END' LANGUAGE plpgsql;"
    " CREATE TRIGGER t BEFORE UPDATE ON holdfast.event FOR EACH ROW EXECUTE FUNCTION f()",
    "policy": "ALTER TABLE holdfast.event ENABLE ROW LEVEL SECURITY",
    "view": "ALTER TABLE holdfast.tile RENAME TO t;"
    " CREATE VIEW holdfast.tile AS SELECT * FROM holdfast.t",
    "column": "ALTER TABLE holdfast.event ADD COLUMN more text",
    "version": "UPDATE holdfast.meta SET version = 3",
}
NAMED = {"leaf": 3, "payload": 2, "salt": 1, "drop": 3}
"""Attacks on one event, and its seq."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_is_altered_is_found(written, attack):
    assert verify_database(written).ok
    assert change(written, ATTACKS[attack]) != 0
    report = verify_database(written)
    assert not report.ok
    if attack in NAMED:
        assert report.findings[0].seq == NAMED[attack], report.findings


@pytest.mark.parametrize("attack", ["leaf", "truncate", "root", "signature", "head of the end"])
def test_nothing_is_signed_on_top_of_what_was_not_signed(written, attack, caplog):
    change(written, ATTACKS[attack])
    (newest,) = change(written, "SELECT max(size) FROM holdfast.head")

    async def main():
        store = await opened(written)
        await Writing(store).start("later")
        assert (await store.signed.head()).size == newest[0]
        assert await store.read_log(21, limit=9) == []
        await store.close()

    asyncio.run(main())
    (told,) = [r.getMessage() for r in caplog.records if "no event gets a position" in r.msg]
    assert "Hint: holdfast verify" in told
    assert not verify_database(written).ok


def test_what_is_no_store_is_no_store(postgres, database):
    report = verify_database(database)
    assert "there is no store" in report.findings[0].what
    report = verify_database(postgres.url("none"))
    assert "not a store that can be read" in report.findings[0].what


def test_the_verifier_knows_the_version_of_the_store():
    assert max(VERSIONS) == schema.VERSION


_WRITER = """
import asyncio, sys
from holdfast.core import events as ev
from holdfast.stores.postgres import PostgresStore
from holdfast.testing.signed import Writing, notaries

async def main(url, name):
    store = await PostgresStore.open(url, lease_clock="caller", notaries=notaries)
    writing = Writing(store)
    await writing.start(name)
    print("begun", flush=True)
    while True:
        await writing.add(name, *[ev.StreamEmitted(1)] * 7)
        await store.read_log(10**9, limit=1)

asyncio.run(main(*sys.argv[1:]))
"""


def test_sequencers_that_are_killed_leave_nothing_half_done(database):
    async def sign():
        store = await opened(database)
        await begin(store)
        await store.close()

    asyncio.run(sign())
    size = 0
    for round_ in range(4):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, database, f"{name}{round_}"],
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parent,
            )
            for name in ("a", "b")
        ]
        try:
            for writer in writers:
                assert writer.stdout.readline() == b"begun\n"
            aim = size + 200
            while size < aim:
                ((size,),) = change(database, "SELECT max(size) FROM holdfast.head")
        finally:
            for writer in writers:
                writer.send_signal(signal.SIGKILL)
                writer.wait()
                writer.stdout.close()
        report = verify_database(database)
        assert report.ok, report.findings
        assert report.events >= size

    async def go_on():
        store = await opened(database)
        await Writing(store).start("last")
        assert await covered(store) > size
        await store.close()

    asyncio.run(go_on())
    assert verify_database(database).ok
