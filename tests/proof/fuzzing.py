"""A search, led by coverage, for bytes that make the verifier raise, or believe what is not so.

A program of its own, since libFuzzer takes over the process: ``test_fuzzing.py`` runs it, and so
may anybody, with atheris on the path (``make soak`` puts it into build/fuzz)::

    PYTHONPATH=build/fuzz python tests/proof/fuzzing.py published FOLDER -max_total_time=600

``FOLDER`` keeps the inputs that reached something new. What is given to the verifier is something
sound with one piece of it replaced, as an input says: so it is deep in the code from the start.
An input that breaks a promise ends the search, and is kept as ``crash-…`` beside the folder; the
same command with that file in place of the folder repeats it.

What must hold of every input: parsers raise ProofRefused or nothing; a verifier raises nothing, and
what it calls sound says the same as the original.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import apsw
import atheris

with atheris.instrument_imports(include=["holdfast.proof"]):
    from holdfast.proof.event_proof import verify_event
    from holdfast.proof.note import (
        Checkpoint,
        EventProof,
        Note,
        Signature,
        SignerKey,
        VerifierKey,
    )
    from holdfast.proof.policy import Policy
    from holdfast.proof.rotation import taken_over
    from holdfast.proof.sqlite_source import SqliteSource
    from holdfast.proof.tiles_source import TilesSource
    from holdfast.proof.verify import verify
    from holdfast.proof.witness import Witness

from holdfast.errors import ProofRefused
from holdfast.proof.export import proof_of, publish
from holdfast.testing.signed import KEY, begin, open_signed, write

PAGE = 512
JOURNAL_MODE = slice(18, 20)


async def _made(folder: Path) -> None:
    """Write a signed store, publish it, and prove one of its events."""
    store = await open_signed(folder / "log.db")
    await begin(store)
    await write(store, rounds=2, runs=("one", "two"))
    await publish(store.signed, folder / "log")
    proof = await proof_of(store.signed, "one", 2)
    (event,) = await store.read("one", after=1, until=2)
    (folder / "event.tlog-proof").write_text(str(proof))
    (folder / "event.json").write_bytes(event.leaf)
    await store.close()
    with closing(apsw.Connection(str(folder / "log.db"))) as connection:
        for statement in ("PRAGMA journal_mode = DELETE", f"PRAGMA page_size = {PAGE}", "VACUUM"):
            connection.execute(statement).fetchall()


def _spliced(whole: bytes, change: bytes) -> bytes:
    """Replace a piece: two bytes say where, two how much, the rest what comes in its place."""
    start = int.from_bytes(change[:2]) % (len(whole) + 1)
    length = int.from_bytes(change[2:4]) % (len(whole) - start + 1)
    return whole[:start] + change[4:] + whole[start + length :]


class Texts:
    """Each parser, given each of the texts that it reads with a piece replaced."""

    def __init__(self, folder: Path) -> None:
        paths = ["log/checkpoint", "log/trust.policy", "log/keys/1", "event.tlog-proof"]
        self.leaf = (folder / "event.json").read_bytes()
        self.sound = [(folder / path).read_bytes() for path in paths]
        self.sound += [KEY.text().encode(), self.leaf, b"", b"old 0\n\n" + self.sound[0]]
        self.witness = Witness(KEY, folder / "witnessed", [KEY.verifier], lambda: 1)
        self.trust = Policy.parse(self.sound[1].decode())
        verify_event(self.leaf, self.sound[3], self.trust)

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        text = _spliced(self.sound[data[0] % len(self.sound)], data[1:])
        words = text.decode(errors="replace")
        note = _parsed(lambda: Note.parse(text))
        assert note is None or str(note).encode() == text, "a note is not written as it was read"
        head = _parsed(lambda: Checkpoint.parse(words))
        assert head is None or words.startswith(head.text()), "a checkpoint is read as another"
        for parse in (SignerKey.parse, VerifierKey.parse, Signature.parse, Policy.parse):
            _parsed(lambda parse=parse: parse(words))
        _parsed(lambda: taken_over(KEY.verifier, words))
        _parsed(lambda: EventProof.parse(text))
        _parsed(lambda: verify_event(self.leaf, text, self.trust))
        proved = _parsed(lambda: verify_event(text, self.sound[3], self.trust))
        assert proved is None or text == self.leaf, "another leaf passes as the event"
        assert self.witness.add_checkpoint(text).status in {200, 400, 403, 404, 409, 422}


def _parsed(parse: Callable[[], Any]) -> Any:
    with contextlib.suppress(ProofRefused):
        return parse()
    return None


class Published:
    """A published log in which one file has a piece replaced, verified against its checkpoint."""

    def __init__(self, folder: Path) -> None:
        root = folder / "log"
        self.files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != "README.md"
        }
        self.names = sorted(self.files)
        self.kept = Note.parse(self.files["checkpoint"])
        self.log = self._read(self.files)
        assert self._verified(self.files)

    def _source(self, files: dict[str, bytes]) -> TilesSource:
        return TilesSource(lambda path, _most: files.get(path), "log")

    def _read(self, files: dict[str, bytes]) -> list[Any]:
        source = self._source(files)
        list(source.check())
        return list(source.entries())

    def _verified(self, files: dict[str, bytes]) -> bool:
        return verify(self._source(files), against=[self.kept]).ok

    def __call__(self, data: bytes) -> None:
        if not data:
            return
        name = self.names[data[0] % len(self.names)]
        files = {**self.files, name: _spliced(self.files[name], data[1:])}
        if self._verified(files):
            assert self._read(files) == self.log, f"{name} says something else and passes"


class File:
    """A store file with up to three pieces written over."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "log.db").read_bytes()
        assert self.file[JOURNAL_MODE] == b"\1\1"
        with _opened(self.file) as connection:
            self.kept = verify(SqliteSource(connection, "log")).checkpoint
        assert self.kept
        self.log = self._read(self.file)

    def _read(self, data: bytes) -> list[Any]:
        with _opened(data) as connection:
            return list(SqliteSource(connection, "log").entries())

    def __call__(self, data: bytes) -> None:
        file = bytearray(self.file)
        for piece in data.split(b"\xff\xff", 2):
            start = int.from_bytes(piece[:3]) % len(file)
            file[start : start + len(piece[3:])] = piece[3:]
        ruined = bytes(file[: len(self.file)])
        if ruined[JOURNAL_MODE] != b"\1\1":  # in memory there is no write-ahead log to ask for
            return
        try:
            with _opened(ruined) as connection:
                found = verify(SqliteSource(connection, "log"))
        except apsw.Error:  # SQLite opens no such file
            return
        if found.ok and found.checkpoint == self.kept:
            assert self._read(ruined) == self.log, "the file says something else and passes"


def _opened(data: bytes) -> Any:
    connection = apsw.Connection(":memory:")
    connection.deserialize("main", data)
    return closing(connection)


TARGETS: dict[str, Callable[[Path], Callable[[bytes], None]]] = {
    "texts": Texts,
    "published": Published,
    "file": File,
}


def main() -> None:
    """Search with the target that the command line names."""
    name, *rest = sys.argv[1:]
    # Most changes leave the signatures as they are: check each one once.
    VerifierKey.signed = lru_cache(100_000)(VerifierKey.signed)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_made(Path(folder)))
        target = TARGETS[name](Path(folder))
        atheris.Setup([sys.argv[0], *rest], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
