"""The Merkle tree of the log, pure: hashing, growing, proofs and the checking of proofs.

Hashing is that of RFC 6962, section 2.1; checking follows RFC 9162, section 2.1. A tree that grows
keeps only what the future needs: one hash per perfect subtree at its right edge, and the hashes of
the *tiles* that are not full yet. A tile is 256 hashes of one level, side by side; the root of a
full tile is a hash of the level above (C2SP tlog-tiles). From full tiles any proof is made with a
few hundred hashes per level, however large the tree.

Invariants: the root after n leaves depends on these leaves and their order alone; a tile that is
full never changes.
"""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple, TypeAlias

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "TILE_HASHES",
    "Nodes",
    "Tile",
    "TileNodes",
    "Tree",
    "consistency_proof",
    "inclusion_proof",
    "is_consistent",
    "is_included",
    "leaf_hash",
    "node_hash",
    "number_path",
    "partial_tiles",
    "root_of",
    "tile_path",
]

HASH_BYTES = 32
TILE_HEIGHT = 8
TILE_HASHES = 1 << TILE_HEIGHT
EMPTY_ROOT = sha256(b"").digest()

Nodes: TypeAlias = Callable[[int, int], bytes]
"""(height, index) → the hash of a perfect subtree: leaves ``index << height`` and on."""


class Tile(NamedTuple):
    """A full tile: 256 hashes of a level, one after the other, and the hash above them."""

    level: int
    n: int
    root: bytes
    hashes: bytes


def leaf_hash(leaf: bytes) -> bytes:
    """Return ``SHA-256(0x00 ‖ leaf)``."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return ``SHA-256(0x01 ‖ left ‖ right)``."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows at its right edge; it holds at most 255 hashes per level of tiles."""

    def __init__(self, tails: Iterable[Sequence[bytes]] = ()) -> None:
        """Make a tree out of the hashes of its tiles that are not full, from level 0 up.

        Level L's are those of perfect subtrees of ``256 ** L`` leaves, at most 255 of them.
        """
        self._tails = [list(tail) for tail in tails]
        self._edge: list[bytes] = []
        """The roots of the perfect subtrees, the largest first: one per bit set in ``size``."""
        self._full: list[Tile] = []
        self.size = 0
        for level, tail in reversed(list(enumerate(self._tails))):
            assert len(tail) < TILE_HASHES
            for count, hash_ in enumerate(tail):
                _carry(self._edge, hash_, count)
            self.size += len(tail) << (TILE_HEIGHT * level)

    def append(self, hash_: bytes) -> None:
        """Add a leaf by its hash."""
        edge, tails = self._edge, self._tails
        if not tails:
            tails.append([])
        tails[0].append(hash_)
        height, rest = 0, self.size
        while rest & 1:
            hash_ = sha256(b"\x01" + edge.pop() + hash_).digest()
            rest >>= 1
            height += 1
            if not height % TILE_HEIGHT:
                self._fill(height // TILE_HEIGHT - 1, rest, hash_)
        edge.append(hash_)
        self.size += 1

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        return _folded(self._edge)

    def take_full(self) -> list[Tile]:
        """Return the tiles that have become full since the last call."""
        full, self._full = self._full, []
        return full

    def tail(self, level: int) -> bytes:
        """Return the hashes of the tile of a level that is not full."""
        return b"".join(self._tails[level]) if level < len(self._tails) else b""

    def _fill(self, level: int, n: int, root: bytes) -> None:
        self._full.append(Tile(level, n, root, b"".join(self._tails[level])))
        self._tails[level].clear()
        if level + 1 == len(self._tails):
            self._tails.append([])
        self._tails[level + 1].append(root)


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    edge: list[bytes] = []
    for count, hash_ in enumerate(hashes):
        _carry(edge, hash_, count)
    return _folded(edge)


def _carry(edge: list[bytes], hash_: bytes, count: int) -> None:
    """Add the ``count``-th hash to the perfect subtrees before it."""
    while count & 1:
        hash_ = sha256(b"\x01" + edge.pop() + hash_).digest()
        count >>= 1
    edge.append(hash_)


def _folded(edge: Sequence[bytes]) -> bytes:
    if not edge:
        return EMPTY_ROOT
    root = edge[-1]
    for left in edge[-2::-1]:
        root = sha256(b"\x01" + left + root).digest()
    return root


# Proofs: made from the hashes of perfect subtrees, which tiles have.


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return the hashes beside the path from leaf ``index`` to the root of ``size`` leaves.

    Raises:
        ValueError: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not one of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return the hashes that show the tree of ``old`` leaves to be a prefix of that of ``size``.

    Raises:
        ValueError: ``old`` is larger than ``size``, or below 0.
    """
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {old} leaves is no prefix of one of {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while 0 < old < end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    if start:
        proof.append(_range_hash(start, end, nodes))
    return proof[::-1]


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_hash(start: int, end: int, nodes: Nodes) -> bytes:
    """Return the hash of leaves ``start`` to ``end``, which begin where a subtree does."""
    count = end - start
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        return nodes(height, start >> height)
    middle = start + _split(count)
    return node_hash(_range_hash(start, middle, nodes), _range_hash(middle, end, nodes))


def is_included(hash_: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Tell whether a proof shows that leaf ``index`` of ``size`` has this hash."""
    if not 0 <= index < size:
        return False
    at, last = index, size - 1
    for beside in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            hash_ = node_hash(beside, hash_)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            hash_ = node_hash(hash_, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and hash_ == root


def is_consistent(
    old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]
) -> bool:
    """Tell whether a proof shows that a tree is a prefix of another."""
    if not 0 <= old <= size:
        return False
    if old in (0, size):
        return not proof and old_root == (root if old else EMPTY_ROOT)
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for beside in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(beside, before), node_hash(beside, after)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, beside)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == root


