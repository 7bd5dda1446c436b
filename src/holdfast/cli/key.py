"""`holdfast key new|show|rotate`: whose signature stands under the log's checkpoints."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.app import App, store_file
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.errors import UsageError
from holdfast.proof import keys
from holdfast.proof.note import NoteSigner, SignerKey, check_key_name
from holdfast.signed import Head, Signer

__all__ = ["key_command"]


class Action(StrEnum):
    """What to do with the key."""

    new = "new"
    show = "show"
    rotate = "rotate"


@command
async def key_command(
    shell: Shell,
    *,
    action: Annotated[Action, typer.Argument(help="What to do: new, show or rotate.")],
    origin: Annotated[
        str,
        typer.Option("--origin", help="The log's name, such as example.com/agents; for `new`."),
    ] = "",
) -> int:
    """Make, show or replace the key that signs the log.

    `new` draws a key, writes it to FILE.key beside the store (or to HOLDFAST_KEY), and signs all
    that the store holds; from then on every commit is signed, and nobody writes without the key. In
    PostgreSQL, whoever gives events their positions in the log signs them; every worker needs the
    key. With HOLDFAST_KEY=ssh-agent an ssh-agent has it, and signs: `new` then takes the Ed25519
    key that it has, or the one that ssh-agent:FINGERPRINT names.
    `rotate` draws another one, which the old one hands over to. `show` prints the public keys:
    give them to whoever verifies the log.
    """
    if action is not Action.new and origin:
        raise UsageError(f"--origin names a new log; `key {action.value}` takes the log's own")
    if action is Action.show:
        return await _show(shell)
    make = _begin if action is Action.new else _rotate
    async with shell.app(write=True, create=action is Action.new) as app:
        signer = await make(shell, app, origin)
    if shell.as_json:
        shell.emit({"key": signer.key, "since": signer.since})
    else:
        shell.show(f"the log is signed from event {signer.since + 1} on by", signer.key)
        shell.note("Keep that line where this machine cannot change it: it is what verifies.")
    return DONE


async def _begin(shell: Shell, app: App, origin: str) -> Signer:
    if origin:
        check_key_name(origin)
    if known := await app.store.signed.signers():
        raise UsageError(
            f"the log is signed already, by {known[-1].key}. Hint: {shell.suggest('key', 'rotate')}"
        )
    if (which := keys.agents_key()) is not None:
        held = keys.key_of_agent(which, origin or keys.new_origin())
        return await app.store.signed.enrol(lambda _: keys.signer_of(held))
    path = keys.key_file(store_file(shell.store_url))
    found = keys.read_keys(path)  # those of an attempt that was cut off
    named = [key for key in found if key.name == (origin or key.name)]
    if found and not named:
        raise UsageError(
            f"{path} holds the key of {found[0].name!r}, not of {origin!r}."
            f" Hint: {keys.KEY_VARIABLE}=FILE names another file."
        )
    key = named[0] if named else keys.new_key(origin or keys.new_origin())
    if not named:
        keys.add_key(path, key)
    return await app.store.signed.enrol(lambda _: keys.signer_of(key))


async def _rotate(shell: Shell, app: App, _origin: str) -> Signer:
    path = keys.key_file(store_file(shell.store_url))
    known = await app.store.signed.signers()
    if not known:
        raise UsageError(f"the log is not signed. Hint: {shell.suggest('key', 'new')}")
    old = keys.find_key(path, known[-1].key)
    assert old is not None, "the store was opened to write"
    new = _next_key(path, old)

    def choose(head: Head | None) -> Signer:
        assert head is not None
        return keys.hand_over(old, head, new)

    signer = await app.store.signed.enrol(choose)
    if isinstance(new, SignerKey):
        keys.keep_key(path, new)
    elif isinstance(old, SignerKey):
        shell.note(f"note: {path} still holds the key that has handed over; remove it")
    return signer


def _next_key(path: Path, old: NoteSigner) -> NoteSigner:
    """Return the key that is to take over: another one of the agent, or a new one in the file."""
    which = keys.agents_key()
    if which is None:
        new = keys.new_key(old.name)
        keys.add_key(path, new)
        return new
    held = keys.key_of_agent(which, old.name)
    if held.verifier == old.verifier:
        raise UsageError(
            "the key that signs is the one that was named to take over."
            f" Hint: {keys.KEY_VARIABLE}={keys.AGENT}:FINGERPRINT names another one of the agent"
        )
    return held


async def _show(shell: Shell) -> int:
    async with shell.app() as app:
        signers = await app.store.signed.signers()
    if shell.as_json:
        shell.emit([{"key": signer.key, "since": signer.since} for signer in signers])
    elif not signers:
        shell.note(f"the log is not signed. Hint: {shell.suggest('key', 'new')}")
    else:
        for signer in signers:
            shell.show(signer.key)
    return DONE if signers else FAILED
