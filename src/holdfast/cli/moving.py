"""`holdfast export` and `holdfast import`: runs move between stores, byte for byte."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.shell import Shell, command
from holdfast.cli.text import clean, count
from holdfast.errors import UsageError
from holdfast.runtime.moving import export_runs, import_runs

__all__ = ["export_command", "import_command"]


@command
async def export_command(
    shell: Shell,
    *,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[RUN...] FILE", help="Runs, and the file to write them to."),
    ],
    every: Annotated[bool, typer.Option("--all", help="Everything that the store holds.")] = False,
) -> None:
    """Write runs to a file, to be imported into another store.

    The runs that they have started go with them. The file holds their logs byte for byte and their
    unread messages; a run that a worker holds is refused.
    """
    *runs, file = words
    if every and runs:
        raise UsageError(f"--all exports every run: leave out {', '.join(runs)}")
    if not every and not runs:
        raise UsageError("say which runs to export, before the file; or --all")
    async with shell.app() as app:
        found = [await app.client.find(run) for run in runs]
        exported = await export_runs(app.store, Path(file), found, now=time.time_ns() // 1000)
    if shell.as_json:
        shell.emit({"file": file} | asdict(exported))
        return
    events = count(exported.events, "event")
    messages = count(exported.messages, "message")
    shell.show(clean(f"{file}: {count(exported.runs, 'run')}, {events}, {messages}"))
    if exported.unended:
        unended = count(exported.unended, "run")
        shell.note(
            f"note: {unended} of these may yet go on, and will where they are imported. Stop the"
            " workers here, or both stores carry them on"
        )


@command
async def import_command(
    shell: Shell,
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What holdfast export has written.")],
) -> None:
    """Take in the runs of a file that an export has written.

    The whole file is checked before anything is written. Runs that the store has already are left
    as they are, so an import may be repeated; one that it has otherwise is refused.
    """
    async with shell.app(write=True, create=True) as app:
        imported = await import_runs(app.store, file)
    if shell.as_json:
        shell.emit({"file": str(file)} | asdict(imported))
        return
    news = f"{count(imported.runs, 'run')}, {count(imported.events, 'event')}"
    shell.show(clean(f"{file}: {news} taken in, {count(imported.there, 'run')} there already"))
