"""Values given on the command line: JSON as it stands, ``@file`` or ``-`` for stdin."""

import json
import sys
from pathlib import Path
from typing import Any

from holdfast.cli.text import clean
from holdfast.errors import CodecError, UsageError

__all__ = ["SECONDS", "parse_json", "read_value"]

SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
"""How long the units are in which times are given."""
_AROUND = 30


def read_value(given: str, what: str) -> bytes:
    """Return the JSON bytes of a value given as JSON, ``@file`` or ``-``.

    Args:
        given: What the user wrote.
        what: Names the value in errors, such as ``--input``.

    Raises:
        UsageError: the file cannot be read.
        CodecError: it is not JSON; says where and shows the place.
    """
    if given == "-":
        data, where = sys.stdin.buffer.read(), "stdin"
    elif given.startswith("@"):
        where = given[1:]
        try:
            data = Path(where).read_bytes()
        except OSError as error:
            raise UsageError(f"{what} {given}: {error.strerror}") from error
    else:
        data, where = given.encode("utf-8", "surrogateescape"), ""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CodecError(f"{what} {where}: not UTF-8 at byte {error.start}") from None
    parse_json(text, f"{what} {where}".rstrip(), hint="" if where else _hint(given))
    return text.strip().encode()  # as it was written: a number may have more digits than a float


def parse_json(text: str, what: str, *, hint: str = "") -> Any:
    """Return what JSON stands for.

    Raises:
        CodecError: it is not JSON; says where and shows the place.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except json.JSONDecodeError as error:
        around = text[max(0, error.pos - _AROUND) : error.pos + _AROUND]
        shown = clean(around) or "nothing"
        raise CodecError(
            f"{what}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}:"
            f" {shown}{hint}"
        ) from None
    except UnicodeEncodeError:
        raise CodecError(f"{what}: it holds half of a surrogate pair, which is no text") from None
    except (ValueError, RecursionError) as error:
        raise CodecError(f"{what}: not JSON: {error}{hint}") from None
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _hint(given: str) -> str:
    if Path(given[:255]).is_file():
        return f". Hint: to read the file, write @{given}"
    if given.strip().replace(" ", "").isalnum():
        return f""". Hint: a text is written '"{given}"'"""
    return ""
