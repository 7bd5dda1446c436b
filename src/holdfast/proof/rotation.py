"""How a log is handed over from one key to another: a statement that the old one signs.

It is a note, and its first line makes sure that it is no checkpoint::

    holdfast key rotation v1
    <origin>
    <size>
    <base64 root>
    <new verifier key>

Heads of more than ``size`` events are signed by the new key, all others by the old one.
"""

from holdfast.errors import ProofRefused
from holdfast.proof.note import (
    Checkpoint,
    Note,
    NoteSigner,
    Signature,
    VerifierKey,
    encode_base64,
)

__all__ = ["statement", "taken_over"]

_TITLE = "holdfast key rotation v1"


def statement(old: NoteSigner, size: int, root: bytes, new: NoteSigner) -> Note:
    """Return the note by which a key hands over behind a head."""
    text = f"{_TITLE}\n{old.name}\n{size}\n{encode_base64(root)}\n{new.verifier}\n"
    return Note(text, (Signature(old.name, old.verifier.id, old.sign(text)),))


def taken_over(old: VerifierKey, said: str) -> tuple[Checkpoint, VerifierKey]:
    """Return the head behind which a log was handed over, and to which key.

    Raises:
        ProofRefused: it is no statement, or the old key did not sign it.
    """
    note = Note.parse(said.encode(errors="surrogatepass"))  # which is then no UTF-8
    title, _, rest = note.text.partition("\n")
    head = Checkpoint.parse(rest)
    lines = rest.split("\n")
    if title != _TITLE or len(lines) != 5:  # noqa: PLR2004 - the head, the key, the end
        raise ProofRefused(f"not a statement of a key's rotation: {note.text[:80]!r}")
    new = VerifierKey.parse(lines[3])
    if not note.signed_by(old) or head.origin != old.name or new.name != old.name:
        raise ProofRefused(f"the key {old} did not hand the log over to {new}")
    return head, new
