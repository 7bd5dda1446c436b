"""`holdfast witness new|cosign|serve`: a second party that lets no log have two histories."""

import asyncio
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.verify import read_policy
from holdfast.errors import ProofRefused, UsageError
from holdfast.proof import keys
from holdfast.proof.export import consistency_in
from holdfast.proof.note import Note, Signature, SignerKey, check_key_name, encode_base64
from holdfast.proof.witness import Witness, request, serve

__all__ = ["witness_command"]

_COSIGNED = 200


class Action(StrEnum):
    """What a witness does."""

    new = "new"
    cosign = "cosign"
    serve = "serve"


@command
async def witness_command(
    shell: Shell,
    *,
    action: Annotated[Action, typer.Argument(help="What to do: new, cosign or serve.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A published log, for `cosign`.")
    ] = None,
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The witness's private key.")
    ] = Path("witness.key"),
    trust: Annotated[
        str, typer.Option("--trust", metavar="POLICY", help="Whose logs: a policy, or one key.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The witness's name, for `new`.")] = "",
    host: Annotated[
        str, typer.Option("--host", help="Where to listen, for `serve`.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port, for `serve`; 0 for any.")] = 0,
) -> int:
    """Cosign the checkpoints of logs that carry on.

    A witness remembers the last checkpoint of each log (in FILE.state beside its key) and cosigns
    the next one only if the log has grown from it. `cosign DIR` reads a published log, on a stick
    for instance, and adds the cosignature to its checkpoint; `serve` answers over HTTP
    (c2sp.org/tlog-witness, POST add-checkpoint). Exits with 1 when a log is refused.
    """
    if action is Action.new:
        return _new(shell, key, name)
    found = keys.read_keys(key)
    if not found:
        raise UsageError(f"{key}: there is no key. Hint: holdfast witness new --name NAME")
    if not trust:
        raise UsageError("whose logs? Hint: --trust KEY, as `holdfast key show` prints it")
    state = key.with_name(f"{key.name}.state")
    witness = Witness(found[0], state, read_policy(trust).logs, time.time)
    if action is Action.serve:
        return await _serve(shell, witness, host, port)
    if folder is None:
        raise UsageError("which log? Hint: holdfast witness cosign DIR")
    return _cosign(shell, witness, folder)


def _new(shell: Shell, path: Path, name: str) -> int:
    if not name:
        raise UsageError("the witness needs a name. Hint: --name ann.example")
    check_key_name(name)
    if keys.read_keys(path):
        raise UsageError(f"{path} holds a key already")
    key: SignerKey = keys.new_key(name)
    keys.add_key(path, key)
    if shell.as_json:
        shell.emit({"key": str(key.witness)})
    else:
        shell.show(str(key.witness))
        shell.note("That line belongs into the policies of those who trust this witness.")
    return DONE


def _cosign(shell: Shell, witness: Witness, folder: Path) -> int:
    path = folder / "checkpoint"
    try:
        note = Note.parse(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except ProofRefused as error:
        raise UsageError(f"{path}: {error}") from error
    old = witness.seen(note.text.partition("\n")[0])
    proof, why = consistency_in(folder, old.size)
    answer = witness.add_checkpoint(request(old.size, [encode_base64(h) for h in proof], note))
    if answer.status != _COSIGNED:
        said = why or answer.body.strip()
        shell.note(f"holdfast: refused ({answer.status}): {said}; cosigned last: {old.size} events")
        return FAILED
    line = Signature.parse(answer.body.removesuffix("\n"))
    others = tuple(one for one in note.signatures if (one.name, one.id) != (line.name, line.id))
    path.write_text(str(Note(note.text, (*others, line))), "utf-8")
    if shell.as_json:
        shell.emit({"checkpoint": str(path), "cosigned_by": str(witness.key.witness)})
    else:
        shell.show(f"{path}: cosigned by {witness.key.name}; it has grown from {old.size} events")
    return DONE


async def _serve(shell: Shell, witness: Witness, host: str, port: int) -> int:
    with serve(witness, host, port) as server:
        bound = server.server_address[1]
        shell.note(f"POST http://{host}:{bound}/add-checkpoint")
        shell.emit({"port": bound, "key": str(witness.key.witness)}, line=True)
        try:
            await asyncio.to_thread(server.serve_forever)
        finally:
            server.shutdown()
    return DONE
