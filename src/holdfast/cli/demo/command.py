"""`holdfast demo`: the main job, to be watched.

Nothing heavy is imported here: `holdfast demo --help` works without the demo's own dependencies,
and without them the demo says what to install.
"""

import importlib.util
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.app import DEFAULT_STORE
from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.cli.demo.supervisor import Report

__all__ = ["demo"]

NEEDED = ("httpx2", "openai")


@command
async def demo(
    shell: Shell,
    *,
    tickets: Annotated[
        int, typer.Option("--tickets", metavar="N", min=1, help="How many tickets the desk gets.")
    ] = 24,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Decides every fault and every strike.")
    ] = 1,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="DIR", help="A new directory for what it leaves; else one in /tmp."
        ),
    ] = None,
) -> int:
    """Watch a support desk survive being killed, again and again.

    A desk works through tickets against a shop and a model that fail now and then, in processes of
    their own. Its workers are killed at bad moments, most of all between a deed and its record.
    Beside it a plain tool-calling loop does the same work and is killed as often. In the end the
    shops' own ledgers say who did what how often. It takes about a minute.

    The model is a scripted one, unless OPENAI_API_KEY or OPENAI_BASE_URL is set: then that one is
    asked (OPENAI_MODEL names it), and paid. The store must be a new file; by default it is made in
    the directory that is kept.

    Exits with 1 if the desk did anything twice, left anything out, or did what nobody wanted.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the demo needs {' and '.join(missing)}, which cannot be imported."
            " Hint: pip install 'holdfast[demo]'"
        )
    from holdfast.cli.demo.screen import closing, watching  # noqa: PLC0415 - needs the above
    from holdfast.cli.demo.servers import ProcessError  # noqa: PLC0415 - as above
    from holdfast.cli.demo.supervisor import Demo  # noqa: PLC0415 - as above

    store = _new_store(shell.store_url)
    running = Demo(_folder(keep), store, seed=seed, count=tickets)
    if running.is_real:
        shell.note(f"the model is {running.model}: its calls are paid for")
    try:
        async with watching(running):
            report = await running.run()
    except (TimeoutError, ProcessError) as error:
        shell.note(f"holdfast: {error}")
        return FAILED
    commands = _to_try(report)
    if shell.as_json:
        shell.emit(report.as_json() | {"commands": commands})
    else:
        shell.show(*closing(report, commands, shell.console.width))
    return DONE if report.desk.right else FAILED


def _new_store(url: str) -> Path | None:
    """Return where the store is to be made, None for the usual place.

    Raises:
        UsageError: there is one already, or it would not be a file.
    """
    if url == DEFAULT_STORE:
        return None
    scheme, colon, rest = url.partition(":")
    path = Path(rest.removeprefix("//") if scheme == "sqlite" and colon else url)
    if url == "memory:" or (colon and scheme != "sqlite" and rest.startswith("//")):
        raise UsageError(f"store {url!r}: the demo's workers are processes and share a file")
    if path.exists():
        raise UsageError(
            f"store {url!r} exists; the demo makes a new one. Hint: leave --store and"
            " HOLDFAST_STORE away, or name a new file"
        )
    return path


def _folder(keep: Path | None) -> Path:
    """Return an empty directory.

    Raises:
        UsageError: the one that was named is not empty, or cannot be made.
    """
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise UsageError(f"--keep {keep}: it is not empty; expected a new or empty directory")
    except OSError as error:
        raise UsageError(f"--keep {keep}: {error.strerror}") from error
    return keep


def _to_try(report: "Report") -> list[str]:
    """Return three commands that work on what the demo left, when pasted here."""
    store = str(report.store)
    code = str(report.folder / "desk.py")
    words = (
        ("show", report.show_run, "--store", store),
        ("why", f"{report.show_run}@{report.why_seq}", "--store", store),
        ("replay", report.show_run, "--store", store, "--code", code),
    )
    return [f"{_program()} {shlex.join(part)}" for part in words]


def _program() -> str:
    """Return how to call holdfast from here, as this process was called."""
    ours = Path(sys.argv[0])
    if ours.name != "holdfast":
        return f"{shlex.quote(sys.executable)} -m holdfast"
    found = shutil.which("holdfast")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "holdfast"
    return shlex.quote(sys.argv[0])
