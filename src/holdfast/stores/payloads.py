"""Payloads, kept so that what many of them share is stored once.

A conversation of N turns calls the model with everything said so far, N times; stored plainly that
is O(N²) bytes. Here a large payload is cut where its own text suggests it, each *chunk* is stored
under its hash once, and what stands in the event's row is the *root*: the payload's length and the
numbers of its chunks. A later call shares all chunks but the last few. A long list of numbers is
cut and stored in the same way, level by level, so that a root stays small too.

::

    root    u8 height ‖ u64 length ‖ u32 number …    at height 0 these are chunks of the payload
    node    u32 number …                             a chunk which lists those one level down

Where a cut falls depends on the bytes around it and on where the last one fell, never on a counter
of the whole, so equal stretches fall into the same chunks soon after they begin. Cuts are sought at
C speed: right before ``},`` or ``}],`` or ``}]}``, which is where messages, tool calls and rows of
JSON end (before the brace, so that a last message is cut like one with a successor); failing that
at the end of a line; failing that after CHUNK_BYTES_MAX. What is encrypted suggests nothing: it
was cut before, and comes in frames (``vault.py``).

Invariants: the exact bytes come back; a chunk's bytes never change; it is removed only with the
subject whose key it was under, or when no payload has it any more (``collecting.py``).
"""

import re
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import sha256

from holdfast.errors import StoreRefused

__all__ = [
    "CHUNKED",
    "DEFLATED",
    "GONE",
    "HASH_BYTES",
    "INLINE_BYTES_MAX",
    "PLAIN",
    "chunk_hash",
    "cut",
    "deflate",
    "frames_of",
    "inflate",
    "load",
    "pack",
    "parse_node",
    "parse_root",
    "split",
]

PLAIN, DEFLATED, CHUNKED, GONE = 0, 1, 2, 3

INLINE_BYTES_MAX = 2_048
DEFLATE_BYTES_MIN = 400
"""Below, deflating costs more time than the bytes are worth."""
CHUNK_BYTES_MAX = 16_384
LARGE_BYTES_MIN = 1 << 20
"""Such a payload is cut into larger chunks, so that it does not become a million rows."""
HASH_BYTES = 20
FANOUT = 32
"""Numbers per node, on average."""
ROOT_NUMBERS_MAX = 2 * FANOUT
_NODE_NUMBERS = (8, 8 * FANOUT)

# Deflate without header and checksum (hence minus): the commitment in the leaf guards the bytes. A
# window of 8 KiB instead of 32 and less memory make the compressor so small (64 KiB) that malloc
# keeps it at hand: for a small payload that is 5 µs instead of 60. Noise wants the larger memory.
_LEVEL, _WINDOW = 3, -13
_MEMORY_SMALL, _MEMORY_LARGE = 6, 7

_ROOT = struct.Struct("<BQ")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_SEALED_WHOLE, _SEALED_CUT = b"\x01\x00", b"\x01\x01"
"""How encrypted payloads begin; JSON never does."""
_END_OF_VALUE = re.compile(rb"\}(?:\]?,|\]\})")
_END_OF_LINE = re.compile(rb"\\n|\n")


def split(payload: bytes) -> Generator[list[bytes], Sequence[int], tuple[int, bytes]]:
    """Return (form, bytes) for a row; yields chunks to be kept and wants the number of each.

    A small payload yields nothing, a large one its chunks and then, level by level, its nodes.
    """
    if len(payload) < DEFLATE_BYTES_MIN or payload.startswith(_SEALED_WHOLE):
        return PLAIN, payload
    sealed = payload.startswith(_SEALED_CUT)
    if len(payload) <= INLINE_BYTES_MAX and not sealed:
        return deflate(payload)
    numbers = yield list(_sealed_parts(payload) if sealed else cut(payload))
    height = 0
    while len(numbers) > ROOT_NUMBERS_MAX:
        numbers = yield list(_nodes(numbers))
        height += 1
    return CHUNKED, _ROOT.pack(height, len(payload)) + pack(numbers)


def load(form: int, stored: bytes, fetch: Callable[[int], bytes]) -> bytes:
    """Return a payload from what its row holds; ``fetch`` gives the bytes of a chunk by its number.

    Raises:
        StoreRefused: the bytes are damaged.
    """
    if form != CHUNKED:
        return inflate(form, stored)
    height, length, numbers = parse_root(stored)
    for _ in range(height):
        numbers = [number for node in numbers for number in parse_node(fetch(node))]
    payload = b"".join(map(fetch, numbers))
    if len(payload) != length:
        raise StoreRefused(f"a payload of {length} bytes has chunks of {len(payload)} bytes.")
    return payload


