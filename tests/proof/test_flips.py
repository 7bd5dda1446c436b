"""Whichever bit of a signed store file is flipped: if that changes what the log says, it is found.

*Goal*: a flip in a leaf, a payload, a head or a key names that very event, head or key; a flip
anywhere else is found if a reader would see another log; no exception escapes the verifier.
*Method*: a small file with small pages is taken into memory, one bit flipped, and verified. What a
reader would see is read out by a second, naive program. `make test` flips every bit of every salt,
payload, head and key and of some
leaves, and one bit of each eighth byte else; `make soak` flips every bit of every byte.
"""

import re
from contextlib import closing
from functools import lru_cache

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.proof.note import VerifierKey
from holdfast.proof.sqlite_source import SqliteSource
from holdfast.proof.verify import verify
from holdfast.stores.payloads import load
from holdfast.testing.signed import write_signed

pytestmark = pytest.mark.timeout(600)
PAGE = 512
PARTS = 8
EVENTS = 18
JOURNAL_MODE = slice(18, 20)
"""Of the header: a file in memory has no write-ahead log, so it may not ask for one."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The bytes of a small signed file, ready to be opened in memory."""
    path = write_signed(tmp_path_factory.mktemp("flips") / "log.db", rounds=4, runs=("one", "two"))
    with closing(apsw.Connection(str(path))) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {PAGE}", "VACUUM"):
            connection.execute(statement).fetchall()
    data = path.read_bytes()
    assert data[JOURNAL_MODE] == b"\1\1"
    assert len(data) < 60_000
    return data


@pytest.fixture(autouse=True)
def quick_signatures(monkeypatch):
    """Most flips leave most signatures as they are: check each one once."""
    monkeypatch.setattr(VerifierKey, "signed", lru_cache(100_000)(VerifierKey.signed))


def opened(data):
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", data)
    return closing(connection)


def report_on(data):
    with opened(data) as connection:
        return verify(SqliteSource(connection, "log"))


def says_the_same(file, data):
    """Tell whether a flip hit one of the bits that a deflated stream leaves unused at its end."""
    return content(file) == content(data) is not None


def flipped(data, at, bit):
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def content(data):
    """Return what a reader sees of the log, or None if he cannot read it."""
    try:
        with opened(data) as connection:

            def ask(statement, *values):
                return connection.execute(statement, values).fetchall()

            def fetch(number):
                ((form, stored),) = ask("SELECT form, data FROM chunk WHERE n = ?", number)
                return load(form, stored, None)

            events = ask("SELECT pos, run, seq, leaf, salt, form, payload FROM event ORDER BY pos")
            return [
                [(*e[:5], None if e[6] is None else load(*e[5:], fetch)) for e in events],
                ask("SELECT n, id, seq, head FROM run ORDER BY n"),
                ask("SELECT * FROM head ORDER BY size"),
                ask("SELECT key, since, statement FROM signer ORDER BY n"),
                ask("SELECT * FROM tile ORDER BY level, n"),
            ]
    except Exception:  # noqa: BLE001 - the reader is naive and may fall over anything
        return None


def every_bit(data, at, length):
    for offset in range(at, at + length):
        for bit in range(8):
            yield flipped(data, offset, bit)


@pytest.fixture(scope="module")
def rows(file):
    with opened(file) as connection:
        events = connection.execute("SELECT pos - 1, leaf, salt, payload FROM event").fetchall()
        heads = connection.execute("SELECT size, root, signature FROM head").fetchall()
        ((key,),) = connection.execute("SELECT key FROM signer").fetchall()
        chunks = connection.execute("SELECT data FROM chunk").fetchall()
    return events, heads, key, chunks


def pieces(data, value):
    """Yield (offset, size) of the parts of a value: in its page, then in its overflow pages."""
    start, before = 0, content(data)
    while start < len(value):
        for size in range(len(value) - start, 11, -1):
            part = value[start : start + size]
            found = [at.start() for at in re.finditer(re.escape(part), data)]
            if live := [at for at in found if content(flipped(data, at, 0)) != before]:
                yield live[0], size
                break
        else:
            return  # a rest too short to be told from others
        start += size


