"""Private keys in a file beside the store, or wherever HOLDFAST_KEY says: a file, or an ssh-agent.

The file holds one key a line in Go's form (``PRIVATE+KEY+…``) and is for its owner alone: one that
others may read is refused. It holds two keys while one takes over from the other, so that a crash
between the file and the store leaves the key that is needed.

Invariant: a private key is never in the store, in a message or in a log.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.errors import KeyMissing, ProofRefused, UsageError
from holdfast.proof.agent import AgentKey, SshAgent, identity_of
from holdfast.proof.notary import TreeNotary
from holdfast.proof.note import NoteSigner, SignerKey, VerifierKey
from holdfast.proof.rotation import statement
from holdfast.signed import Head, Notaries, Notary, Signer

__all__ = [
    "KEY_VARIABLE",
    "add_key",
    "agents_key",
    "find_key",
    "hand_over",
    "keep_key",
    "key_file",
    "key_of_agent",
    "new_key",
    "new_origin",
    "notaries",
    "read_keys",
    "signer_of",
]

KEY_VARIABLE, AGENT = "HOLDFAST_KEY", "ssh-agent"
UNSET = f"({KEY_VARIABLE} is not set)"
SEED_BYTES, ORIGIN_BYTES = 32, 8


def key_file(store: Path | None) -> Path:
    """Return where the private keys of a store are: where HOLDFAST_KEY says, else beside it.

    Args:
        store: The store's file, None if it is none.
    """
    named = os.environ.get(KEY_VARIABLE, "")
    if named and agents_key() is None:
        return Path(named)
    return store.with_name(f"{store.name}.key") if store else Path(UNSET)


def read_keys(path: Path) -> list[SignerKey]:
    """Return the keys of a file, none when there is no file.

    Raises:
        ProofRefused: others than its owner may read it, or it holds something else.
    """
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text("ascii")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ProofRefused(f"{path}: cannot read the private key: {error}") from None
    if mode & 0o077:
        raise ProofRefused(
            f"{path}: others may use this private key (mode {mode:04o}, expected 0600)."
            f" Hint: chmod 600 {path}"
        )
    return [SignerKey.parse(line) for line in text.splitlines() if line]


def agents_key() -> str | None:
    """Return which key of an ssh-agent HOLDFAST_KEY names, empty for its only one.

    None if it names a file, or nothing.
    """
    agent, colon, which = os.environ.get(KEY_VARIABLE, "").partition(":")
    return which if agent == AGENT and (colon or not which) else None


def key_of_agent(which: str, origin: str) -> NoteSigner:
    """Return the key of an ssh-agent that is meant, under a log's name.

    Raises:
        UsageError: it has none, or several.
        StoreUnavailable: there is no agent that answers.
    """
    agent = SshAgent()
    return AgentKey(origin, identity_of(agent.identities(), which).public, agent)


def find_key(path: Path, wanted: str) -> NoteSigner | None:
    """Return the private key of a verifier key: out of the ssh-agent if it is named, or a file."""
    if agents_key() is not None:
        verifier, agent = VerifierKey.parse(wanted), SshAgent()
        if any(one.public == verifier.public for one in agent.identities()):
            return AgentKey(verifier.name, verifier.public, agent)
    return next((key for key in read_keys(path) if str(key.verifier) == wanted), None)


def new_origin() -> str:
    """Draw a name for a log that was given none."""
    return f"holdfast/{os.urandom(ORIGIN_BYTES).hex()}"


def new_key(origin: str) -> SignerKey:
    """Draw a key."""
    return SignerKey(origin, os.urandom(SEED_BYTES))


def add_key(path: Path, key: SignerKey) -> None:
    """Write a key behind those that a file has; the file is made if need be, with mode 0600.

    Raises:
        UsageError: the file cannot be written, or nobody says which it is.
    """
    if path == Path(UNSET):
        raise UsageError(
            f"the store is in a database, which has no place for a private key."
            f" Hint: {KEY_VARIABLE}=FILE says where it is to be, here and for every worker."
        )
    _write(path, [*read_keys(path), key])


def keep_key(path: Path, key: SignerKey) -> None:
    """Leave nothing but this key in a file."""
    _write(path, [key])


def _write(path: Path, keys: Sequence[SignerKey]) -> None:
    """Replace a file in one step, durably."""
    beside = path.with_name(f"{path.name}.new")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "w") as file:
            file.writelines(f"{key.text()}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(f"{path}: cannot write the private key: {error.strerror}") from error


def notaries(path: Path) -> Notaries:
    """Return who makes notaries out of the keys of a file or agent, which is asked each time."""

    def notary(signer: Signer) -> Notary:
        if key := find_key(path, signer.key):
            return TreeNotary(key, signer.since)
        where = f"{path} nor the ssh-agent" if agents_key() is not None else str(path)
        raise KeyMissing(
            f"the store is signed by {signer.key}, and its private key is not in {where}."
            f" Nothing was written. Hint: {KEY_VARIABLE}=FILE names the file that has it, and"
            f" {KEY_VARIABLE}={AGENT} an ssh-agent.",
            key=signer.key,
        )

    return notary


def signer_of(key: NoteSigner) -> Signer:
    """Return the first signer of a log."""
    return Signer(str(key.verifier), 0, "")


def hand_over(old: NoteSigner, head: Head, new: NoteSigner) -> Signer:
    """Return the signer that takes over behind a head, with the old key's statement."""
    return Signer(str(new.verifier), head.size, str(statement(old, head.size, head.root, new)))