def inflate(form: int, stored: bytes) -> bytes:
    """Return bytes that were kept plain or deflated.

    Raises:
        StoreRefused: the bytes are damaged.
    """
    if form == PLAIN:
        return stored
    try:
        return zlib.decompress(stored, _WINDOW)
    except zlib.error as error:
        raise StoreRefused(f"{len(stored)} stored bytes cannot be inflated: {error}.") from None


def parse_root(root: bytes) -> tuple[int, int, list[int]]:
    """Return a root's height, the payload's length and the numbers.

    Raises:
        StoreRefused: the bytes are damaged.
    """
    if len(root) < _ROOT.size:
        raise StoreRefused(f"the root of a payload has {len(root)} bytes: {root!r}.")
    height, length = _ROOT.unpack_from(root)
    return height, length, parse_node(root[_ROOT.size :])


def parse_node(node: bytes) -> list[int]:
    """Return the numbers that a node lists.

    Raises:
        StoreRefused: the bytes are damaged.
    """
    if len(node) % 4:
        raise StoreRefused(f"a list of chunks has {len(node)} bytes, expected a multiple of 4.")
    return list(struct.unpack(f"<{len(node) // 4}I", node))


def chunk_hash(part: bytes) -> bytes:
    """Return what a chunk is known by."""
    return sha256(part).digest()[:HASH_BYTES]


def pack(numbers: Sequence[int]) -> bytes:
    """Return the node that lists numbers."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def deflate(plain: bytes) -> tuple[int, bytes]:
    """Return (form, bytes) for bytes that are kept in one piece."""
    memory = _MEMORY_SMALL if len(plain) <= INLINE_BYTES_MAX else _MEMORY_LARGE
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, memory)
    deflated = compressor.compress(plain) + compressor.flush()
    return (DEFLATED, deflated) if len(deflated) < len(plain) * 7 // 8 else (PLAIN, plain)


def _sealed_parts(payload: bytes) -> Iterator[bytes]:
    """Return what comes before the frames of an encrypted payload, and each frame."""
    (length,) = _U16.unpack_from(payload, 2)
    start = 4 + length
    (size,) = _U32.unpack_from(payload, start)
    end = start + _U32.size + size
    yield payload[:end]
    yield from frames_of(payload[end:])


def frames_of(frames: bytes) -> Iterator[bytes]:
    """Return frames one by one, each with its length before it."""
    start = 0
    while start < len(frames):
        (size,) = _U32.unpack_from(frames, start)
        yield frames[start : start + _U32.size + size]
        start += _U32.size + size


def cut(payload: bytes) -> Iterator[bytes]:
    """Cut a payload into chunks, a large one into larger ones."""
    value_min, line_min = (256, 1_024) if len(payload) < LARGE_BYTES_MIN else (8_192, 8_192)
    start, end = 0, len(payload)
    while end - start > value_min:
        stop = (
            _next_cut(_END_OF_VALUE, payload, start, value_min)
            or _next_cut(_END_OF_LINE, payload, start, line_min)
            or min(start + CHUNK_BYTES_MAX, end)
        )
        yield payload[start:stop]
        start = stop
    if start < end:
        yield payload[start:]


def _next_cut(ends: re.Pattern[bytes], payload: bytes, start: int, size_min: int) -> int:
    """Return where the chunk that begins at ``start`` should end, 0 when nothing suggests a place.

    Twice ``size_min`` is long enough. Before that, one place in four is taken, chosen by the bytes
    in front of it: so two payloads that share a stretch soon agree on its cuts.
    """
    stop = 0
    for found in ends.finditer(payload, start + size_min, start + CHUNK_BYTES_MAX):
        stop = found.start()
        if stop - start >= 2 * size_min or zlib.crc32(payload[stop - 32 : stop]) % 4 == 0:
            break
    return stop


def _nodes(numbers: Sequence[int]) -> Iterator[bytes]:
    """Cut a list of numbers where a number's own bits say so."""
    least, most = _NODE_NUMBERS
    node: list[int] = []
    for number in numbers:
        node.append(number)
        mixed = number * 0x9E3779B1 >> 16  # consecutive numbers must not all be cuts, or none
        if (len(node) >= least and mixed % FANOUT == 0) or len(node) == most:
            yield pack(node)
            node.clear()
    if node:
        yield pack(node)
