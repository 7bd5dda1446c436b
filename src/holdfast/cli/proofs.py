"""`holdfast checkpoint`: the signed head of the log, to be kept elsewhere."""

from holdfast.app import App
from holdfast.cli.shell import Shell, command
from holdfast.errors import UsageError
from holdfast.proof.note import Checkpoint, Note, VerifierKey
from holdfast.signed import Head, Signer

__all__ = ["checkpoint_command", "newest_checkpoint"]


@command
async def checkpoint_command(shell: Shell) -> None:
    """Print the newest checkpoint of the log.

    It covers every event that is in the store. Keep a copy where this machine cannot change it:
    `holdfast verify --against COPY` then tells whether the log still is what it was.
    """
    async with shell.app() as app:
        note = await newest_checkpoint(shell, app)
    if shell.as_json:
        head = Checkpoint.parse(note.text)
        facts = {"origin": head.origin, "size": head.size, "root": head.root.hex()}
        shell.emit({**facts, "note": str(note)})
    else:
        print(note, end="")  # noqa: T201 - these bytes and no others


async def newest_checkpoint(shell: Shell, app: App) -> Note:
    """Return the newest head of a store as a note.

    Raises:
        UsageError: the store is not signed.
    """
    signers, head = await app.store.signed.signers(), await app.store.signed.head()
    if head is None:
        raise UsageError(f"the log is not signed. Hint: {shell.suggest('key', 'new')}")
    key = VerifierKey.parse(_signer_of(head, signers).key)
    return Checkpoint(key.name, head.size, head.root).note(key, head.signature)


def _signer_of(head: Head, signers: list[Signer]) -> Signer:
    """Return who signed a head: the last one who signs behind a smaller size."""
    return [signer for signer in signers if signer.since < max(head.size, 1)][-1]
