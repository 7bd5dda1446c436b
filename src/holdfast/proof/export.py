"""A log is published: written into a directory as tiles, leaves and payloads that anyone can check.

``tiles_source.py`` describes the files. Publishing again adds what is new; a file that is complete
is never written again. Every file is put in place whole, and the checkpoint last, so that a reader
finds a log that is complete up to its checkpoint at any moment.

Invariant: a directory is carried on only by the log that it holds: what it holds is a prefix.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from holdfast.core.events import Event, PayloadsCollected, SubjectErased
from holdfast.errors import ProofRefused, UsageError
from holdfast.proof.merkle import (
    TILE_HASHES,
    TileNodes,
    consistency_proof,
    inclusion_proof,
    is_consistent,
    number_path,
    partial_tiles,
    tile_path,
)
from holdfast.proof.note import Checkpoint, EventProof, Note, VerifierKey
from holdfast.signed import Head, SignedLog, Signer

__all__ = ["Published", "checkpoint_of", "consistency_of", "proof_of", "publish"]

README = """# A log of holdfast, published

The log of the agents behind `{origin}`: every event is a leaf of a Merkle tree
(RFC 6962), the tree's head is signed (`checkpoint`), and the layout is that of
c2sp.org/tlog-tiles. Nobody has to trust whoever made this directory.

    checkpoint          the newest signed head
    tile/<L>/<N>        hashes of the tree
    tile/entries/<N>    the leaves: u16 length, then one line of JSON, each
    payloads/<N>        salt (32 bytes) and payload of leaf N, to which the leaf
                        commits: "hs256:" and the hex of HMAC-SHA256(salt, payload);
                        encrypted, salt included, if the leaf has a "sub"; not there
                        if a leaf "subject.erased" tells of that subject, or a leaf
                        "payloads.collected" of runs that ended before a time
    keys/               who signed, and how each key handed over to the next
    trust.policy        these keys (c2sp.org/tlog-policy)

Get the key from its owner, not from here, and keep an older checkpoint. Then:

    pip install holdfast
    holdfast verify . --trust '{key}' --against older-checkpoint

