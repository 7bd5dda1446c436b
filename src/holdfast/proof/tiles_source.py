"""A published log as the verifier reads it: files of a directory, or of a web server.

The layout is that of c2sp.org/tlog-tiles, with what it does not have beside it::

    checkpoint                      the newest head, a signed note
    tile/<L>/<N>[.p/<W>]            hashes, 256 in a tile that is full
    tile/entries/<N>[.p/<W>]        leaves: u16 length, bytes, and so on
    payloads/<N>                    salt (32 bytes) and payload of leaf N, where it has one
    keys/<n>                        who signed: 1 is a verifier key, 2 and on are statements
    trust.policy                    these keys as a policy

``<N>`` is written in groups of three digits, ``x001/x234/067``.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from holdfast.errors import ProofRefused, UsageError
from holdfast.proof.merkle import HASH_BYTES, TILE_HASHES, number_path, tile_path
from holdfast.proof.note import Checkpoint, Note, decode_number
from holdfast.proof.policy import Policy
from holdfast.proof.report import Entry, Finding, Payload, SignedHead

__all__ = ["Fetch", "TilesSource", "fetch_from", "split_leaves"]

Fetch: TypeAlias = Callable[[str, int], bytes | None]
"""(path, most) → a file's bytes, at most so many; None when there is no such file."""

NOTE_BYTES_MAX = 1_000_000
PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
SALT_BYTES = 32
LENGTH_BYTES = 2
ENTRIES_BYTES_MAX = TILE_HASHES * (65_535 + LENGTH_BYTES)
TIMEOUT_S = 30
_HAS_PAYLOAD = b'"payload":"'
_NO_PAGE = 404


def fetch_from(where: str) -> Fetch:
    """Return what reads the files below a directory or an http(s) URL.

    Raises:
        UsageError: it is neither.
    """
    scheme = urlsplit(where).scheme
    if scheme in ("http", "https"):
        return lambda path, most: _fetch_page(f"{where.rstrip('/')}/{path}", most)
    folder = Path(where)
    if not folder.is_dir():
        raise UsageError(f"{where!r} is neither a directory nor an http(s) URL")
    return lambda path, most: _fetch_file(folder / path, most)


def _fetch_file(path: Path, most: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return _limited(file.read(most + 1), str(path), most)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _fetch_page(url: str, most: int) -> bytes | None:
    try:
        with urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - http or https, see above
            return _limited(answer.read(most + 1), url, most)
    except HTTPError as error:
        if error.code == _NO_PAGE:
            return None
        raise


def _limited(data: bytes, name: str, most: int) -> bytes:
    if len(data) > most:
        raise ProofRefused(f"{name} has more than {most} bytes")
    return data


class TilesSource:
    """A published log, as a ``Source``."""

    def __init__(self, fetch: Fetch, name: str) -> None:
        self.name = name
        self._fetch = fetch
        self._size = 0

    def check(self) -> Iterator[Finding]:
        data = self._fetch("checkpoint", NOTE_BYTES_MAX)
        if data is None:
            yield Finding("checkpoint", "there is none: this is no published log")
            return
        try:
            self._size = Checkpoint.parse(Note.parse(data).text).size
        except ProofRefused as error:
            yield Finding("checkpoint", f"the log's: {error}")
        try:
            policy = Policy.parse(self._text("trust.policy"))
            listed = {str(key) for key in policy.logs}
            if listed != {key for key, _, _ in self.signers()}:
                yield Finding("key", "trust.policy does not name the keys that are in keys/")
        except ProofRefused as error:
            yield Finding("key", f"trust.policy: {error}")

    def signers(self) -> Iterator[tuple[str, int, str]]:
        if first := self._text("keys/1"):
            yield first.removesuffix("\n"), 0, ""
        number = 2
        while said := self._text(f"keys/{number}"):
            lines = said.split("\n")
            try:  # title, origin, size, root, heir; ``verify`` reads it with care
                heir, since = lines[4], decode_number(lines[2])
            except (IndexError, ProofRefused):
                heir, since = "", -1
            yield heir, since, said
            number += 1

    def heads(self) -> Iterator[SignedHead]:
        return iter(())

    def checkpoints(self) -> Iterator[Note]:
        data = self._fetch("checkpoint", NOTE_BYTES_MAX)
        if data is not None and self._size:
            yield Note.parse(data)

    def entries(self) -> Iterator[Entry]:
        for start in range(0, self._size, TILE_HASHES):
            width = min(TILE_HASHES, self._size - start)
            path = tile_path("entries", start // TILE_HASHES, width)
            bundle = self._fetch(path, ENTRIES_BYTES_MAX)
            if bundle is None:  # and no end to those behind it, if the size is made up
                says = f"{path} is missing: nothing is read from here on"
                yield Entry(b"", None, None, says)
                return
            leaves, fault = split_leaves(bundle, width)
            fault = f"{path}: {fault}" if fault else ""
            for index, leaf in enumerate(leaves, start):
                wants = _HAS_PAYLOAD in leaf
                said = fault if index == start + width - 1 else ""  # what is named first is a leaf
                yield Entry(leaf, self._payload(index) if wants else None, None, said)

    def tile(self, level: int, n: int, width: int) -> tuple[bytes, bytes] | None:
        data = self._fetch(tile_path(level, n, width), TILE_HASHES * HASH_BYTES)
        return None if data is None else (data, b"")

    def rows(self) -> Iterator[tuple[str, int, str]]:
        return iter(())

    def _payload(self, index: int) -> Payload | None:
        data = self._fetch(f"payloads/{number_path(index)}", SALT_BYTES + PAYLOAD_BYTES_MAX)
        return None if data is None else Payload(data[:SALT_BYTES], data[SALT_BYTES:])

    def _text(self, path: str) -> str:
        data = self._fetch(path, NOTE_BYTES_MAX)
        return (data or b"").decode(errors="backslashreplace")


def split_leaves(bundle: bytes, width: int) -> tuple[list[bytes], str]:
    """Return as many leaves as a bundle should have, and what is wrong with it."""
    leaves: list[bytes] = []
    at, fault = 0, ""
    while len(leaves) < width:
        length = int.from_bytes(bundle[at : at + LENGTH_BYTES])
        at += LENGTH_BYTES
        leaves.append(bundle[at : at + length])
        at += length
        if at > len(bundle):
            fault = f"its leaves end in the middle of number {len(leaves)} of {width}"
    if at < len(bundle):
        fault = f"it holds more than {width} leaves"
    return leaves, fault
