"""What a signed log asks of its store and of its signer, as protocols beside ``holdfast.ports``.

A store that is signed has a *notary* integrate each commit's leaves into the log's tree and sign
its head in that very commit. What it keeps for proofs is read through ``SignedLog``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from holdfast.core.events import Event

__all__ = ["FullTile", "Head", "Notaries", "Notary", "Sealed", "SignedLog", "Signer"]


class Signer(NamedTuple):
    """A key that signs the heads of a log, from some size on until the next signer's."""

    key: str
    """The public key: ``name+id+key``, whose name is the log's origin."""
    since: int
    """It signs the heads of more than so many leaves; the first one signs that of 0, too."""
    statement: str
    """The note by which the former signer handed over; empty for the first."""


class Head(NamedTuple):
    """A signed tree head, a checkpoint without its text: who signed follows from the size."""

    size: int
    root: bytes
    signature: bytes


class FullTile(NamedTuple):
    """256 hashes of one level of the tree, and the hash above them."""

    level: int
    n: int
    root: bytes
    hashes: bytes


class Sealed(NamedTuple):
    """What a commit adds to what a signed store keeps."""

    head: Head
    tiles: Sequence[FullTile]
    """Those that have become full with it."""


class Notary(Protocol):
    """Grows the tree of one log and signs its heads; it knows of no store and writes nothing.

    The tree is in memory. Whoever keeps the log calls ``resume`` before the first ``integrate``,
    and again whenever the log may have grown, or shrunk to what it was, without this notary.
    """

    size: int
    """How many leaves the tree has, -1 before the first ``resume``."""

    def resume(self, tails: Sequence[Sequence[bytes]], head: Head | None) -> None:
        """Take up a tree.

        Args:
            tails: From level 0 up, the hashes behind the last full tile of each level: leaf hashes
                at level 0, above that the roots of full tiles.
            head: The newest head, None for a log that nobody has signed yet.

        Raises:
            ProofRefused: the tree is not the one that was signed.
        """
        ...

    def integrate(self, hashes: Sequence[bytes]) -> Sealed:
        """Add leaf hashes, in the order of the log, and sign the head that comes of it."""
        ...


Notaries = Callable[[Signer], Notary]
"""Returns who signs for a key, or raises KeyMissing: its private half is not at hand."""


class SignedLog(Protocol):
    """What a store keeps for proofs.

    A leaf's index is its place in the tree, from 0, in the order of positions.
    """

    async def signers(self) -> list[Signer]:
        """Return who has signed, the first one first; none when the store is not signed."""
        ...

    async def enrol(self, signer: Callable[[Head | None], Signer]) -> Signer:
        """Have another key sign from now on; what the log holds is integrated by then.

        Args:
            signer: Given the newest head (None when the store is not signed), returns the signer;
                what it raises leaves all as it was.

        Raises:
            KeyMissing: the private key is not at hand.
        """
        ...

    async def head(self) -> Head | None:
        """Return the newest signed head: how far the log is integrated."""
        ...

    async def hashes(self, level: int, n: int, width: int) -> bytes:
        """Return the first ``width`` hashes of a tile, full or not."""
        ...

    async def index(self, run: str, seq: int) -> int:
        """Return an event's index in the tree.

        Raises:
            RunUnknown: there is no such event, or it is not integrated yet.
        """
        ...

    async def leaves(self, start: int, limit: int) -> list[Event]:
        """Return the integrated events from index ``start`` on, in order."""
        ...