# Tiles.


class TileNodes:
    """The perfect subtrees of a tree that is kept as tiles: an instance is a ``Nodes``.

    Args:
        size: The tree's leaves.
        fetch: (level, n, width) → the first ``width`` hashes of a tile.
    """

    def __init__(self, size: int, fetch: Callable[[int, int, int], bytes]) -> None:
        self._size = size
        self._fetch = fetch
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def __call__(self, height: int, index: int) -> bytes:
        level, above = divmod(height, TILE_HEIGHT)
        n, at = divmod(index << above, TILE_HASHES)
        return root_of(self._tile(level, n)[at : at + (1 << above)])

    def _tile(self, level: int, n: int) -> list[bytes]:
        if (level, n) not in self._tiles:
            width = min(TILE_HASHES, (self._size >> (TILE_HEIGHT * level)) - n * TILE_HASHES)
            hashes = self._fetch(level, n, width)
            if len(hashes) != width * HASH_BYTES:
                raise ValueError(
                    f"tile {level}/{n} has {len(hashes)} bytes, expected {width * HASH_BYTES}"
                )
            cuts = range(0, len(hashes), HASH_BYTES)
            self._tiles[level, n] = [hashes[cut : cut + HASH_BYTES] for cut in cuts]
        return self._tiles[level, n]


def partial_tiles(size: int) -> list[tuple[int, int, int]]:
    """Return (level, n, width) of the tiles at the right edge that are begun but not full."""
    tiles = []
    level, hashes = 0, size
    while hashes:
        n, width = divmod(hashes, TILE_HASHES)
        if width:
            tiles.append((level, n, width))
        level, hashes = level + 1, n
    return tiles


def tile_path(kind: int | str, n: int, width: int = TILE_HASHES) -> str:
    """Return where a tile is: ``tile/0/x001/x234/067``, with ``.p/W`` when it is not full.

    Args:
        kind: The level, or ``entries`` for the leaves themselves.
        n: Which tile of that level.
        width: How many of its hashes there are.
    """
    partial = f".p/{width}" if width < TILE_HASHES else ""
    return f"tile/{kind}/{number_path(n)}{partial}"


def number_path(n: int) -> str:
    """Return a number in groups of three digits, all but the last marked: ``x001/x234/067``."""
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03}")
    return "/".join(groups)
