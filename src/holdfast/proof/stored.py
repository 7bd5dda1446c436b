"""Payloads as a store's rows hold them, decoded by the verifier's own code.

It is written a second time here, from the description of the tables, so that a fault of the store
is no fault of the verifier. A row says in which form a payload is: as it is, deflated, or as the
root of a tree of chunks; one on behalf of a subject is encrypted, with its salt inside.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.proof.report import Payload

__all__ = ["Opener", "StoredPayloads"]

PAYLOAD_BYTES_MAX = 64 * 1024 * 1024
SALT_BYTES = 32
PLAIN, DEFLATED, CHUNKED = 0, 1, 2
SEALED = b"\1"
"""How an encrypted payload begins."""
_WINDOW = -13
_HEIGHT_MAX = 8
_ROOT = struct.Struct("<BQ")
_CHUNKS_KEPT, _CHUNK_BYTES_KEPT = 1_024, 64 * 1024
"""How many are remembered, and how large; nearly all are far smaller."""
_NUMBERS_MAX = PAYLOAD_BYTES_MAX // 64
"""Chunks of a payload are larger by far."""

Opener = Callable[[str, int, bytes, bytes], tuple[bytes, bytes]]
"""``opener(run, seq, wrapped key, sealed)``: returns (payload, salt).

Raises ValueError if it was altered, LookupError if the key that wraps keys is not at hand.
"""

Rows = Sequence[tuple[Any, ...]]


class StoredPayloads:
    """Decodes payloads, whatever their columns hold.

    Args:
        find_chunk: Returns the rows (form, data) of a chunk by its number.
        keys: Returns the rows (wrapped key,) of a subject by its name.
        opener: Opens encrypted payloads, if their keys are at hand.
    """

    def __init__(
        self,
        find_chunk: Callable[[int], Rows],
        keys: Callable[[bytes], Rows],
        opener: Opener | None,
    ) -> None:
        self._find_chunk = find_chunk
        self._keys = keys
        self._opener = opener
        self._chunks: dict[int, bytes] = {}

    def read(
        self, place: tuple[str, int] | None, salt: Any, form: Any, stored: Any
    ) -> Payload | None:
        """Return a payload from its row, None when there is none; ``place`` is its (run, seq)."""
        found = self._payload(salt, form, stored)
        if found and salt is None and self._opener and place:
            return self._opened(*place, found.data)
        return found

    def _payload(self, salt: Any, form: Any, stored: Any) -> Payload | None:
        """Decode a payload, whatever its columns hold."""
        if salt is None and stored is None:
            return None
        if salt is None and form in (PLAIN, CHUNKED) and isinstance(stored, bytes):
            return self._sealed(form, stored)
        if not isinstance(salt, bytes) or len(salt) != SALT_BYTES or not isinstance(stored, bytes):
            return Payload(b"", b"", "its bytes or its salt are not there")
        try:
            return Payload(salt, self._decoded(form, stored))
        except (ValueError, LookupError, TypeError, zlib.error, struct.error) as error:
            return Payload(salt, b"", f"its bytes are damaged: {error}"[:200])

    def _sealed(self, form: Any, stored: bytes) -> Payload:
        """Decode an encrypted payload, whose salt is inside."""
        try:
            sealed = self._decoded(form, stored)
        except (ValueError, LookupError, TypeError, zlib.error, struct.error) as error:
            return Payload(b"", b"", f"its bytes are damaged: {error}"[:200])
        if not sealed.startswith(SEALED):
            return Payload(b"", b"", "its salt is not there")
        return Payload(b"", sealed)

    def _opened(self, run: str, seq: int, sealed: bytes) -> Payload:
        """Open an encrypted payload; one that was altered does not open."""
        assert self._opener is not None
        name = sealed[4 : 4 + int.from_bytes(sealed[2:4], "little")]
        keys = self._keys(name)
        key = keys[0][0] if keys else b""
        if not isinstance(key, bytes) or not any(key):
            return Payload(b"", sealed)
        try:
            data, salt = self._opener(run, seq, key, sealed)
        except LookupError:
            return Payload(b"", sealed)
        except ValueError as error:
            return Payload(b"", b"", f"its bytes were altered: {error}"[:200])
        return Payload(salt, data)

    def _decoded(self, form: Any, stored: bytes) -> bytes:
        """Return a payload from its row: as it is, deflated, or from a tree of chunks.

        Raises:
            ValueError, LookupError, TypeError, zlib.error, struct.error: the bytes are damaged.
        """
        if form == PLAIN:
            return stored
        if form == DEFLATED:
            return _inflated(stored)
        if form != CHUNKED:
            raise ValueError(f"form {form!r} is unknown")
        height, length = _ROOT.unpack_from(stored)
        if height > _HEIGHT_MAX or length > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a payload of {length} bytes in a tree of height {height}")
        numbers = _numbers(stored[_ROOT.size :])
        for _ in range(height):
            numbers = self._below(numbers)
        parts = []
        for number in numbers:
            parts.append(self._chunk(number))
            length -= len(parts[-1])
            if length < 0:
                break
        if length:
            raise ValueError("its chunks do not have its length")
        return b"".join(parts)

    def _below(self, nodes: Sequence[int]) -> list[int]:
        """Return the numbers that nodes list; a node may list itself, a thousand times."""
        numbers: list[int] = []
        for node in map(self._chunk, nodes):
            if len(numbers) + len(node) // 4 > _NUMBERS_MAX:
                raise ValueError("more chunks than a payload can have")
            numbers += _numbers(node)
        return numbers

    def _chunk(self, number: int) -> bytes:
        if number not in self._chunks:
            found = self._find_chunk(number)
            if not found:
                raise LookupError(f"chunk {number} is missing")
            form, data = found[0]
            if form not in (PLAIN, DEFLATED) or not isinstance(data, bytes):
                raise ValueError(f"chunk {number} is damaged")
            if len(self._chunks) >= _CHUNKS_KEPT:
                self._chunks.clear()
            plain = data if form == PLAIN else _inflated(data)
            if len(plain) > _CHUNK_BYTES_KEPT:
                return plain
            self._chunks[number] = plain
        return self._chunks[number]


def _inflated(stored: bytes) -> bytes:
    """Inflate, but not without bounds."""
    inflater = zlib.decompressobj(_WINDOW)
    plain = inflater.decompress(stored, PAYLOAD_BYTES_MAX)
    if not inflater.eof:
        raise ValueError("deflated bytes that end too soon, or that become too many")
    return plain


def _numbers(node: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(node) // 4}I", node))
