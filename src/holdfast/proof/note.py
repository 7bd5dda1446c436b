"""Signed notes, checkpoints and proofs of one event: the C2SP formats, byte by byte.

A note is text, an empty line and signature lines; a checkpoint is a note whose text is origin, size
and root. Everything that comes from outside is parsed here, and what is not exactly right raises
``ProofRefused`` and nothing else.

::

    example.com/log
    1204
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — example.com/log Az3grlgtzPICa5OS8npVmf1Myq…

Formats: c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature and tlog-proof. Signatures are
Ed25519, made and checked by ``cryptography``, which is imported when the first key is used.
"""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, Self

from holdfast.errors import ProofRefused

__all__ = [
    "COSIGNING",
    "SIGNING",
    "Checkpoint",
    "EventProof",
    "Note",
    "NoteSigner",
    "Signature",
    "SignerKey",
    "VerifierKey",
    "check_key_name",
    "cosign",
    "decode_base64",
    "decode_number",
    "encode_base64",
]

SIGNING, COSIGNING = 1, 4
"""Kinds of keys: of logs, and of witnesses, whose signatures carry a time."""

KEY_BYTES, ID_BYTES, SIGNATURE_BYTES = 32, 4, 64
NOTE_BYTES_MAX = 1_000_000
SIGNATURES_MAX = 100
DIGITS_MAX = 18
_PRIVATE = "PRIVATE+KEY+"
_DASH = "\N{EM DASH} "
_PROOF = "c2sp.org/tlog-proof@v1"
_TIME = struct.Struct(">Q")


def encode_base64(data: bytes) -> str:
    """Return standard base64, padded."""
    return base64.b64encode(data).decode()


