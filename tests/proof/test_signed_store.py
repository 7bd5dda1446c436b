"""A signed store signs every commit, whoever writes it, and nobody writes it without the key.

*Goal*: the newest head always covers exactly the events that are there, and its root is theirs.
*Method*: the root is recomputed from the leaves with the RFC's definition, after single commits,
group commits, undone transactions, commits of two stores that take turns, and a key's rotation; a
file that version 1 left behind is signed as it is.
"""

import asyncio
import gzip
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from holdfast.core import events as ev
from holdfast.errors import KeyMissing, ProofRefused, UsageError
from holdfast.proof import keys, merkle
from holdfast.proof.note import Checkpoint, VerifierKey
from holdfast.proof.sqlite_source import SCHEMAS, schema_digest, verify_file
from holdfast.stores.memory import MemoryStore
from holdfast.stores.sqlite import SqliteStore, file
from holdfast.stores.sqlite.file import VERSION, create_tables
from holdfast.stores.sqlite.fsck import check_file
from holdfast.testing.signed import (
    HEIR,
    KEY,
    Writing,
    begin,
    notaries,
    open_signed,
    write,
    write_signed,
)

OLD = Path(__file__).parents[1] / "stores" / "files" / "version1.db.gz"


async def covered(store, key=KEY):
    """Assert that the newest head is that of the whole log, and return its size."""
    leaves = [merkle.leaf_hash(event.leaf) for _, event in await store.read_log(0, limit=10**6)]
    head = await store.signed.head()
    assert (head.size, head.root) == (len(leaves), merkle.root_of(leaves))
    text = Checkpoint(key.name, head.size, head.root).text()
    assert key.verifier.signed(text, head.signature)
    return head.size


def rows(path, statement):
    with closing(apsw.Connection(str(path))) as connection:
        return connection.execute(statement).fetchall()


def test_every_commit_has_a_head_that_covers_it(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db")
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

    sizes = asyncio.run(main())
    assert sizes == [0, 1, 2, 3, 4, 5]
    heads = rows(tmp_path / "log.db", "SELECT size FROM head ORDER BY size")
    assert [size for (size,) in heads] == sizes


@pytest.mark.parametrize("added", [3, 4, 300])
def test_of_heads_before_the_last_full_tile_the_first_in_each_is_kept(tmp_path, added):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        writing = Writing(store)
        await writing.start("one")
        for _ in range(600 // added):
            await writing.add("one", *[ev.StreamEmitted(1)] * added)
        await covered(store)
        await store.close()

    asyncio.run(main())
    heads = [size for (size,) in rows(tmp_path / "log.db", "SELECT size FROM head ORDER BY size")]
    made = [0, *range(1, 602, added)]
    first = [next(size for size in made if size >= begun) for begun in (0, 256, 512)]
    assert heads == sorted({*first, *(size for size in made if size >= 512)})
    tiles = rows(tmp_path / "log.db", "SELECT level, n, length(hashes) FROM tile")
    assert tiles == [(0, 0, 8192), (0, 1, 8192)]
    assert verify_file(tmp_path / "log.db").ok


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE event SET leaf = CAST(replace(leaf, 'step', 'stop') AS BLOB) WHERE pos = 3",
        "UPDATE head SET root = zeroblob(32) WHERE size = (SELECT max(size) FROM head)",
        "UPDATE head SET signature = zeroblob(64) WHERE size = (SELECT max(size) FROM head)",
        "DELETE FROM head WHERE size = (SELECT max(size) FROM head)",
    ],
    ids=["leaf", "root", "signature", "head"],
)
def test_nothing_is_signed_on_top_of_what_was_not_signed(tmp_path, damage):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        writing = Writing(store)
        await writing.start("one")
        for number in range(3):
            await writing.add("one", ev.StepStarted(f"m#{number + 1}", "read"))
        await store.close()
        before = rows(tmp_path / "log.db", damage + " RETURNING 1")
        assert before
        left = rows(tmp_path / "log.db", "SELECT count(*) FROM event")
        writing.store = await open_signed(tmp_path / "log.db")
        with pytest.raises(ProofRefused, match="holdfast verify"):
            await writing.add("one", ev.StreamEmitted(1))
        await writing.store.close()
        assert rows(tmp_path / "log.db", "SELECT count(*) FROM event") == left

    asyncio.run(main())
    assert not verify_file(tmp_path / "log.db").ok


