"""The signed tree of a store file: each commit's events are integrated in that very commit.

Right before its commit the writer calls ``seal``: the leaf hashes of the events that the
transaction has added go to the notary, and what comes back, a signed head and the tiles that are
full now, is written in the same transaction. So whatever survives of the log, its newest head
covers exactly that.

Several processes may write one file. Who finds the tree larger than it knows it takes it up anew,
from the last full tiles and what stands behind them; who finds another signer asks for its key,
and without that key its transaction fails.

Invariants, once there is a signer: the newest head's size is the number of events; a row of
``tile`` never changes; of the heads before the last full tile the first in each is kept; nothing is
signed on top of a tree that is not the one that was signed.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import apsw

from holdfast.errors import KeyMissing
from holdfast.signed import Head, Notaries, Notary, Signer
from holdfast.stores.sqlite import statements as sql

__all__ = ["Sealing", "no_notaries", "tile_hashes"]

TILE_HASHES = 256
HASH_BYTES = 32
_BATCH = 4_096


def no_notaries(signer: Signer) -> Notary:
    """Refuse to sign: what a store does that was given nobody to ask for keys."""
    raise KeyMissing(
        f"the store is signed by {signer.key}, and nobody here has its private key. Nothing was"
        " written. Hint: open the store by its URL, or give it notaries.",
        key=signer.key,
    )


class Sealing:
    """Integrates what a transaction adds, on the connection of the writer.

    Raises:
        KeyMissing: the file is signed, and the key is not at hand; the connection is closed.
    """

    def __init__(self, connection: apsw.Connection, notaries: Notaries) -> None:
        self._execute = connection.execute
        self._notaries = notaries
        self._notary: Notary | None = None
        self._signer = 0
        """The number of the signer that the notary signs for; 0 for none."""
        self._current = False
        """Whether the notary's tree is that of the file."""
        self._hashes: list[str] = []
        ((signer, _),) = self._all(sql.SEALED)
        if signer is not None:
            try:
                self._ask(signer)
            except BaseException:
                connection.close()
                raise

    def add(self, hashes: Sequence[str]) -> None:
        """Take note of the leaf hashes of events that the open transaction has added, in order."""
        self._hashes += hashes

    def seal(self) -> None:
        """Integrate and sign what the open transaction has added.

        Raises:
            KeyMissing: the store is signed, and the key is not at hand.
            ProofRefused: what the store keeps is not what was signed; nothing is built on it.
        """
        hashes, self._hashes = self._hashes, []
        if not hashes:
            return
        ((signer, size),) = self._all(sql.SEALED)
        if signer is None:
            return
        if signer != self._signer:
            self._ask(signer)
        assert self._notary is not None
        if not self._current or self._notary.size != size:
            ((last,),) = self._all(sql.LAST_POSITION)
            self._notary.resume(self._tails(last - len(hashes)), self._head())
        self._integrate([bytes.fromhex(hash_) for hash_ in hashes])

    def forget(self) -> None:
        """Forget what the transaction that was undone has told."""
        self._hashes.clear()
        self._current = False

    def enrol(self, choose: Callable[[Head | None], Signer]) -> Signer:
        """Have another key sign, and integrate what there is; ``SignedLog.enrol`` tells more."""
        head = self._head()
        signer = choose(head)
        self._execute(sql.NEW_SIGNER, signer)
        ((number, _),) = self._all(sql.SEALED)
        self._ask(number)
        if head is None:
            assert self._notary is not None
            self._notary.resume((), None)
            self._integrate([])
            self._integrate_all()
        return signer

    def _head(self) -> Head | None:
        rows = self._all(sql.HEAD)
        return Head(*rows[0]) if rows else None

    def _ask(self, number: int) -> None:
        """Get a notary for the newest signer."""
        self._notary = None
        signers = self._all(sql.SIGNERS)
        self._notary = self._notaries(Signer(*signers[-1]))
        self._signer, self._current = number, False

    def _integrate(self, hashes: Sequence[bytes]) -> None:
        assert self._notary is not None
        before = self._notary.size
        self._current = False  # until all is written
        (size, root, signature), tiles = self._notary.integrate(hashes)
        for tile in tiles:
            self._execute(sql.NEW_TILE, tile)
        if before // TILE_HASHES != size // TILE_HASHES:
            # Of the heads of what is full now the first stays; the others have told all they can.
            begun = before // TILE_HASHES * TILE_HASHES
            self._execute(sql.HEADS_OVER, (begun, size))
        self._execute(sql.NEW_HEAD, (size, root, signature))
        self._current = True

    def _integrate_all(self) -> None:
        """Integrate a log that was written before it was signed."""
        done = 0
        while leaves := self._all(sql.TAIL, (done, _BATCH)):
            self._integrate([_leaf_hash(leaf) for (leaf,) in leaves])
            done += len(leaves)

    def _all(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        return self._execute(statement, values).fetchall()

    def _tails(self, size: int) -> list[list[bytes]]:
        """Return the hashes behind the last full tile of each level."""
        begun = size // TILE_HASHES * TILE_HASHES
        leaves = self._all(sql.TAIL, (begun, size - begun))
        tails = [[_leaf_hash(leaf) for (leaf,) in leaves]]
        level, hashes = 0, size
        while hashes := hashes // TILE_HASHES:
            whole = hashes // TILE_HASHES * TILE_HASHES
            rows = self._all(sql.TILE_ROOTS, (level, whole, hashes - whole))
            tails.append([root for (root,) in rows])
            level += 1
        return tails


def tile_hashes(
    ask: Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]], level: int, n: int, width: int
) -> bytes:
    """Return the first hashes of a tile, full or not; ``ask`` runs a statement."""
    for (hashes,) in ask(sql.TILE, (level, n)):
        return bytes(hashes[: width * HASH_BYTES])
    start = n * TILE_HASHES
    if level:
        return b"".join(root for (root,) in ask(sql.TILE_ROOTS, (level - 1, start, width)))
    return b"".join(_leaf_hash(leaf) for (leaf,) in ask(sql.TAIL, (start, width)))


def _leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()
