r"""Keys of subjects, and payloads under them.

Each subject, a person by a pseudonymous id, has a data key of its own. A *vault*, a small file that
is never in the store, has the master key that wraps them; the store keeps them wrapped. To erase a
subject is to destroy its wrapped key: what was encrypted is noise then, in every copy of the store
that has lost the key, and so are the salts, which stand inside.

::

    wrapped  nonce[12] ‖ AES-256-GCM(master, data key[32])             AAD "holdfast subject\0" ‖ id
    sealed   u8 1 ‖ u8 kind ‖ u16 n ‖ id[n] ‖ u32 n ‖ head[n] ‖ frame …
    head     nonce[12] ‖ AES-256-GCM(k1, salt[32] ‖ rest)              AAD the bytes before ‖ place
    frame    u32 n ‖ nonce[12] ‖ AES-256-GCM(k2, u8 form ‖ part)[n-12]  AAD id

``place`` is where the payload stands: run and seq, or inbox and message id; with the id, whose key
belongs to one log, it keeps a payload from being put in another's place. k1, k2 and k3 are
HMAC-SHA256(data key, "head" / "frame" / "nonce").

A small payload (kind 0) is the rest of its head, after its form. Of a large one (kind 1) the rest
is the SHA-256 of all frames, and each frame holds a part of it. A part's nonce is
HMAC-SHA256(k3, form ‖ part)[:12], so that equal parts of one subject's payloads are equal frames:
stores keep them once, and a conversation stays O(N). What that gives away: which payloads *of one
subject* share parts, and how large parts are once deflated. Between subjects nothing is shared.

Invariants: a payload never begins with 1 unless it is sealed, for JSON does not; a data key is in
memory only; ``cryptography`` is imported when the first subject is met.
"""

import base64
import hashlib
import hmac
import os
import struct
from pathlib import Path
from typing import Any

from holdfast.core.limits import SALT_BYTES
from holdfast.errors import StoreRefused, VaultMissing
from holdfast.stores.payloads import INLINE_BYTES_MAX, cut, deflate, frames_of, inflate

__all__ = ["WRAPPED_BYTES", "SubjectKey", "Vault", "is_sealed", "place", "sealed_for"]

KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
WRAPPED_BYTES = NONCE_BYTES + KEY_BYTES + TAG_BYTES
_PREFIX = "HOLDFAST+VAULT+1+"
_SEALED, _WHOLE, _CUT = 1, 0, 1


class Vault:
    """The master key, read from its file when it is needed.

    Args:
        path: The file; None keeps the key in memory, for a store that is there too.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._master: bytes | None = None if path is not None else os.urandom(KEY_BYTES)

    def wrap(self, subject: str, key: bytes, *, create: bool) -> bytes:
        """Return a data key wrapped; the vault is made if it is not there and ``create`` is set.

        Raises:
            VaultMissing: there is no vault, or it cannot be read or made.
        """
        nonce = os.urandom(NONCE_BYTES)
        return nonce + _encrypt(_gcm(self._key(create=create)), nonce, key, _wrap_aad(subject))

    def unwrap(self, subject: str, wrapped: bytes) -> bytes:
        """Return a data key.

        Raises:
            VaultMissing: there is no vault, or it is another one than wrapped the key.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - heavy, on first use

        cipher = _gcm(self._key(create=False))
        try:
            key: bytes = cipher.decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _wrap_aad(subject)
            )
        except InvalidTag:
            raise VaultMissing(
                f"subject {subject!r}: its key was wrapped by another vault than {self.path}."
                " Nothing was changed. Hint: HOLDFAST_VAULT names the right one."
            ) from None
        return key

    def _key(self, *, create: bool) -> bytes:
        if self._master is None:
            assert self.path is not None
            try:
                self._master = _read(self.path)
            except FileNotFoundError:
                if not create:
                    raise VaultMissing(
                        f"there is no vault at {self.path}; without it payloads of subjects stay"
                        " sealed. Nothing was changed. Hint: HOLDFAST_VAULT names another place."
                    ) from None
                self._master = _make(self.path)
        return self._master


