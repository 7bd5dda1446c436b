"""Keys that an ssh-agent holds: it signs, and never shows them.

``HOLDFAST_KEY=ssh-agent`` means the agent behind SSH_AUTH_SOCK: OpenSSH's, or any program that
speaks its protocol (draft-ietf-sshm-ssh-agent), such as one in front of a hardware token. An
Ed25519 key's signature there is over the bytes themselves, so it is the one that a note needs.

Whoever commits waits for the agent, so it must answer without asking a person. An agent that does
not answer is a store that cannot write now; what it answers is checked before it is believed.
"""

import base64
import hashlib
import os
import socket
import struct
from typing import NamedTuple

from holdfast.errors import StoreUnavailable, UsageError
from holdfast.proof.note import SIGNING, VerifierKey

__all__ = ["AgentKey", "Identity", "SshAgent", "identity_of"]

ANSWER_S = 5.0
ANSWER_BYTES_MAX = 256 * 1024
KIND = b"ssh-ed25519"
KEY_BYTES, SIGNATURE_BYTES = 32, 64
_LIST, _LISTED, _SIGN, _SIGNED = 11, 12, 13, 14
_U32 = struct.Struct(">I")


class Identity(NamedTuple):
    """An Ed25519 key that an agent holds."""

    public: bytes
    comment: str

    @property
    def fingerprint(self) -> str:
        """What ``ssh-add -l`` calls it."""
        digest = hashlib.sha256(_blob(self.public)).digest()
        return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


class SshAgent:
    """The agent behind SSH_AUTH_SOCK; each question is a connection of its own."""

    def identities(self) -> list[Identity]:
        """Return the Ed25519 keys that it holds.

        Raises:
            StoreUnavailable: it does not answer.
        """
        kind, rest = self._ask(bytes([_LIST]))
        if kind != _LISTED:
            raise _silent(f"it answers {kind} to a question for its keys")
        (count,) = _U32.unpack_from(rest.ljust(_U32.size, b"\0"))
        rest, found = rest[_U32.size :], []
        for _ in range(count):
            blob, rest = _string(rest)
            comment, rest = _string(rest)
            name, key = _string(blob)
            if name == KIND:
                found.append(Identity(_string(key)[0], comment.decode(errors="replace")))
        return found

    def sign(self, public: bytes, data: bytes) -> bytes:
        """Return the signature of some bytes by a key that it holds.

        Raises:
            StoreUnavailable: it does not answer, or does not sign.
        """
        asked = bytes([_SIGN]) + _packed(_blob(public)) + _packed(data) + _U32.pack(0)
        kind, rest = self._ask(asked)
        if kind != _SIGNED:
            raise _silent("it does not sign with this key")
        name, signature = _string(_string(rest)[0])
        signature = _string(signature)[0]
        if name != KIND or len(signature) != SIGNATURE_BYTES:
            raise _silent("its signature is none of an Ed25519 key")
        return signature

    @staticmethod
    def _ask(message: bytes) -> tuple[int, bytes]:
        """Send a message and return the answer's kind and content."""
        try:
            with _connected() as connection:
                connection.sendall(_packed(message))
                (length,) = _U32.unpack(_received(connection, _U32.size))
                if not 0 < length <= ANSWER_BYTES_MAX:
                    raise _silent(f"its answer has {length} bytes")
                answer = _received(connection, length)
        except OSError as error:
            raise _silent(str(error)) from error
        return answer[0], answer[1:]


class AgentKey:
    """A key of an agent under a log's name, as ``SignerKey`` is one in memory."""

    def __init__(self, name: str, public: bytes, agent: SshAgent) -> None:
        self.name = name
        self.verifier = VerifierKey(name, SIGNING, public)
        self._agent = agent

    def sign(self, text: str) -> bytes:
        """Return the signature of a note's text.

        Raises:
            StoreUnavailable: the agent does not sign.
        """
        signature = self._agent.sign(self.verifier.public, text.encode())
        if not self.verifier.signed(text, signature):
            raise _silent("its signature is not one of the key that was asked for")
        return signature


def identity_of(found: list[Identity], which: str) -> Identity:
    """Return the key that is meant, by its fingerprint or comment; the only one if none is named.

    Raises:
        UsageError: there is none, or there are several.
    """
    meant = [one for one in found if which in ("", one.fingerprint, one.comment)]
    if len(meant) == 1:
        return meant[0]
    names = ", ".join(f"{one.fingerprint} ({one.comment})" for one in found) or "none"
    wanted = f"one key called {which!r}" if which else "one Ed25519 key"
    raise UsageError(
        f"the ssh-agent has not exactly {wanted}; it has {names}."
        " Hint: ssh-add, or HOLDFAST_KEY=ssh-agent:FINGERPRINT"
    )


def _connected() -> socket.socket:
    path = os.environ.get("SSH_AUTH_SOCK", "")
    if not path:
        raise OSError("SSH_AUTH_SOCK is not set")
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _received(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            raise OSError("it has hung up")
        parts += part
    return parts


def _silent(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"the ssh-agent does not sign: {why}. Nothing was written. Hint: ssh-add -l lists its keys"
    )


def _blob(public: bytes) -> bytes:
    return _packed(KIND) + _packed(public)


def _packed(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _string(data: bytes) -> tuple[bytes, bytes]:
    """Return the string that begins some bytes, and what follows."""
    (length,) = _U32.unpack_from(data.ljust(_U32.size, b"\xff"))
    end = _U32.size + length
    if end > len(data):
        raise _silent("its answer is cut off")
    return data[_U32.size : end], data[end:]
