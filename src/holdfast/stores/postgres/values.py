"""Whole columns as one parameter: arrays in PostgreSQL's binary form.

A batch sends each column of its rows as one array, and ``unnest`` makes rows of them. The type of
an array does not depend on what is in it, so a statement is prepared once, whatever it is given.

::

    array     i32 dimensions ‖ i32 1 if a NULL is in it ‖ u32 type ‖ i32 length ‖ i32 1 ‖ element …
    element   i32 bytes, -1 for NULL ‖ the bytes
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg import adapt, pq
from psycopg.abc import AdaptContext
from psycopg.types.numeric import Int8BinaryDumper

__all__ = ["Bytes", "Ints", "Texts", "adapt_values"]

_INT8, _TEXT, _BYTEA = 20, 25, 17
_INT8S, _TEXTS, _BYTEAS = 1016, 1009, 1001
_HEAD = struct.Struct(">iiIii")
_SIZE = struct.Struct(">i")
_NULL = _SIZE.pack(-1)


@dataclass(frozen=True, slots=True)
class Ints:
    """A column of 64-bit integers."""

    column: Sequence[int]


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts."""

    column: Sequence[str]


@dataclass(frozen=True, slots=True)
class Bytes:
    """A column of byte strings, or NULLs."""

    column: Sequence[bytes | None]


def adapt_values(sender: AdaptContext) -> None:
    """Teach a connection or a cursor these columns, and to send every integer with 64 bits."""
    adapters = sender.adapters
    assert adapters is not None
    adapters.register_dumper(Ints, _IntsDumper)
    adapters.register_dumper(Texts, _TextsDumper)
    adapters.register_dumper(Bytes, _BytesDumper)
    adapters.register_dumper(int, Int8BinaryDumper)


class _IntsDumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _INT8S

    def dump(self, obj: Ints) -> bytes:
        column = obj.column
        cells = [cell for value in column for cell in (8, value)]
        return _head(_INT8, len(column)) + struct.pack(">" + "iq" * len(column), *cells)


class _BytesDumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _BYTEAS

    def dump(self, obj: Bytes) -> bytes:
        return _joined(_BYTEA, obj.column)


class _TextsDumper(adapt.Dumper):
    format = pq.Format.BINARY
    oid = _TEXTS

    def dump(self, obj: Texts) -> bytes:
        return _joined(_TEXT, [text.encode() for text in obj.column])


def _head(kind: int, length: int, *, nulls: bool = False) -> bytes:
    return _HEAD.pack(1, nulls, kind, length, 1) if length else _HEAD.pack(0, 0, kind, 0, 1)[:12]


def _joined(kind: int, column: Sequence[bytes | None]) -> bytes:
    return _head(kind, len(column), nulls=None in column) + b"".join(_elements(column))


def _elements(column: Iterable[bytes | None]) -> Iterable[bytes]:
    for value in column:
        if value is None:
            yield _NULL
        else:
            yield _SIZE.pack(len(value))
            yield value