class SubjectKey:
    """Seals and opens the payloads of one subject.

    Args:
        subject: Its id.
        key: Its data key, 32 bytes.
    """

    def __init__(self, subject: str, key: bytes) -> None:
        self.subject = subject
        self._id = subject.encode()
        self._head = _gcm(_derived(key, b"head"))
        self._frame = _gcm(_derived(key, b"frame"))
        self._nonce = _derived(key, b"nonce")

    def seal(self, payload: bytes, salt: bytes, where: bytes) -> bytes:
        """Return a payload and its salt, encrypted for one place.

        Args:
            payload: JSON.
            salt: 32 bytes; of a message, which has none yet, any.
            where: From ``place``.
        """
        whole = len(payload) <= INLINE_BYTES_MAX
        start = struct.pack("<BBH", _SEALED, _WHOLE if whole else _CUT, len(self._id)) + self._id
        if whole:
            form, data = deflate(payload)
            return start + self._sealed_head(salt + bytes([form]) + data, start, where)
        frames = b"".join(map(self._sealed_frame, cut(payload)))
        rest = hashlib.sha256(frames).digest()
        return start + self._sealed_head(salt + rest, start, where) + frames

    def open(self, sealed: bytes, where: bytes) -> tuple[bytes, bytes]:
        """Return (payload, salt).

        Raises:
            StoreRefused: the bytes were altered, or belong to another place.
        """
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - heavy, on first use

        try:
            kind, end, start, head = _parsed(sealed)
            nonce, secret = head[:NONCE_BYTES], head[NONCE_BYTES:]
            clear: bytes = self._head.decrypt(nonce, secret, start + where)
            salt, rest = clear[:SALT_BYTES], clear[SALT_BYTES:]
            if kind == _WHOLE:
                return inflate(rest[0], rest[1:]), salt
            frames = sealed[end:]
            if hashlib.sha256(frames).digest() != rest:
                raise StoreRefused("parts of a sealed payload are not its own")
            return b"".join(map(self._opened_frame, frames_of(frames))), salt
        except (InvalidTag, IndexError, ValueError, struct.error) as error:
            raise StoreRefused(
                f"a payload of subject {self.subject!r} cannot be opened: it was altered, or stands"
                f" in another's place ({type(error).__name__})."
            ) from None

    def _sealed_head(self, clear: bytes, start: bytes, where: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        head = nonce + _encrypt(self._head, nonce, clear, start + where)
        return struct.pack("<I", len(head)) + head

    def _sealed_frame(self, part: bytes) -> bytes:
        form, data = deflate(part)
        clear = bytes([form]) + data
        nonce = hmac.digest(self._nonce, clear, "sha256")[:NONCE_BYTES]
        secret = nonce + _encrypt(self._frame, nonce, clear, self._id)
        return struct.pack("<I", len(secret)) + secret

    def _opened_frame(self, frame: bytes) -> bytes:
        secret = frame[4:]
        clear: bytes = self._frame.decrypt(secret[:NONCE_BYTES], secret[NONCE_BYTES:], self._id)
        return inflate(clear[0], clear[1:])


def is_sealed(payload: bytes) -> bool:
    """Tell whether a payload is encrypted."""
    return payload[:1] == b"\x01"


def sealed_for(payload: bytes) -> str:
    """Return the subject that a sealed payload belongs to; enough are its first 1 KiB.

    Raises:
        StoreRefused: it is not a sealed payload.
    """
    try:
        (length,) = struct.unpack_from("<H", payload, 2)
        return payload[4 : 4 + length].decode()
    except (struct.error, UnicodeDecodeError) as error:
        raise StoreRefused(f"not a sealed payload: {error}") from None


def place(kind: str, run: str, what: str | int) -> bytes:
    """Return what binds a payload to where it stands: ``event``, run, seq; ``inbox``, run, id."""
    return "\0".join(("", kind, run, str(what))).encode("utf-8", "surrogatepass")


def _parsed(sealed: bytes) -> tuple[int, int, bytes, bytes]:
    """Return (kind, where the frames begin, what comes before the head, head)."""
    mark, kind, length = struct.unpack_from("<BBH", sealed)
    if mark != _SEALED:
        raise ValueError(f"not a sealed payload: {mark}")
    start = sealed[: 4 + length]
    (size,) = struct.unpack_from("<I", sealed, len(start))
    begin, end = len(start) + 4, len(start) + 4 + size
    if end > len(sealed) or (kind == _WHOLE and end < len(sealed)):
        raise ValueError(f"{len(sealed)} bytes, of which the head should end at {end}")
    return kind, end, start, sealed[begin:end]


def _encrypt(cipher: Any, nonce: bytes, clear: bytes, aad: bytes) -> bytes:
    secret: bytes = cipher.encrypt(nonce, clear, aad)
    return secret


def _derived(key: bytes, use: bytes) -> bytes:
    return hmac.digest(key, use, "sha256")


def _wrap_aad(subject: str) -> bytes:
    return b"holdfast subject\0" + subject.encode()


def _gcm(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - heavy

    return AESGCM(key)


def _read(path: Path) -> bytes:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise VaultMissing(f"{path}: the vault cannot be read: {error}") from error
    if path.stat().st_mode & 0o077:
        raise VaultMissing(f"{path}: the vault may be read by others. Hint: chmod 600 {path}")
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not text.startswith(_PREFIX) or len(key) != KEY_BYTES:
        raise VaultMissing(f"{path}: not a vault; one begins with {_PREFIX!r}")
    return key


def _make(path: Path) -> bytes:
    """Make a vault, durable before it is used; if another process was faster, its is the one."""
    key = os.urandom(KEY_BYTES)
    beside = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    try:
        handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(handle, (_PREFIX + base64.b64encode(key).decode() + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(beside, path)  # unlike a rename, it does not replace
        except FileExistsError:
            return _read(path)
        finally:
            beside.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise VaultMissing(f"{path}: the vault cannot be made: {error.strerror}") from error
    return key
