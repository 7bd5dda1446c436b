"""What somebody may do to a signed file, and what the verifier says: the table of docs/proof.md.

*Goal*: whoever edits, drops, swaps, inserts, duplicates, renumbers or truncates events is found out
at every index, whether or not he puts right what nobody signs: the run's row, the ``prev`` of the
next event, the tiles. Two attacks pass on the file alone, an older copy put back and a log signed
anew by the holder of the key; both are caught by one checkpoint kept outside. *Method*: the attacks
are SQL on a real file.
"""

import asyncio
import struct
import zlib
from contextlib import closing
from itertools import pairwise

import apsw
import pytest

from holdfast.proof.merkle import leaf_hash, root_of
from holdfast.proof.note import Checkpoint, Note
from holdfast.proof.policy import Policy
from holdfast.proof.sqlite_source import verify_file
from holdfast.proof.stored import StoredPayloads
from holdfast.testing.signed import HEIR, KEY, Writing, open_signed, write_signed

EVENTS = 21


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a signed file with three runs that take turns."""
    return write_signed(tmp_path_factory.mktemp("attacks") / "log.db").read_bytes()


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """The bytes of a signed file with one full tile."""
    return write_signed(tmp_path_factory.mktemp("tiled") / "log.db", rounds=50).read_bytes()


@pytest.fixture
def log(small, tmp_path):
    """A signed file, to be ruined."""
    path = tmp_path / "log.db"
    path.write_bytes(small)
    return path


def sql(path, *statements):
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("BEGIN")
        found = None
        for statement in statements:
            text, values = statement if isinstance(statement, tuple) else (statement, ())
            found = connection.execute(text, values).fetchall()
        connection.execute("COMMIT")
    return found


def leaf_at(path, pos):
    return sql(path, ("SELECT leaf FROM event WHERE pos = ?", (pos,)))[0][0]


def edited(leaf):
    """Say something else, in as many bytes."""
    return leaf.replace(b'"at":1', b'"at":2')


def put(path, pos, leaf):
    sql(path, ("UPDATE event SET leaf = ? WHERE pos = ?", (leaf, pos)))


def mend_rows(path):
    """Make the rows of runs what the events say, as a clever forger would."""
    sql(
        path,
        "DELETE FROM run WHERE n NOT IN (SELECT run FROM event)",
        "UPDATE run SET seq = (SELECT count(*) FROM event WHERE run = run.n)",
    )
    for (n,) in sql(path, "SELECT n FROM run"):
        last = ("SELECT leaf FROM event WHERE run = ? ORDER BY seq DESC LIMIT 1", (n,))
        head = leaf_hash(sql(path, last)[0][0]).hex()
        sql(path, ("UPDATE run SET head = ? WHERE n = ?", (head, n)))


def renumber(path):
    """Close the gaps in positions and seqs."""
    rows = sql(path, "SELECT pos, run FROM event ORDER BY pos")
    sql(path, "UPDATE event SET seq = seq + 1000")
    seqs = {}
    for new, (pos, run) in enumerate(rows, 1):
        seqs[run] = seqs.get(run, 0) + 1
        sql(path, ("UPDATE event SET pos = ?, seq = ? WHERE pos = ?", (new, seqs[run], pos)))


def named(report):
    return [(f.kind, f.index) for f in report.findings]


def test_the_file_is_sound(log):
    report = verify_file(log)
    assert report.ok, report.findings
    assert report.events == EVENTS


@pytest.mark.parametrize("index", range(EVENTS))
def test_an_edit_names_its_event(index, log):
    put(log, index + 1, edited(leaf_at(log, index + 1)))
    report = verify_file(log)
    assert named(report) == [("event", index)]
    assert "altered" in report.findings[0].what


@pytest.mark.parametrize("index", range(EVENTS))
def test_an_edit_whose_row_was_put_right_is_named_or_its_commit_is(index, log):
    put(log, index + 1, edited(leaf_at(log, index + 1)))
    mend_rows(log)
    (finding,) = verify_file(log).findings
    last_of_run = index in (16, 18, 20)
    if finding.kind == "event":
        assert finding.index == index
    else:
        assert last_of_run
        sizes = [size for (size,) in sql(log, "SELECT size FROM head ORDER BY size")]
        window = next((a, b) for a, b in pairwise(sizes) if a <= index < b)
        assert f"events {window[0] + 1} to {window[1]} of the log were others" in finding.what


def test_an_edit_whose_chain_was_put_right_to_the_end_is_named_by_its_commit(log):
    (run,) = sql(log, "SELECT run FROM event WHERE pos = 5")[0]
    before = after = ""
    for (pos,) in sql(log, ("SELECT pos FROM event WHERE run = ? AND pos >= 5", (run,))):
        old = leaf_at(log, pos)
        new = old.replace(before.encode(), after.encode()) if before else edited(old)
        put(log, pos, new)
        before, after = leaf_hash(old).hex(), leaf_hash(new).hex()
    mend_rows(log)
    (finding,) = verify_file(log).findings
    assert finding.kind == "log"
    assert "another root: events" in finding.what


@pytest.mark.parametrize("index", [0, 100, 255, 256, 300])
def test_an_edit_below_a_tile_that_was_put_right_is_named(index, tiled, tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(tiled)
    put(path, index + 1, edited(leaf_at(path, index + 1)))
    if index < 256:
        leaves = sql(path, "SELECT leaf FROM event WHERE pos <= 256 ORDER BY pos")
        hashes = [leaf_hash(leaf) for (leaf,) in leaves]
        values = (b"".join(hashes), root_of(hashes))
        sql(path, ("UPDATE tile SET hashes = ?, root = ? WHERE level = 0 AND n = 0", values))
    first, *others = verify_file(path).findings
    assert (first.kind, first.index) == ("event", index)
    assert {other.kind for other in others} == ({"tile"} if index < 256 else set())


def test_a_tile_that_was_altered_is_named_and_no_event(tiled, tmp_path):
    path = tmp_path / "log.db"
    path.write_bytes(tiled)
    sql(path, "UPDATE tile SET root = zeroblob(32)")
    assert [f.kind for f in verify_file(path).findings] == ["tile"]
    path.write_bytes(tiled)
    sql(path, "DELETE FROM tile")
    assert "tile 0/0 is missing" in verify_file(path).findings[0].what
    path.write_bytes(tiled)
    ((hashes,),) = sql(path, "SELECT hashes FROM tile")
    sql(path, ("UPDATE tile SET hashes = ?", (hashes[:32] + bytes(32) + hashes[64:],)))
    assert named(verify_file(path)) == [("tile", 1)]


@pytest.mark.parametrize("mend", [False, True])
@pytest.mark.parametrize("index", range(EVENTS))
def test_a_dropped_event_is_missed(index, mend, log):
    ((run, seq),) = sql(log, ("SELECT run, seq FROM event WHERE pos = ?", (index + 1,)))
    sql(log, ("DELETE FROM event WHERE pos = ?", (index + 1,)))
    if mend:
        renumber(log)
        mend_rows(log)
    report = verify_file(log)
    assert not report.ok
    words = " ".join(map(str, report.findings))
    later = sql(log, ("SELECT 1 FROM event WHERE run = ? AND seq > ?", (run, seq)))
    if mend:
        assert f"truncated: {EVENTS} events are signed, here are {EVENTS - 1}" in words or (
            "another root" in words
        )
    elif later:
        assert any(f.index == index for f in report.findings), report.findings
    else:
        assert f"should have {seq} events" in words


@pytest.mark.parametrize("index", range(EVENTS - 1))
def test_swapped_events_are_found(index, log):
    a, b = index + 1, index + 2
    for old, new in ((a, 1000), (b, a), (1000, b)):
        sql(log, ("UPDATE event SET pos = ? WHERE pos = ?", (new, old)))
    report = verify_file(log)
    assert not report.ok
    first = report.findings[0]
    if first.index >= 0:
        assert first.index in (index, index + 1)
    else:
        assert f"to {index + 1} of the log" in first.what or f"to {index + 2} of the log" in (
            first.what
        ), first


@pytest.mark.parametrize("mend", [False, True])
@pytest.mark.parametrize("index", range(EVENTS + 1))
def test_an_inserted_copy_is_found(index, mend, log):
    for pos in range(EVENTS, index, -1):
        sql(log, ("UPDATE event SET pos = ? WHERE pos = ?", (pos + 1, pos)))
    source = index or 2
    copy = """INSERT INTO event (pos, run, seq, leaf, salt, form, payload)
        SELECT ?, run, 99, leaf, salt, form, payload FROM event WHERE pos = ?"""
    sql(log, (copy, (index + 1, source)))
    if mend:
        renumber(log)
        mend_rows(log)
    report = verify_file(log)
    assert not report.ok
    assert any(f.index in (index - 1, index) for f in report.findings), report.findings


@pytest.mark.parametrize("left", range(EVENTS))
def test_a_truncated_log_is_found_unless_its_heads_are_cut_where_a_commit_was(left, log):
    kept = sql(log, "SELECT size FROM head ORDER BY size")
    sql(log, ("DELETE FROM event WHERE pos > ?", (left,)))
    mend_rows(log)
    report = verify_file(log)
    assert any("truncated" in f.what for f in report.findings), report.findings
    sql(log, ("DELETE FROM head WHERE size > ?", (left,)))
    assert verify_file(log).ok == ((left,) in kept)  # that is an older copy: see below


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM head; END",
        "CREATE INDEX i ON event (leaf)",
        "ALTER TABLE event RENAME TO hidden; CREATE VIEW event AS SELECT * FROM hidden",
        "ALTER TABLE event ADD COLUMN more TEXT",
        "DROP INDEX event_seq",
        "DROP TABLE tile",
        "PRAGMA user_version = 9",
        "PRAGMA application_id = 9",
    ],
)
def test_what_hangs_on_our_tables_is_found(statement, log):
    with closing(apsw.Connection(str(log))) as connection:
        for part in statement.split("; "):
            connection.execute(part if "BEGIN" not in statement else statement).fetchall()
            if "BEGIN" in statement:
                break
    report = verify_file(log)
    assert not report.ok
    assert "file" in {f.kind for f in report.findings}


def test_a_users_own_tables_are_no_attack(log):
    sql(
        log,
        "CREATE TABLE ledger (x)",
        "CREATE INDEX mine ON ledger (x)",
        "CREATE VIEW seen AS SELECT x FROM ledger",
    )
    assert verify_file(log).ok


def test_a_log_whose_keys_or_heads_are_gone_is_not_signed(log, small):
    sql(log, "DELETE FROM signer")
    assert "not signed" in verify_file(log).findings[0].what
    log.write_bytes(small)
    sql(log, "DELETE FROM head")
    assert f"cover 0 of {EVENTS} events" in verify_file(log).findings[0].what


def test_a_policy_that_does_not_know_the_key_refuses_the_log(log):
    stranger = Policy(logs=[HEIR.verifier], quorum="none")
    assert "which the policy does not know" in verify_file(log, trust=stranger).findings[0].what
    assert verify_file(log, trust=Policy(logs=[KEY.verifier], quorum="none")).trusted


@pytest.mark.parametrize("data", [b"", b"nothing", bytes(4096), b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_store_is_a_finding_and_no_exception(data, tmp_path):
    (tmp_path / "log.db").write_bytes(data)
    assert not verify_file(tmp_path / "log.db").ok
    assert not verify_file(tmp_path / "missing.db").ok
    assert not verify_file(tmp_path).ok


# The two that pass alone.


def newest(path):
    """Return the newest checkpoint of a file, as its owner keeps it outside."""
    (row,) = sql(path, "SELECT size, root, signature FROM head ORDER BY size DESC LIMIT 1")
    return Checkpoint(KEY.name, *row[:2]).note(KEY.verifier, row[2])


async def grown(path):
    """Add an event."""
    store = await open_signed(path)
    await Writing(store).start("four")
    await store.close()


def test_an_older_copy_passes_alone_and_is_truncated_by_a_checkpoint_kept_outside(log, small):
    asyncio.run(grown(log))
    kept: Note = newest(log)
    assert verify_file(log, against=[kept]).ok
    log.write_bytes(small)  # the older copy
    assert verify_file(log).ok
    (finding,) = verify_file(log, against=[kept]).findings
    said = f"{EVENTS + 1} events are in a checkpoint kept outside, here are {EVENTS}"
    assert finding.what == f"truncated: {said}"


def test_a_log_signed_anew_passes_alone_and_is_a_split_view_outside(log, tmp_path):
    kept = newest(log)
    forged = write_signed(tmp_path / "forged.db", runs=("one", "two", "thr33"))
    assert verify_file(forged, trust=Policy(logs=[KEY.verifier], quorum="none")).ok
    (finding,) = verify_file(forged, against=[kept]).findings
    assert finding.what == (
        f"split view: by a checkpoint kept outside, the first {EVENTS} events were others"
    )


def test_a_checkpoint_of_another_log_or_key_compares_nothing(log):
    other = Checkpoint("example.com/other", 1, bytes(32))
    note = other.note(KEY.verifier, KEY.sign(other.text()))
    assert (
        "it is of the log 'example.com/other'" in verify_file(log, against=[note]).findings[0].what
    )
    wrong = Checkpoint(KEY.name, 1, bytes(32))
    note = wrong.note(HEIR.verifier, HEIR.sign(wrong.text()))
    assert "is not signed by" in verify_file(log, against=[note]).findings[0].what


def read_chunked(height, chunk):
    """Read a payload whose chunks are all the same one."""
    asked = []
    rows = StoredPayloads(lambda n: [asked.append(n) or chunk], lambda _: [], None)
    stored = struct.pack("<BQ2I", height, 1 << 26, 7, 7)
    return rows.read(None, b"s" * 32, 2, stored), asked


def test_a_chunk_that_lists_itself_does_not_fill_the_memory():
    payload, _ = read_chunked(2, (0, struct.pack("<2000I", *[7] * 2_000)))
    assert payload.lost == "its bytes are damaged: more chunks than a payload can have"


def test_a_chunk_that_inflates_to_megabytes_is_not_remembered():
    deflater = zlib.compressobj(wbits=-13)
    payload, asked = read_chunked(0, (1, deflater.compress(bytes(1 << 20)) + deflater.flush()))
    assert "its chunks do not have its length" in payload.lost
    assert asked == [7, 7]
