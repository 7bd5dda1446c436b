"""`holdfast checkpoint`, `prove`, `consistency` and `publish`: what others need to verify."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.shell import Shell, command, find_event
from holdfast.cli.verify import read_note
from holdfast.errors import ProofRefused, UsageError
from holdfast.proof.export import checkpoint_of, consistency_of, proof_of, publish
from holdfast.proof.note import Checkpoint, Note, encode_base64

__all__ = ["checkpoint_command", "consistency_command", "prove_command", "publish_command"]


@command
async def checkpoint_command(shell: Shell) -> None:
    """Print the newest checkpoint of the log.

    It covers every event that is in the store. Keep a copy where this machine cannot change it:
    `holdfast verify --against COPY` then tells whether the log still is what it was.
    """
    async with shell.app() as app:
        note = await checkpoint_of(app.store.signed)
    if shell.as_json:
        shell.emit({**_facts(note), "note": str(note)})
    else:
        print(note, end="")  # noqa: T201 - these bytes and no others


@command
async def prove_command(
    shell: Shell,
    *,
    event: Annotated[
        str, typer.Argument(metavar="RUN[@SEQ]", help="An event; a run's last one without @SEQ.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write the event.")
    ] = Path("event.json"),
) -> None:
    """Write an event and the proof that it is in the log.

    FILE gets the event's exact bytes, FILE.tlog-proof the proof (c2sp.org/tlog-proof), which holds
    the newest checkpoint: `holdfast verify FILE --trust KEY` needs nothing else. The proof of a
    run's last event is one for the whole run, since each event holds the hash of the one before.
    """
    async with shell.app() as app:
        run, seq = await find_event(app, event)
        proof = await proof_of(app.store.signed, run, seq)
        (found,) = await app.store.read(run, after=seq - 1, until=seq)
    beside = out.with_name(f"{out.name}.tlog-proof")
    _write(out, found.leaf)
    _write(beside, str(proof).encode())
    if shell.as_json:
        facts = {"run": run, "seq": seq, "index": proof.index}
        shell.emit({**facts, "event": str(out), "proof": str(beside), **_facts(proof.checkpoint)})
    else:
        head = Checkpoint.parse(proof.checkpoint.text)
        shell.show(f"{out} and {beside}: event {seq} of run {run}, index {proof.index}")
        shell.show(f"in the log {head.origin} of {head.size} events")


@command
async def consistency_command(
    shell: Shell,
    *,
    old: Annotated[Path, typer.Argument(metavar="OLD", help="An older checkpoint.")],
) -> None:
    """Prove that an older checkpoint is of a prefix of the log.

    Prints the proof and the newest checkpoint, as a witness takes them
    (c2sp.org/tlog-witness, add-checkpoint). Exits with 1 when the log is another one by now.
    """
    head = _head_of(read_note(old))
    async with shell.app() as app:
        hashes, note = await consistency_of(app.store.signed, head)
    lines = [encode_base64(hash_) for hash_ in hashes]
    if shell.as_json:
        shell.emit({"old": head.size, "proof": lines, **_facts(note), "note": str(note)})
    else:
        print(f"old {head.size}", *lines, "", str(note), sep="\n", end="")  # noqa: T201 - these bytes and no others


@command
async def publish_command(
    shell: Shell,
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A directory; it is made if need be.")
    ],
) -> None:
    """Write the log into a directory that anybody can verify.

    The layout is that of c2sp.org/tlog-tiles, payloads beside it, with a README for auditors.
    Publishing into it again adds what is new. It holds all payloads in plain form, but those on
    behalf of subjects, which stay sealed, and which are removed once their subject was erased.
    """
    async with shell.app() as app:
        head, new = await publish(app.store.signed, folder)
    if shell.as_json:
        shell.emit({"directory": str(folder), "events": head.size, "new": new})
    else:
        shell.show(f"{folder}: {head.size} events of {head.origin}, {new} of them new")


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error


def _head_of(note: Note) -> Checkpoint:
    try:
        return Checkpoint.parse(note.text)
    except ProofRefused as error:
        raise UsageError(str(error)) from error


def _facts(note: Note) -> dict[str, object]:
    head = Checkpoint.parse(note.text)
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}