def decode_base64(text: str) -> bytes:
    """Return the bytes of standard base64, of which there is one form only.

    Raises:
        ProofRefused: it is something else.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofRefused(f"{text[:80]!r} is not base64: {error}") from None
    if encode_base64(data) != text:
        raise ProofRefused(f"{text[:80]!r} is not base64 as it is written")
    return data


def decode_number(text: str) -> int:
    """Return a decimal number, of which there is one form only.

    Raises:
        ProofRefused: it is something else, or has more than 18 digits.
    """
    plain = text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX
    if not plain or (text[0] == "0" and text != "0"):
        raise ProofRefused(f"{text[:80]!r} is not a decimal number without leading zeros")
    return int(text)


def check_key_name(name: str) -> None:
    """Check the name of a key, which is the origin of a log.

    Raises:
        ProofRefused: it is empty, or has a space or a plus in it.
    """
    if not name or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
        raise ProofRefused(f"key name {name!r}: expected printable characters, no space, no plus")


def _key_id(name: str, kind: int, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:ID_BYTES]


@dataclass(frozen=True)
class VerifierKey:
    """A public key with its name: ``name+hex(id)+base64(kind ‖ public)`` as text."""

    name: str
    kind: int
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key.

        Raises:
            ProofRefused: it is not one, or of a kind that is unknown here.
        """
        parts = text.split("+", 2)
        if len(parts) != 3:  # noqa: PLR2004 - name, id, key
            raise ProofRefused(f"{text[:80]!r} is not a verifier key: expected NAME+ID+KEY")
        name, id_, data = parts
        check_key_name(name)
        key = decode_base64(data)
        if len(key) != 1 + KEY_BYTES or key[0] not in (SIGNING, COSIGNING):
            raise ProofRefused(f"{text[:80]!r} is not an Ed25519 key of a log or a witness")
        found = cls(name, key[0], key[1:])
        if found.id.hex() != id_:
            raise ProofRefused(f"{text[:80]!r}: the key's id is {found.id.hex()}")
        return found

    @cached_property
    def id(self) -> bytes:
        """The four bytes that tell which key signed."""
        return _key_id(self.name, self.kind, self.public)

    def __str__(self) -> str:
        data = encode_base64(bytes([self.kind]) + self.public)
        return f"{self.name}+{self.id.hex()}+{data}"

    @cached_property
    def _public(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - slow

        return ed25519.Ed25519PublicKey.from_public_bytes(self.public)

    def signed(self, text: str, signature: bytes) -> bool:
        """Tell whether what stands behind the key id in a signature line is this key's."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - slow

        message = text.encode()
        if self.kind == COSIGNING:
            if len(signature) != _TIME.size + SIGNATURE_BYTES:
                return False
            message = _cosigned(_TIME.unpack_from(signature)[0], text)
            signature = signature[_TIME.size :]
        try:
            self._public.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class NoteSigner(Protocol):
    """A private key with its name, wherever it is."""

    @property
    def name(self) -> str:
        """The key's name, which is a log's origin."""

    @property
    def verifier(self) -> VerifierKey:
        """The public key."""

    def sign(self, text: str) -> bytes:
        """Return the signature of a note's text."""


@dataclass(frozen=True, repr=False)
class SignerKey:
    """A private key with its name, in Go's form as text: ``PRIVATE+KEY+name+hex(id)+base64(…)``."""

    name: str
    seed: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key; what is refused is not repeated in the message.

        Raises:
            ProofRefused: it is not one.
        """
        parts = text.removeprefix(_PRIVATE).split("+", 2)
        if not text.startswith(_PRIVATE) or len(parts) != 3:  # noqa: PLR2004 - name, id, key
            raise ProofRefused("not a private key: expected PRIVATE+KEY+NAME+ID+KEY")
        name, id_, data = parts
        check_key_name(name)
        try:
            key = decode_base64(data)
        except ProofRefused:
            raise ProofRefused(f"the private key {name!r} is damaged: it is not base64") from None
        if len(key) != 1 + KEY_BYTES or key[0] != SIGNING:
            raise ProofRefused(f"the private key {name!r} is not an Ed25519 key")
        found = cls(name, key[1:])
        if found.verifier.id.hex() != id_:
            raise ProofRefused(f"the private key {name!r} is damaged: its id is another's")
        return found

    def text(self) -> str:
        """Return the key as it stands in its file, without a newline."""
        data = encode_base64(bytes([SIGNING]) + self.seed)
        return f"{_PRIVATE}{self.name}+{self.verifier.id.hex()}+{data}"

    @cached_property
    def _private(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415 - slow

        return ed25519.Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def verifier(self) -> VerifierKey:
        """The public key of a log."""
        return VerifierKey(self.name, SIGNING, self._private.public_key().public_bytes_raw())

    @cached_property
    def witness(self) -> VerifierKey:
        """The public key of a witness."""
        return VerifierKey(self.name, COSIGNING, self.verifier.public)

    def sign(self, text: str) -> bytes:
        """Return the signature of a note's text."""
        signature: bytes = self._private.sign(text.encode())
        return signature


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: ``— name base64(id ‖ signature)``."""

    name: str
    id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {encode_base64(self.id + self.signature)}\n"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line without its newline.

        Raises:
            ProofRefused: it is not one.
        """
        name, _, data = line.removeprefix(_DASH).partition(" ")
        signature = decode_base64(data)
        if not line.startswith(_DASH) or len(signature) <= ID_BYTES:
            raise ProofRefused(f"{line[:80]!r} is not a signature line")
        check_key_name(name)
        return cls(name, signature[:ID_BYTES], signature[ID_BYTES:])


@dataclass(frozen=True, slots=True)
class Note:
    """Text that is signed, and by whom; ``str()`` gives it as it is written."""

    text: str
    """Ends in a newline."""
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a note.

        Raises:
            ProofRefused: it is not one.
        """
        if len(data) > NOTE_BYTES_MAX:
            raise ProofRefused(f"a note of {len(data)} bytes; at most {NOTE_BYTES_MAX} are read")
        try:
            whole = data.decode()
        except UnicodeDecodeError as error:
            raise ProofRefused(f"a note that is not UTF-8 at byte {error.start}") from None
        text, empty, lines = whole.rpartition("\n\n")
        if any(c < " " and c != "\n" for c in whole) or not (empty and lines.endswith("\n")):
            raise ProofRefused(f"not a signed note: {whole[:80]!r}")
        found = lines.removesuffix("\n").split("\n")
        if len(found) > SIGNATURES_MAX:
            raise ProofRefused(f"a note with {len(found)} signatures; {SIGNATURES_MAX} are read")
        return cls(text + "\n", tuple(map(Signature.parse, found)))

    def __str__(self) -> str:
        return f"{self.text}\n{''.join(map(str, self.signatures))}"

    def signed_by(self, key: VerifierKey) -> bool:
        """Tell whether a key has signed; a signature in its name that is wrong counts for none."""
        return any(
            key.signed(self.text, line.signature)
            for line in self.signatures
            if (line.name, line.id) == (key.name, key.id)
        )


class Checkpoint(NamedTuple):
    """A tree head: what is signed at each commit."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text of a checkpoint; what may follow its three lines is left alone.

        Raises:
            ProofRefused: it is not one.
        """
        lines = text.split("\n")
        if len(lines) < 4 or not lines[0]:  # noqa: PLR2004 - origin, size, root, the end
            raise ProofRefused(f"not a checkpoint: {text[:80]!r}")
        root = decode_base64(lines[2])
        if len(root) != sha256().digest_size:
            raise ProofRefused(f"the root of a checkpoint has {len(root)} bytes, expected 32")
        return cls(lines[0], decode_number(lines[1]), root)

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n"

    def note(self, key: VerifierKey, signature: bytes) -> Note:
        """Return the note that a signature makes of it."""
        return Note(self.text(), (Signature(key.name, key.id, signature),))


def cosign(key: SignerKey, text: str, at_s: int) -> Signature:
    """Return a witness's signature of a checkpoint's text, made at a time in seconds."""
    signature: bytes = key._private.sign(_cosigned(at_s, text))  # noqa: SLF001 - of this module
    return Signature(key.name, key.witness.id, _TIME.pack(at_s) + signature)


def _cosigned(at_s: int, text: str) -> bytes:
    return f"cosignature/v1\ntime {at_s}\n{text}".encode()


@dataclass(frozen=True, slots=True)
class EventProof:
    """That a leaf is in a log: what a ``.tlog-proof`` file holds."""

    index: int
    hashes: Sequence[bytes]
    """Leaf to root."""
    checkpoint: Note

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a proof; extra data, which nothing signs, is passed over.

        Raises:
            ProofRefused: it is not one.
        """
        head, empty, note = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError:
            lines = []
        if not empty or lines[:1] != [_PROOF]:
            raise ProofRefused(f"not a proof: {data[:80]!r}, expected {_PROOF!r}")
        lines = lines[1:]
        if lines and lines[0].startswith("extra "):
            lines = lines[1:]
        if not lines or not lines[0].startswith("index ") or len(lines) > 64:  # noqa: PLR2004 - 63
            raise ProofRefused(f"a proof without an index, or of {len(lines)} lines")
        hashes = [decode_base64(line) for line in lines[1:]]
        if any(len(hash_) != sha256().digest_size for hash_ in hashes):
            raise ProofRefused("a proof with a hash that has not 32 bytes")
        return cls(decode_number(lines[0].removeprefix("index ")), hashes, Note.parse(note))

    def __str__(self) -> str:
        hashes = "".join(f"{encode_base64(hash_)}\n" for hash_ in self.hashes)
        return f"{_PROOF}\nindex {self.index}\n{hashes}\n{self.checkpoint}"
