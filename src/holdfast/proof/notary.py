"""The notary: grows a log's tree and signs a head for each commit (``holdfast.signed.Notary``).

A store hands over the leaf hashes of a commit and gets a head and the tiles that became full. The
notary has no disk: what it knows can be made anew from what the store keeps.
"""

from collections.abc import Sequence

from holdfast.errors import ProofRefused
from holdfast.proof.merkle import EMPTY_ROOT, Tree
from holdfast.proof.note import Checkpoint, NoteSigner
from holdfast.signed import FullTile, Head, Sealed

__all__ = ["TreeNotary"]


class TreeNotary:
    """Signs the heads of one log.

    Args:
        key: The key.
        since: Heads of more leaves than this were signed with it.
    """

    def __init__(self, key: NoteSigner, since: int = 0) -> None:
        self._key = key
        self._since = since
        self._tree = Tree()
        self.size = -1

    def resume(self, tails: Sequence[Sequence[bytes]], head: Head | None) -> None:
        tree = Tree(tails)
        signed = head or Head(0, EMPTY_ROOT, b"")
        if (tree.size, tree.root()) != signed[:2] or not self._has_signed(head):
            raise ProofRefused(
                f"the log {self._key.name} of {tree.size} events is not the one of {signed.size}"
                " that was signed: nothing is signed on top of it. Nothing was written."
                " Hint: holdfast verify says what is wrong with it."
            )
        self._tree, self.size = tree, tree.size

    def _has_signed(self, head: Head | None) -> bool:
        if head is None or head.size <= self._since:  # by whoever was before, if anybody
            return True
        text = Checkpoint(self._key.name, head.size, head.root).text()
        return self._key.verifier.signed(text, head.signature)

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