def test_the_file_is_sound(file):
    report = report_on(file)
    assert report.ok, report.findings
    assert report.events == EVENTS
    assert content(file) is not None


@pytest.mark.parametrize(
    "index",
    [n if n in (7, EVENTS - 1) else pytest.param(n, marks=pytest.mark.soak) for n in range(EVENTS)],
)
def test_every_bit_of_a_leaf_names_its_event(index, file, rows):
    leaf = rows[0][index][1]
    tried = 0
    for at, size in pieces(file, leaf):
        for data in every_bit(file, at, size):
            report = report_on(data)
            first = report.findings[0]
            assert (first.kind, first.index) == ("event", index), report.findings
            assert first.run in ("one", "two")
            tried += 1
    assert tried >= 8 * len(leaf) * 9 // 10


def test_every_bit_of_a_salt_or_a_payload_names_its_event(file, rows):
    tried = 0
    for index, _, salt, payload in rows[0]:
        for value in (salt, payload):
            if value is None or len(value) < 20:
                continue
            for at, size in pieces(file, value):
                for data in every_bit(file, at, size):
                    found = report_on(data).findings
                    if not says_the_same(file, data):
                        named = rows[0][found[0].index]
                        assert (found[0].kind, value in named) == ("payload", True), (index, found)
                    tried += 1
    assert tried > EVENTS * 32 * 8 // 2


def test_every_bit_of_a_chunk_names_the_events_whose_payloads_share_it(file, rows):
    tried = 0
    for (data,) in rows[3][:6]:
        for at, size in pieces(file, data):
            for ruined in every_bit(file, at, size):
                found = report_on(ruined).findings
                assert {f.kind for f in found} == {"payload"} or says_the_same(file, ruined)
                assert all(rows[0][f.index][3] for f in found)
                tried += 1
    assert tried > 2_000


@pytest.mark.parametrize(
    "nth", [0, -1, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, 10))]
)
def test_every_bit_of_a_head_names_it(nth, file, rows):
    for size, root, signature in rows[1][nth:][:1]:
        for value in (root, signature):
            for at, length in pieces(file, value):
                for data in every_bit(file, at, length):
                    report = report_on(data)
                    assert [f.kind for f in report.findings] == ["checkpoint"], report.findings
                    assert f"signed head of {size} events" in report.findings[0].what


def test_every_bit_of_the_key_names_it(file, rows):
    for at, length in pieces(file, rows[2].encode()):
        for data in every_bit(file, at, length):
            assert "key" in {f.kind for f in report_on(data).findings}


def check_flips(file, offsets, bits):
    before = content(file)
    for at in offsets:
        for bit in bits(at):
            data = flipped(file, at, bit)
            report = report_on(data)
            if report.ok and at not in range(*JOURNAL_MODE.indices(100)):
                assert content(data) == before, f"bit {bit} of byte {at} passes"


def test_a_bit_of_each_eighth_byte(file):
    check_flips(file, range(3, len(file), 8), lambda at: [(at // 8) % 8])


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_bit_of_every_byte(part, file):
    check_flips(file, range(part, len(file), PARTS), lambda _: range(8))


@given(data=st.data())
def test_rubbish_anywhere_in_the_file_is_found_or_says_the_same(file, data):
    start = data.draw(st.integers(0, len(file) - 1))
    length = data.draw(st.sampled_from([1, 2, 4, 16, PAGE, 3 * PAGE]))
    kind = data.draw(st.sampled_from(["rubbish", "zeros", "copy", "cut"]))
    if kind == "cut":
        ruined = file[:start]
    else:
        other = data.draw(st.integers(0, len(file) - 1))
        noise = data.draw(st.binary(min_size=length, max_size=length))
        part = {"rubbish": noise, "zeros": bytes(length), "copy": file[other : other + length]}
        ruined = (file[:start] + part[kind] + file[start + length :])[: len(file)]
    if ruined[JOURNAL_MODE] == b"\1\1" and len(ruined) >= PAGE and report_on(ruined).ok:
        assert content(ruined) == content(file)
