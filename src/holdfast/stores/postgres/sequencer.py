"""Gives positions to what is committed, and has the log signed as far as it has positions.

Writers of several processes commit when they commit; what they added stands in ``unplaced`` until
somebody sequences. One at a time (an advisory lock, which any process may take) gives the next
positions to all that is there by then. If the log has a signer, the leaves go to the notary in that
order, and the tiles that have become full and the signed head are written in the same transaction.

The notary's tree is in memory. Who finds another head than the one it has written takes the tree up
anew; who finds another signer asks for its key, and without the key gives no positions.

Invariants, once there is a signer: the newest head's size is the last position; a row of ``tile``
never changes; of the heads before the last full tile the first in each is kept; nothing is signed
on top of a tree that is not the one that was signed.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from holdfast.errors import KeyMissing
from holdfast.signed import Head, Notaries, Notary, Sealed, Signer
from holdfast.stores.postgres import statements as sql
from holdfast.stores.postgres.flow import Flow, Round, Row
from holdfast.stores.postgres.values import Bytes, Ints

__all__ = [
    "HASH_BYTES",
    "HEAD",
    "SIGNERS",
    "TILE_HASHES",
    "Sequencer",
    "no_notaries",
    "tile_hashes",
]

TILE_HASHES = 256
HASH_BYTES = 32
PLACED_MAX = 10_000
"""Notes that are given their positions at once."""
SEQUENCING_MS = 2_000
"""For how long to wait for another sequencer."""
_BATCH = 4_096

SIGNERS = "SELECT key, since, statement FROM holdfast.signer ORDER BY n"
_SIGNER = "SELECT n, key, since, statement FROM holdfast.signer ORDER BY n DESC LIMIT 1"
_NEW_SIGNER = """
INSERT INTO holdfast.signer (n, key, since, statement)
SELECT coalesce(max(n), 0) + 1, %s, %s, %s FROM holdfast.signer"""
HEAD = "SELECT size, root, signature FROM holdfast.head ORDER BY size DESC LIMIT 1"
_NEW_HEAD = "INSERT INTO holdfast.head (size, root, signature) VALUES (%s, %s, %s)"
_HEADS_OVER = """
DELETE FROM holdfast.head
WHERE size > (SELECT min(size) FROM holdfast.head WHERE size >= %s) AND size < %s"""
_NEW_TILES = """
INSERT INTO holdfast.tile (level, n, root, hashes) SELECT * FROM unnest(%s, %s, %s, %s)"""
_TILE = "SELECT hashes FROM holdfast.tile WHERE level = %s AND n = %s"
_TILE_ROOTS = "SELECT root FROM holdfast.tile WHERE level = %s AND n >= %s ORDER BY n LIMIT %s"


def no_notaries(signer: Signer) -> Notary:
    """Refuse to sign: what a store does that was given nobody to ask for keys."""
    raise KeyMissing(
        f"the store is signed by {signer.key}, and nobody here has its private key. Nothing was"
        " written. Hint: open the store by its URL, or give it notaries.",
        key=signer.key,
    )


class Sequencer:
    """Orders the log for one process; each flow is one transaction, and one at a time.

    Args:
        notaries: Who signs, should the log be signed by now or later.
    """

    def __init__(self, notaries: Notaries) -> None:
        self._notaries = notaries
        self._notary: Notary | None = None
        self._signer = 0
        """The number of the signer that the notary signs for; 0 for none."""
        self._head: Head | None = None
        """That of the notary's tree, as written; None when the tree is to be taken up anew."""

    def place(self) -> Flow[int]:
        """Give positions to what is committed, sign, and return how many notes were taken.

        Raises:
            KeyMissing: the log is signed, and the key is not at hand.
            ProofRefused: what the store keeps is not what was signed.
        """
        *_, signers, heads, placed = yield [
            *_alone(),
            (_SIGNER, ()),
            (HEAD, ()),
            (sql.PLACE, (PLACED_MAX,)),
        ]
        if signers and placed:
            yield from self._know(signers[0])
            yield from self._take_up(_head_of(heads), min(pos for pos, _ in placed) - 1)
            yield from self._integrate(sum(count for _, count in placed))
        return len(placed)

    def check(self) -> Flow[None]:
        """See that the key of a signed log is at hand.

        Raises:
            KeyMissing: it is not.
        """
        (signers,) = yield [(_SIGNER, ())]
        for signer in signers:
            yield from self._know(signer)

    def enrol(self, choose: Callable[[Head | None], Signer]) -> Flow[Signer]:
        """Have another key sign, and integrate what there is; ``SignedLog.enrol`` tells more."""
        *_, heads = yield [*_alone(), (HEAD, ())]
        head = _head_of(heads)
        signer = choose(head)
        _, signers = yield [(_NEW_SIGNER, signer), (_SIGNER, ())]
        yield from self._know(signers[0])
        if head is None:
            assert self._notary is not None
            self._notary.resume((), None)
            yield from self._write(self._notary.integrate([]), 0)
            while (yield [(sql.PLACE, (PLACED_MAX,))])[0]:
                pass
            while (yield from self._integrate(_BATCH)):
                pass
        return signer

    def _know(self, row: Row) -> Flow[None]:
        """Have a notary for a signer."""
        number, *facts = row
        if number != self._signer:
            self._notary, self._signer, self._head = None, 0, None
            self._notary = self._notaries(Signer(*facts))
            self._signer = number
        yield from ()

    def _take_up(self, head: Head | None, size: int) -> Flow[None]:
        """Have the tree of the events so far, which is that of the newest head."""
        if head is None or head != self._head or head.size != size:
            assert self._notary is not None
            self._head = None
            tails = yield from _tails(size)
            self._notary.resume(tails, head)

    def _integrate(self, count: int) -> Flow[int]:
        """Add the next leaves, and sign; return how many there were."""
        assert self._notary is not None
        before = self._notary.size
        (leaves,) = yield [(sql.LEAVES, (before, before, count, before, count))]
        if leaves:
            sealed = self._notary.integrate([_leaf_hash(leaf) for (leaf,) in leaves])
            yield from self._write(sealed, before)
        return len(leaves)

    def _write(self, sealed: Sealed, before: int) -> Flow[None]:
        self._head = None  # until all is written
        head, tiles = sealed
        statements: Round = []
        if tiles:
            levels, numbers, roots, hashes = zip(*tiles, strict=True)
            values = Ints(levels), Ints(numbers), Bytes(roots), Bytes(hashes)
            begun = before // TILE_HASHES * TILE_HASHES
            statements = [(_NEW_TILES, values), (_HEADS_OVER, (begun, head.size))]
        yield [*statements, (_NEW_HEAD, head)]
        self._head = head