That names the first event which is not what was signed and exits with 1, or says
that all are. Programs that the authors of holdfast did not write check the same
bytes: golang.org/x/mod/sumdb/note and sumdb/tlog, any reader of tlog-tiles, and
for the signature alone `openssl pkeyutl -verify -rawin`.
"""


class Published(NamedTuple):
    """What a directory holds now, and how much of it is new."""

    checkpoint: Checkpoint
    new_events: int


async def checkpoint_of(log: SignedLog) -> Note:
    """Return the newest head of a log as a note.

    Raises:
        UsageError: nobody has signed it.
    """
    return _note(await log.signers(), await _head(log))


async def _head(log: SignedLog) -> Head:
    head = await log.head()
    if head is None:
        raise UsageError("the log is not signed. Hint: holdfast key new")
    return head


def _note(signers: Sequence[Signer], head: Head) -> Note:
    signed = [s for n, s in enumerate(signers) if not n or s.since < head.size]
    key = VerifierKey.parse(signed[-1].key)
    return Checkpoint(key.name, head.size, head.root).note(key, head.signature)


async def _nodes(log: SignedLog, size: int, wanted: "Sequence[tuple[int, int]]") -> TileNodes:
    """Return perfect subtrees out of tiles, those fetched that the wanted (level, n) name."""
    tiles = {}
    for level, n in wanted:
        width = min(TILE_HASHES, (size >> 8 * level) - n * TILE_HASHES)
        if width > 0:
            tiles[level, n] = await log.hashes(level, n, width)
    return TileNodes(size, lambda level, n, width: tiles[level, n][: width * 32])


def _beside(index: int, size: int) -> list[tuple[int, int]]:
    """Return the tiles, as (level, n), on the way from a leaf to the root, the right edge's too."""
    wanted = [(level, n) for level, n, _ in partial_tiles(size)]
    level, n = 0, index // TILE_HASHES
    while size >> (8 * level):
        wanted += [(level, n), (level, max(((size >> 8 * level) - 1) // TILE_HASHES, 0))]
        level, n = level + 1, n // TILE_HASHES
    return list(dict.fromkeys(wanted))


async def proof_of(log: SignedLog, run: str, seq: int) -> EventProof:
    """Return the proof that an event is in the log.

    Raises:
        RunUnknown: there is no such event.
        UsageError: nobody has signed the log.
    """
    head = await _head(log)
    index = await log.index(run, seq)
    nodes = await _nodes(log, head.size, _beside(index, head.size))
    hashes = inclusion_proof(index, head.size, nodes)
    return EventProof(index, hashes, _note(await log.signers(), head))


def _put_payload(folder: Path, index: int, event: Event) -> None:
    """Write what stands beside a leaf: salt and payload, or a sealed payload as it is."""
    if event.payload is not None and (event.salt is not None or event.sub):
        data = (event.salt or b"") + event.payload
        _put(folder / "payloads" / number_path(index), data)


async def _drop_gone(log: SignedLog, folder: Path, before: int) -> None:
    """Remove payloads that were published before they were erased or collected."""
    for start in range(0, before, TILE_HASHES):
        for index, event in enumerate(await log.leaves(start, TILE_HASHES), start):
            if event.payload is None and event.committed:
                (folder / "payloads" / number_path(index)).unlink(missing_ok=True)


async def consistency_of(log: SignedLog, old: Checkpoint) -> tuple[list[bytes], Note]:
    """Return the proof that an older head is of a prefix of the log, and the newest head.

    Raises:
        ProofRefused: it is not.
        UsageError: nobody has signed the log.
    """
    head = await _head(log)
    note = _note(await log.signers(), head)
    newest = Checkpoint.parse(note.text)
    if old.origin != newest.origin:
        raise ProofRefused(f"a checkpoint of {old.origin!r}; this log is {newest.origin!r}")
    if old.size > head.size:
        raise ProofRefused(
            f"truncated: the checkpoint covers {old.size} events, the log has {head.size}"
        )
    wanted = [*_beside(max(old.size - 1, 0), head.size), *_beside(old.size, head.size)]
    nodes = await _nodes(log, head.size, wanted)
    hashes = consistency_proof(old.size, head.size, nodes)
    if not is_consistent(old.size, old.root, head.size, head.root, hashes):
        raise ProofRefused(
            f"split view: by that checkpoint the first {old.size} events were others"
        )
    return hashes, note


async def publish(log: SignedLog, folder: Path) -> Published:
    """Write a log into a directory, or add what is new.

    Raises:
        UsageError: the directory holds something else, or nobody has signed the log.
        ProofRefused: the directory holds another log, or more of this one.
    """
    head, signers = await _head(log), await log.signers()
    note = _note(signers, head)
    checkpoint = Checkpoint.parse(note.text)
    before = await _published(log, folder)
    size, gone = head.size, False
    for start in range(before // TILE_HASHES * TILE_HASHES, size, TILE_HASHES):
        width = min(TILE_HASHES, size - start)
        events = await log.leaves(start, width)
        if len(events) != width:
            raise UsageError(f"the log has {start + len(events)} of {size} events that are signed")
        _write_leaves(folder, start, events)
        for index, event in enumerate(events, start):
            if index >= before:
                _put_payload(folder, index, event)
                gone = gone or isinstance(event.body, SubjectErased | PayloadsCollected)
    if gone:
        await _drop_gone(log, folder, before)
    await _write_tiles(log, folder, before, size)
    _put(
        folder / "README.md", README.format(origin=checkpoint.origin, key=signers[-1].key).encode()
    )
    for number, signer in enumerate(signers, 1):
        _put(folder / "keys" / str(number), (signer.statement or f"{signer.key}\n").encode())
    policy = "".join(f"log {signer.key}\n" for signer in signers)
    _put(folder / "trust.policy", f"{policy}quorum none\n".encode())
    _put(folder / "checkpoint", str(note).encode())
    _drop_partial(folder, before, size)
    return Published(checkpoint, size - before)


async def _published(log: SignedLog, folder: Path) -> int:
    """Return how many events a directory holds already, all of this log."""
    old = _held(folder)
    if old is None:
        return 0
    await consistency_of(log, old)
    return old.size


def _held(folder: Path) -> Checkpoint | None:
    """Return the head that a directory was published up to."""
    try:
        found = (folder / "checkpoint").read_bytes()
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty, and holds no published log") from None
        return None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}") from error
    return Checkpoint.parse(Note.parse(found).text)


def consistency_in(folder: Path, old: int) -> tuple[list[bytes], str]:
    """Return the proof that a published log has grown from ``old`` events, or why there is none."""

    def fetch(level: int, n: int, width: int) -> bytes:
        return (folder / tile_path(level, n, width)).read_bytes()

    try:
        size = Checkpoint.parse(Note.parse((folder / "checkpoint").read_bytes()).text).size
        return consistency_proof(old, size, TileNodes(size, fetch)), ""
    except (OSError, ProofRefused, ValueError) as error:
        return [], f"no proof can be made of the tiles: {error}"


def _write_leaves(folder: Path, start: int, events: Sequence[Event]) -> None:
    bundle = b"".join(len(event.leaf).to_bytes(2) + event.leaf for event in events)
    _put(folder / tile_path("entries", start // TILE_HASHES, len(events)), bundle)


async def _write_tiles(log: SignedLog, folder: Path, before: int, size: int) -> None:
    """Write the tiles that were not full ``before``."""
    level = 0
    while hashes := size >> (8 * level):
        for n in range((before >> (8 * level)) // TILE_HASHES, -(-hashes // TILE_HASHES)):
            width = min(TILE_HASHES, hashes - n * TILE_HASHES)
            _put(folder / tile_path(level, n, width), await log.hashes(level, n, width))
        level += 1


def _drop_partial(folder: Path, before: int, size: int) -> None:
    """Remove what stood for tiles before they had grown."""
    now = set(partial_tiles(size))
    for level, n, width in partial_tiles(before):
        if (level, n, width) not in now:
            kinds: list[int | str] = [level] if level else [level, "entries"]
            for kind in kinds:
                path = folder / tile_path(kind, n, width)
                path.unlink(missing_ok=True)
                if not any(path.parent.iterdir()):
                    shutil.rmtree(path.parent)


def _put(path: Path, data: bytes) -> None:
    """Put a file in place, whole, unless it is there already."""
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(data)
    os.replace(beside, path)  # noqa: PTH105 - the one that replaces
