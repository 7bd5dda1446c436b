"""The tree is that of RFC 6962, however it came about, and its proofs prove what they should.

*Goal*: roots, tiles and proofs are right for every size and leaf, and wrong proofs are refused.
*Method*: the definition in the RFC, written down as it stands there, is the measure;
``scitt-cose``, which we did not write, checks our proofs for every leaf of every tree of up to 130
leaves, and makes the same ones.
"""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scitt_cose import merkle as scitt

from holdfast.proof import merkle
from holdfast.proof.merkle import TileNodes, Tree, consistency_proof, inclusion_proof

SIZE = 130


def hashes(count):
    return [merkle.leaf_hash(b"%d" % n) for n in range(count)]


ENTRIES = [(b"%d" % n).hex() for n in range(SIZE)]


def hexed(proof):
    return [hash_.hex() for hash_ in proof]


def defined(leaves):
    """Return MTH as RFC 6962, section 2.1, defines it."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def grown(leaves, tails=()):
    tree = Tree(tails)
    for leaf in leaves:
        tree.append(leaf)
    return tree


def nodes(leaves):
    """Serve perfect subtrees from tiles, as a store or a directory has them."""
    tree = grown(leaves)
    full = {(tile.level, tile.n): tile.hashes for tile in tree.take_full()}

    def fetch(level, n, width):
        return (full.get((level, n)) or tree.tail(level))[: width * 32]

    return TileNodes(len(leaves), fetch)


@pytest.mark.parametrize("size", [*range(20), 127, 128, 255, 256, 257, 511, 512, 513, 1000])
def test_the_root_is_that_of_the_definition(size):
    leaves = hashes(size)
    assert grown(leaves).root() == merkle.root_of(leaves) == defined(leaves)


def test_tiles_hold_the_hashes_of_their_level_and_the_root_above_them():
    leaves = hashes(256 * 256 + 300)
    tree = grown(leaves)
    tiles = {(tile.level, tile.n): tile for tile in tree.take_full()}
    assert sorted(tiles) == [*((0, n) for n in range(257)), (1, 0)]
    assert tiles[0, 7].hashes == b"".join(leaves[7 * 256 : 8 * 256])
    assert tiles[0, 7].root == merkle.root_of(leaves[7 * 256 : 8 * 256])
    assert tiles[1, 0].hashes == b"".join(tiles[0, n].root for n in range(256))
    assert tiles[1, 0].root == merkle.root_of(leaves[: 256 * 256])
    assert tree.take_full() == []
    assert tree.tail(0) == b"".join(leaves[-44:])
    assert tree.tail(1) == tiles[0, 256].root
    assert merkle.partial_tiles(tree.size) == [(0, 257, 44), (1, 1, 1), (2, 0, 1)]


@given(before=st.integers(0, 1400), more=st.integers(0, 600))
def test_a_tree_that_is_taken_up_goes_on_as_if_it_had_never_been_left(before, more):
    leaves = hashes(before + more)
    tree = grown(leaves[:before])
    levels = range(3)
    tails = [[tree.tail(n)[at : at + 32] for at in range(0, len(tree.tail(n)), 32)] for n in levels]
    resumed = Tree(tails)
    assert (resumed.size, resumed.root()) == (before, tree.root())
    tree.take_full()
    for leaf in leaves[before:]:
        tree.append(leaf)
        resumed.append(leaf)
    assert resumed.root() == tree.root() == grown(leaves).root()
    assert resumed.take_full() == tree.take_full()


@pytest.mark.parametrize("size", range(1, SIZE + 1))
def test_every_inclusion_proof_convinces_us_and_scitt_cose(size):
    leaves = hashes(size)
    root, served = merkle.root_of(leaves), nodes(leaves)
    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(index, size, served)
        assert merkle.is_included(leaf, index, size, proof, root)
        assert scitt.verify_inclusion(ENTRIES[index], index, size, hexed(proof), root.hex())
        assert scitt.inclusion_proof(ENTRIES[:size], index) == hexed(proof)


@pytest.mark.parametrize("size", range(SIZE + 1))
def test_every_consistency_proof_convinces_us_and_scitt_cose(size):
    leaves = hashes(size)
    root, served = merkle.root_of(leaves), nodes(leaves)
    for old in range(size + 1):
        proof = consistency_proof(old, size, served)
        old_root = merkle.root_of(leaves[:old])
        assert merkle.is_consistent(old, old_root, size, root, proof)
        assert scitt.verify_consistency(old_root.hex(), root.hex(), old, size, hexed(proof))
        assert scitt.consistency_proof(ENTRIES[:size], old, size) == hexed(proof)


@given(data=st.data(), size=st.integers(1, 600))
def test_a_proof_of_anything_else_is_refused(data, size):
    leaves = hashes(size)
    root, served = merkle.root_of(leaves), nodes(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    proof = inclusion_proof(index, size, served)
    wrong = merkle.leaf_hash(b"another")
    assert not merkle.is_included(wrong, index, size, proof, root)
    assert not merkle.is_included(leaves[index], index, size, proof, wrong)
    assert not merkle.is_included(leaves[index], index, size, [*proof, wrong], root)
    assert not merkle.is_included(leaves[index], size, size, proof, root)
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        assert not merkle.is_included(leaves[index], index, size, proof[:-1], root)
        bad = [*proof[:at], wrong, *proof[at + 1 :]]
        assert not merkle.is_included(leaves[index], index, size, bad, root)
    old_root, proof = merkle.root_of(leaves[:old]), consistency_proof(old, size, served)
    assert not merkle.is_consistent(old, wrong, size, root, proof)
    assert not merkle.is_consistent(old, old_root, size, wrong, proof)
    assert not merkle.is_consistent(old, old_root, size, root, [*proof, wrong])
    assert not merkle.is_consistent(size + 1, old_root, size, root, proof)
    for at in range(len(proof)):
        bad = [*proof[:at], wrong, *proof[at + 1 :]]
        assert not merkle.is_consistent(old, old_root, size, root, bad)


def test_a_leaf_that_is_not_there_and_a_larger_prefix_are_errors():
    served = nodes(hashes(5))
    with pytest.raises(ValueError, match="leaf 5 is not one of 5"):
        inclusion_proof(5, 5, served)
    with pytest.raises(ValueError, match="6 leaves is no prefix"):
        consistency_proof(6, 5, served)


@pytest.mark.parametrize(
    ("n", "width", "path"),
    [
        (0, 256, "tile/0/000"),
        (999, 256, "tile/0/999"),
        (1000, 256, "tile/0/x001/000"),
        (1234067, 112, "tile/0/x001/x234/067.p/112"),
    ],
)
def test_a_tile_is_where_the_specification_says(n, width, path):
    assert merkle.tile_path(0, n, width) == path
    assert merkle.tile_path("entries", n, width) == path.replace("/0/", "/entries/", 1)
