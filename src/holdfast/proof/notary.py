"""The notary: grows a log's tree and signs a head for each commit (``holdfast.signed.Notary``).

A store hands over the leaf hashes of a commit and gets a head and the tiles that became full. The
notary has no disk: what it knows can be made anew from what the store keeps.
"""

from collections.abc import Sequence

from holdfast.proof.merkle import Tree
from holdfast.proof.note import Checkpoint, SignerKey
from holdfast.signed import FullTile, Head, Sealed

__all__ = ["TreeNotary"]


class TreeNotary:
    """Signs the heads of one log with a private key in memory."""

    def __init__(self, key: SignerKey) -> None:
        self._key = key
        self._tree = Tree()
        self.size = -1

    def resume(self, tails: Sequence[Sequence[bytes]]) -> None:
        self._tree = Tree(tails)
        self.size = self._tree.size

    def integrate(self, hashes: Sequence[bytes]) -> Sealed:
        assert self.size >= 0, "a notary is resumed first"
        tree = self._tree
        for hash_ in hashes:
            tree.append(hash_)
        self.size = tree.size
        root = tree.root()
        signature = self._key.sign(Checkpoint(self._key.name, tree.size, root).text())
        return Sealed(
            Head(tree.size, root, signature), [FullTile(*tile) for tile in tree.take_full()]
        )