def tile_hashes(level: int, n: int, width: int) -> Flow[bytes]:
    """Return the first hashes of a tile, full or not."""
    start = n * TILE_HASHES
    (full,) = yield [(_TILE, (level, n))]
    if full:
        return bytes(full[0][0][: width * HASH_BYTES])
    if level:
        (roots,) = yield [(_TILE_ROOTS, (level - 1, start, width))]
        return b"".join(root for (root,) in roots)
    (leaves,) = yield [(sql.LEAVES, (start, start, width, start, width))]
    return b"".join(_leaf_hash(leaf) for (leaf,) in leaves)


def _alone() -> Round:
    """Return what keeps others from giving positions, until the transaction ends."""
    return [(sql.WAIT, (f"{SEQUENCING_MS}ms",)), (sql.SEQUENCING, ())]


def _tails(size: int) -> Flow[list[Sequence[bytes]]]:
    """Return the hashes behind the last full tile of each level."""
    begun = size // TILE_HASHES * TILE_HASHES
    asked: Round = [(sql.LEAVES, (begun, begun, size - begun, begun, size - begun))]
    hashes = size
    while hashes := hashes // TILE_HASHES:
        whole = hashes // TILE_HASHES * TILE_HASHES
        asked.append((_TILE_ROOTS, (len(asked) - 1, whole, hashes - whole)))
    leaves, *levels = yield asked
    return [[_leaf_hash(leaf) for (leaf,) in leaves], *([r for (r,) in rows] for rows in levels)]


def _head_of(rows: Sequence[Row]) -> Head | None:
    return Head(*rows[0]) if rows else None


def _leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()
