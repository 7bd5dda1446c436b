"""A witness: remembers the last head of each log and cosigns the next one only if it carries on.

So whoever trusts the witness needs no older checkpoint of his own: a log that shows two histories
cannot get both cosigned. The rules are those of c2sp.org/tlog-witness; ``add_checkpoint`` answers
as its HTTP call does, whether the request came over HTTP or on a stick.

Invariant: what was cosigned is on disk before anybody hears of it, and sizes never fall.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from holdfast.errors import ProofRefused
from holdfast.proof.merkle import EMPTY_ROOT, is_consistent
from holdfast.proof.note import (
    NOTE_BYTES_MAX,
    Checkpoint,
    Note,
    SignerKey,
    VerifierKey,
    cosign,
    decode_base64,
    decode_number,
)

__all__ = ["Answer", "Witness", "request", "serve"]

PROOF_LINES_MAX = 63
TEXT, SIZE = "text/plain; charset=utf-8", "text/x.tlog.size"


class Answer(NamedTuple):
    """What a witness says: an HTTP status, the kind of the body, and the body."""

    status: int
    body: str
    kind: str = TEXT


class Witness:
    """Cosigns heads of the logs that it knows.

    Args:
        key: What it signs with.
        state: The file in which it remembers.
        logs: Whose heads it cosigns.
        now_s: Tells the time, in seconds.
    """

    def __init__(
        self, key: SignerKey, state: Path, logs: list[VerifierKey], now_s: Callable[[], float]
    ) -> None:
        self.key = key
        self._state = state
        self._logs = logs
        self._now_s = now_s

    def seen(self, origin: str) -> Checkpoint:
        """Return the last head of a log that was cosigned."""
        return self._read().get(origin, Checkpoint(origin, 0, EMPTY_ROOT))

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a request: ``old SIZE``, the consistency proof, an empty line, the checkpoint."""
        try:
            old, proof, note = _parse(body)
            head = Checkpoint.parse(note.text)
        except ProofRefused as error:
            return Answer(400, f"{error}\n")
        refused = self._stranger(old, note, head)
        if refused:
            return refused
        with self._locked():
            last = self.seen(head.origin)
            if old != last.size or (old == head.size and head.root != last.root):
                return Answer(409, f"{last.size}\n", SIZE)
            if not is_consistent(old, last.root, head.size, head.root, proof):
                return Answer(422, "the proof does not show that the log carries on\n")
            self._write({**self._read(), head.origin: head})
            return Answer(200, str(cosign(self.key, note.text, int(self._now_s()))))

    def _stranger(self, old: int, note: Note, head: Checkpoint) -> Answer | None:
        """Refuse what is not a head of a known log, or is nonsense."""
        keys = [key for key in self._logs if key.name == head.origin]
        if not keys:
            return Answer(404, f"the log {head.origin!r} is not one of those witnessed here\n")
        if not any(note.signed_by(key) for key in keys):
            return Answer(403, "no known key of the log has signed the checkpoint\n")
        if old > head.size:
            return Answer(400, f"old size {old} is above the checkpoint's, {head.size}\n")
        return None

    def _read(self) -> dict[str, Checkpoint]:
        try:
            kept = json.loads(self._state.read_text())
        except FileNotFoundError:
            return {}
        return {
            origin: Checkpoint(origin, size, bytes.fromhex(root))
            for origin, (size, root) in kept.items()
        }

    def _write(self, heads: dict[str, Checkpoint]) -> None:
        """Replace the state in one step, durably."""
        kept = {head.origin: (head.size, head.root.hex()) for head in heads.values()}
        beside = self._state.with_name(f"{self._state.name}.new")
        with beside.open("w") as file:
            json.dump(kept, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._state)
        folder = os.open(self._state.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let nobody else who has this state cosign meanwhile."""
        lock = os.open(
            self._state.with_name(f"{self._state.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def request(old: int, proof: list[str], note: Note) -> bytes:
    """Return the body of a request; the proof's hashes are in base64."""
    return "\n".join([f"old {old}", *proof, "", str(note)]).encode()


def _parse(body: bytes) -> tuple[int, list[bytes], Note]:
    head, empty, note = body.partition(b"\n\n")
    lines = head.decode(errors="replace").split("\n")
    words = lines[0].split(" ")
    if not empty or words[0] != "old" or len(words) != 2:  # noqa: PLR2004 - old and a size
        raise ProofRefused("a request begins with 'old SIZE'")
    if len(lines) > 1 + PROOF_LINES_MAX:
        raise ProofRefused(f"a proof of {len(lines) - 1} lines; at most {PROOF_LINES_MAX} are read")
    return decode_number(words[1]), [decode_base64(line) for line in lines[1:]], Note.parse(note)


def _length(said: str) -> int:
    """Return the length that a request says it has, -1 for none."""
    try:
        return decode_number(said)
    except ProofRefused:
        return -1


def serve(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server that answers ``POST /add-checkpoint``; the caller lets it run."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = _length(self.headers.get("Content-Length", ""))
            if self.path.rstrip("/").rpartition("/")[2] != "add-checkpoint":
                self.answer(Answer(404, "POST /add-checkpoint is what there is\n"))
            elif not 0 <= length <= NOTE_BYTES_MAX:
                self.answer(Answer(400, "the request needs a length, and a small one\n"))
            else:
                self.answer(witness.add_checkpoint(self.rfile.read(length)))

        def answer(self, said: Answer) -> None:
            body = said.body.encode()
            self.send_response(said.status)
            self.send_header("Content-Type", said.kind)
            self.send_header("Content-Length", str(len(body)))
            if said.status in (404, 400):
                self.send_header("Connection", "close")  # a body may be left unread
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's
            """Say nothing: what was cosigned is in the state."""

    return ThreadingHTTPServer((host, port), Handler)
