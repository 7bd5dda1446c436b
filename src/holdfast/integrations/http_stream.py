"""Event streams: when one has said all it has to say, and how it is cut into parts.

A stream that the transport ends properly may still have been cut: the provider's process died, a
gateway gave up. The protocols of the model providers have an end marker; without it, what came is a
piece of an answer. Where we know no marker, the transport's word must do.
"""

import json
from collections.abc import Sequence

from holdfast.integrations.http_record import Binary, part_of

__all__ = ["EndWatch", "Pieces"]

_DONE = b"[DONE]"
_ENDS: tuple[tuple[str, frozenset[bytes]], ...] = (
    ("/completions", frozenset({_DONE})),
    ("/messages", frozenset({b"message_stop", b"error"})),
    (
        "/responses",
        frozenset({b"response.completed", b"response.incomplete", b"response.failed", b"error"}),
    ),
)
"""End of a path → the data or the names of the events, one of which ends its streams."""


class EndWatch:
    """Reads an event stream as it comes and knows when its end marker has come.

    Args:
        path: The path of the request.
    """

    def __init__(self, path: str) -> None:
        path = path.rstrip("/")
        self._ends = next((ends for end, ends in _ENDS if path.endswith(end)), frozenset[bytes]())
        self._line = b""
        self._event = b""
        self._ending = False
        self.seen = False
        """Whether the end marker has come, the blank line behind its event included."""

    @property
    def missing(self) -> str:
        """Name the end marker that should have come; empty when it has, or when none is known."""
        if self.seen:
            return ""
        return " or ".join(sorted(end.decode() for end in self._ends))

    def feed(self, data: bytes) -> None:
        """Read on."""
        if self.seen or not self._ends:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._read(line.rstrip(b"\r"))
        # Nothing can follow that would change this one, and some servers end right behind it.
        if _DONE in self._ends and self._line.rstrip() in (b"data: [DONE]", b"data:[DONE]"):
            self.seen = True

    def _read(self, line: bytes) -> None:
        if not line:
            self.seen = self.seen or self._ending
            self._event, self._ending = b"", False
            return
        name, _, value = line.partition(b":")
        value = value.strip()
        if name == b"event":
            self._event = value
        elif name == b"data":
            if value == _DONE:
                self.seen = self.seen or _DONE in self._ends
            elif self._event in self._ends or self._type(value) in self._ends:
                self._ending = True

    def _type(self, data: bytes) -> bytes:
        """Return the ``type`` in an event's data, for servers that leave the event's name out."""
        if _DONE in self._ends or not any(end in data for end in self._ends):
            return b""
        try:
            said = json.loads(data)
        except ValueError:
            return b""
        kind = said.get("type") if isinstance(said, dict) else ""
        return kind.encode() if isinstance(kind, str) else b""


class Pieces:
    """Cuts bytes as they come into recordable parts, never through a character."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Sequence[Binary | str]:
        """Return what can be passed on by now."""
        data, self._rest = self._rest + data, b""
        try:
            data.decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                data, self._rest = data[: error.start], data[error.start :]
        return [part_of(data)] if data else []

    def end(self) -> Sequence[Binary | str]:
        """Return what is left: the beginning of a character that never came."""
        rest, self._rest = self._rest, b""
        return [part_of(rest)] if rest else []