def test_a_group_commit_has_one_head(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db", inline=False)
        await begin(store)
        writing = Writing(store)
        for run in ("one", "two", "three"):
            await writing.start(run)
        await asyncio.gather(*(writing.add(run, ev.StreamEmitted(1)) for run in writing.scripts))
        await covered(store)
        await store.close()

    asyncio.run(main())
    assert verify_file(tmp_path / "log.db").ok


def test_what_was_undone_is_in_no_tree(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        writing = await write(store)
        size = await covered(store)
        script = writing.scripts["one"]

        def body(transaction):
            transaction.execute("CREATE TABLE mine (x) STRICT")

        with pytest.raises(apsw.SQLError):
            await store.transact("one", script.epoch, script.state.seq, body)
        assert await covered(store) == size
        await writing.add("one", ev.StreamEmitted(1))
        assert await covered(store) == size + 1
        await store.close()

    asyncio.run(main())


def test_two_writers_of_one_file_grow_one_tree(tmp_path):
    async def main():
        one = await open_signed(tmp_path / "log.db")
        await begin(one)
        two = await open_signed(tmp_path / "log.db")
        first, second = Writing(one), Writing(two)
        await first.start("one")
        await second.start("two")
        for number in range(150):
            await first.add("one", ev.StreamEmitted(1), ev.StreamEmitted(2))
            if number % 3 == 0:
                await second.add("two", ev.StreamEmitted(1))
        assert await covered(one) == await covered(two) == 2 + 300 + 50
        await one.close()
        await two.close()

    asyncio.run(main())
    assert verify_file(tmp_path / "log.db").ok
    assert check_file(tmp_path / "log.db") == []


def test_a_log_that_was_written_before_is_signed_as_it_stands(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        writing = await write(store, rounds=120)
        assert await store.signed.head() is None
        await begin(store)
        size = await covered(store)
        await writing.add("one", ev.StreamEmitted(1))
        assert await covered(store) == size + 1 > 256 * 2
        await store.close()

    asyncio.run(main())
    assert verify_file(tmp_path / "log.db").ok


def test_a_file_of_version_1_is_brought_up_and_signed(tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    assert rows(path, "PRAGMA user_version") == [(1,)]
    before = rows(path, "SELECT leaf, salt, form, payload FROM event ORDER BY pos")

    async def main():
        store = await open_signed(path)
        assert len(await store.read_log(0, limit=100)) == len(before) == 18
        assert [row.seq for row in await store.rows()] == [9, 9]
        await begin(store)
        assert await covered(store) == 18
        await store.close()

    asyncio.run(main())
    assert rows(path, "SELECT leaf, salt, form, payload FROM event ORDER BY pos") == before
    assert rows(path, "PRAGMA user_version") == [(VERSION,)]
    assert check_file(path) == []
    assert verify_file(path).ok


def test_the_schemas_that_the_verifier_pins_are_those_of_the_store():
    """A new version of the format wants a line in SCHEMAS: what this test says it should be."""
    fresh, grown = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    create_tables(fresh)
    assert SCHEMAS.get(VERSION) == schema_digest(fresh)
    for version in range(1, VERSION + 1):
        step = Path(file.__file__).parent / "migrations" / f"{version:04}.sql"
        grown.execute(step.read_text())
        assert version == 1 or SCHEMAS.get(version) == schema_digest(grown)


def test_nobody_writes_a_signed_file_without_the_key(tmp_path):
    path = write_signed(tmp_path / "log.db")
    before = path.read_bytes()

    async def main():
        with pytest.raises(KeyMissing, match="nobody here has its private key"):
            await SqliteStore.open(path, inline=True)
        reader = await SqliteStore.open(path, read_only=True)
        assert await covered(reader) > 0
        await reader.close()

    asyncio.run(main())
    assert path.read_bytes() == before


def test_a_writer_that_was_there_before_the_file_was_signed_is_refused(tmp_path):
    async def main():
        late = await SqliteStore.open(tmp_path / "log.db", inline=True)
        writing = Writing(late)
        await writing.start("one")
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        with pytest.raises(KeyMissing, match=r"is signed by example.com/log\+"):
            await writing.add("one", ev.StreamEmitted(1))
        assert await covered(store) == 1
        assert await late.deliver([]) == []  # what adds no event needs no key
        await late.close()
        await store.close()

    asyncio.run(main())


def test_another_key_takes_over_where_the_old_one_says(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        writing = await write(store)
        size = await covered(store)
        signer = await store.signed.enrol(lambda head: keys.hand_over(KEY, head, HEIR))
        assert signer.since == await covered(store, KEY) == size
        await writing.add("one", ev.StreamEmitted(1))
        assert await covered(store, HEIR) == size + 1
        assert [s.key for s in await store.signed.signers()] == [
            str(KEY.verifier),
            str(HEIR.verifier),
        ]
        await store.close()

    asyncio.run(main())
    report = verify_file(tmp_path / "log.db")
    assert report.ok, report.findings
    assert report.keys == [str(KEY.verifier), str(HEIR.verifier)]


def test_a_signer_who_cannot_be_asked_leaves_all_as_it_was(tmp_path):
    stranger = keys.signer_of(keys.new_key("example.com/log"))

    def refuse(signer):
        if signer == stranger:
            raise KeyMissing("no such key")
        return notaries(signer)

    async def main():
        store = await SqliteStore.open(tmp_path / "log.db", inline=True, notaries=refuse)
        with pytest.raises(KeyMissing, match="no such key"):
            await store.signed.enrol(lambda _: stranger)
        assert await store.signed.signers() == []
        await begin(store)
        await write(store)
        with pytest.raises(KeyMissing, match="no such key"):
            await store.signed.enrol(lambda _: stranger)
        await covered(store)
        await store.close()

    asyncio.run(main())


def test_a_store_in_memory_takes_no_signer():
    async def main():
        with pytest.raises(UsageError, match="cannot be signed"):
            await begin(MemoryStore())

    asyncio.run(main())


# Key files.


def test_a_key_file_is_for_its_owner_alone_and_comes_back_as_it_was(tmp_path):
    path = tmp_path / "log.db.key"
    keys.add_key(path, KEY)
    keys.add_key(path, HEIR)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.read_keys(path) == [KEY, HEIR]
    keys.keep_key(path, HEIR)
    assert keys.read_keys(path) == [HEIR]
    assert [p.name for p in tmp_path.iterdir()] == ["log.db.key"]
    path.chmod(0o640)
    with pytest.raises(ProofRefused, match=r"mode 0640, expected 0600.*Hint: chmod 600"):
        keys.read_keys(path)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "PRIVATE+KEY+a+b",
        KEY.text()[:-4] + "AAA=",
        KEY.text().replace("+KEY+example", "+KEY+another"),
        str(KEY.verifier),
    ],
)
def test_a_damaged_key_is_refused_and_not_repeated(text, tmp_path):
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(ProofRefused) as refused:
        keys.read_keys(path)
    assert text[-20:] not in str(refused.value)


def test_keys_are_written_as_go_writes_them():
    text = KEY.text()
    assert text.startswith("PRIVATE+KEY+example.com/log+")
    name, id_, data = str(KEY.verifier).split("+", 2)
    assert (name, id_) == ("example.com/log", KEY.verifier.id.hex())
    assert VerifierKey.parse(str(KEY.verifier)) == KEY.verifier
    assert data
