"""A published log is verified bit by bit, and the verifier survives whatever it is fed.

*Goal*: any flip in a published log that changes what it says names the event; what is missing, cut
off or swapped is found; a directory is carried on by its own log alone; no bytes at all make the
verifier raise. *Method*: every bit of a small published log in memory; then Hypothesis, with files
of rubbish in the place of each file, and rubbish parsed as every format.
"""

import asyncio
import contextlib
import threading
from functools import lru_cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.errors import ProofRefused, UsageError
from holdfast.proof.event_proof import verify_event
from holdfast.proof.export import publish
from holdfast.proof.note import Checkpoint, EventProof, Note, Signature, SignerKey, VerifierKey
from holdfast.proof.policy import Policy
from holdfast.proof.rotation import taken_over
from holdfast.proof.tiles_source import TilesSource, fetch_from
from holdfast.proof.verify import verify
from holdfast.proof.witness import Witness
from holdfast.testing.signed import KEY, Writing, begin, open_signed, write

pytestmark = pytest.mark.timeout(600)


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The files of a small published log."""
    folder = tmp_path_factory.mktemp("published")

    async def main():
        store = await open_signed(folder / "log.db")
        await begin(store)
        await write(store, rounds=2, runs=("one", "two"))
        await publish(store.signed, folder / "log")
        await store.close()

    asyncio.run(main())
    return files_of(folder / "log")


@pytest.fixture(autouse=True)
def quick_signatures(monkeypatch):
    """Most flips leave the signature as it is: check each one once."""
    monkeypatch.setattr(VerifierKey, "signed", lru_cache(100_000)(VerifierKey.signed))


def report_on(files):
    return verify(TilesSource(lambda path, _most: files.get(path), "log"))


def test_it_is_sound(published):
    report = report_on(published)
    assert report.ok, report.findings
    assert report.events == 10
    assert {"checkpoint", "tile/0/000.p/10", "tile/entries/000.p/10", "keys/1", "README.md"} <= set(
        published
    )


def lengths(bundle):
    """Return where each leaf is, as (start, end), in a bundle."""
    at, found = 0, []
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + 2])
        found.append((at + 2, at + 2 + size))
        at += 2 + size
    return found


@pytest.mark.parametrize(
    "name", ["checkpoint", "keys/1", "trust.policy", "tile/0/000.p/10", "payloads/*"]
)
def test_every_bit_of_every_file_is_found(name, published):
    paths = [path for path in published if Path(path).match(name)]
    assert paths
    for path in paths:
        for at in range(len(published[path])):
            for bit in range(8):
                data = bytearray(published[path])
                data[at] ^= 1 << bit
                report = report_on({**published, path: bytes(data)})
                if path.startswith("payloads/"):
                    named = [(f.kind, f.index) for f in report.findings]
                    assert named == [("payload", int(path[-3:]))]
                assert not report.ok, f"bit {bit} of byte {at} of {path} passes"


def test_every_bit_of_every_leaf_names_its_event(published):
    path = "tile/entries/000.p/10"
    for index, (start, end) in enumerate(lengths(published[path])):
        for at in range(start - 2, end):
            data = bytearray(published[path])
            data[at] ^= 1 << at % 8
            report = report_on({**published, path: bytes(data)})
            assert report.findings[0].index == index, (at, report.findings)
            if at >= start:
                assert {f.index for f in report.findings} == {index}, report.findings


@pytest.mark.soak
def test_every_bit_of_every_byte_of_every_leaf_names_its_event(published):
    path = "tile/entries/000.p/10"
    for index, (start, end) in enumerate(lengths(published[path])):
        for at in range(start, end):
            for bit in range(8):
                data = bytearray(published[path])
                data[at] ^= 1 << bit
                found = report_on({**published, path: bytes(data)}).findings
                assert {f.index for f in found} == {index}, (at, found)


def test_a_file_that_is_missing_or_cut_off_is_found(published):
    for path in published:
        left = {name: data for name, data in published.items() if name != path}
        cut = {**published, path: published[path][:-1]}
        assert report_on(left).ok == (path == "README.md"), path
        newline_alone = path in ("README.md", "keys/1", "trust.policy")
        assert report_on(cut).ok == newline_alone, path


def test_a_payload_in_anothers_place_names_both(published):
    paths = [path for path in published if path.startswith("payloads/")][:2]
    swapped = {**published, paths[0]: published[paths[1]], paths[1]: published[paths[0]]}
    found = [(f.kind, f.index) for f in report_on(swapped).findings]
    assert found == [("payload", int(path[-3:])) for path in paths]


def test_a_size_that_is_made_up_is_not_believed(published):
    """Whoever checks a log of a hundred million billion events is told so before he is old."""
    fetched = []

    def fetch(path, _most):
        fetched.append(path)
        return files.get(path)

    origin, _, rest = published["checkpoint"].split(b"\n", 2)
    files = {**published, "checkpoint": b"\n".join([origin, b"9" * 17, rest])}
    report = verify(TilesSource(fetch, "log"))
    assert "tile/entries/000 is missing: nothing is read from here on" in {
        finding.what for finding in report.findings
    }
    assert len(fetched) < 100


@pytest.mark.parametrize("size", ["1" * 5_000, "\N{ARABIC-INDIC DIGIT SEVEN}", "-1", "x", ""])
def test_a_statement_with_a_size_that_is_none_is_found(size, published):
    said = f"holdfast key rotation v1\n{KEY.name}\n{size}\nroot\n{KEY.verifier}\n"
    report = report_on({**published, "keys/2": said.encode()})
    assert "key" in {finding.kind for finding in report.findings}


@given(data=st.data())
def test_no_bytes_in_the_place_of_a_file_make_the_verifier_raise(published, data):
    path = data.draw(st.sampled_from(sorted(published)))
    whole = published[path]
    kind = data.draw(st.sampled_from(["rubbish", "splice", "repeat"]))
    if kind == "rubbish":
        ruined = data.draw(st.binary(max_size=400))
    elif kind == "splice":
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, len(whole)))
        ruined = whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:]
    else:
        ruined = whole * data.draw(st.integers(2, 3))
    report = report_on({**published, path: ruined})
    assert report.ok == (ruined == whole or path == "README.md")


TEXTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    st.builds(
        lambda text, at, more: text[:at] + more + text[at:],
        st.sampled_from([str(KEY.verifier).encode(), KEY.text().encode()]),
        st.integers(0, 60),
        st.binary(max_size=5),
    ),
)


@given(text=TEXTS)
def test_rubbish_is_refused_as_every_format_and_raises_nothing_else(text):
    words = text.decode(errors="replace")
    parsers = [
        lambda: Note.parse(text),
        lambda: EventProof.parse(text),
        lambda: Checkpoint.parse(words),
        lambda: VerifierKey.parse(words),
        lambda: SignerKey.parse(words),
        lambda: Signature.parse(words),
        lambda: Policy.parse(words),
        lambda: taken_over(KEY.verifier, words),
        lambda: verify_event(text, text, Policy(quorum="none")),
    ]
    for parse in parsers:
        with contextlib.suppress(ProofRefused):
            parse()


def test_a_statement_that_is_no_text_is_refused():
    with pytest.raises(ProofRefused, match="not UTF-8"):
        taken_over(KEY.verifier, "title\udcff\n\n")


def test_a_damaged_private_key_is_not_repeated():
    with pytest.raises(ProofRefused, match="its id is another's") as refused:
        SignerKey.parse(KEY.text().replace(KEY.verifier.id.hex(), "\udcff"))
    assert str(refused.value).isascii()


@given(text=TEXTS)
def test_rubbish_is_a_bad_request_to_a_witness(text, tmp_path_factory):
    witness = Witness(KEY, tmp_path_factory.getbasetemp() / "none", [KEY.verifier], lambda: 0)
    assert witness.add_checkpoint(text).status == 400
    assert witness.add_checkpoint(b"old 0\n\n" + text).status in (400, 404)


def test_it_is_verified_from_a_web_server(published, tmp_path):
    for name, data in published.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}/"
            report = verify(TilesSource(fetch_from(url), url))
            assert report.ok, report.findings
            (tmp_path / "payloads" / "000").unlink()
            assert [f.index for f in verify(TilesSource(fetch_from(url), url)).findings] == [0]
        finally:
            server.shutdown()
            thread.join()
    assert not verify(TilesSource(fetch_from(url), url)).ok  # nobody answers any more
    with pytest.raises(UsageError, match="neither a directory nor"):
        fetch_from("ftp://example.com/log")


def test_publishing_again_leaves_what_publishing_once_would(tmp_path):
    async def main():
        store = await open_signed(tmp_path / "log.db")
        await begin(store)
        writing = Writing(store)
        await writing.start("one")
        for size in (1, 200, 60, 300, 1):
            await writing.add("one", *[(ev.StreamEmitted(1), b"x")] * size)
            await publish(store.signed, tmp_path / "grown")
        await publish(store.signed, tmp_path / "at once")
        await store.close()

    asyncio.run(main())
    assert files_of(tmp_path / "grown") == files_of(tmp_path / "at once")
    assert verify(TilesSource(fetch_from(str(tmp_path / "grown")), "log")).ok
