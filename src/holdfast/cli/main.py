"""The `holdfast` command: a table of its commands, each loaded when it is called.

Invariant: nothing heavier than typer is imported here, so that `holdfast --help` is instant. The
line that a command has in the table is the first line of its own help; a test compares them.
"""

import importlib
import sys
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:run_command", "Start a run, or attach to it, and advance it to its end."),
    "worker": ("worker:worker_command", "Carry on every run of the agents in these files."),
    "workers": (
        "workers:workers_command",
        "List the workers whose leases hold, and what they hold.",
    ),
    "ls": ("listing:ls_command", "List runs, newest first."),
    "show": ("show:show_command", "Show what a run has done, will do, is bound by, is, and why."),
    "events": ("following:events_command", "Print the events of a run, one a line."),
    "tail": ("following:tail_command", "Follow the log, or one run: print events as they come."),
    "state": ("state:state_command", "Show the fold of a run at an event."),
    "why": ("why:why_command", "Tell what an event came of, back to the outside."),
    "replay": ("replay:replay_command", "Feed a run's log to the code, with no effects."),
    "message": ("steer:message_command", "Send a message to a run."),
    "cancel": ("steer:cancel_command", "Ask a run to stop, clean up and undo."),
    "doubts": ("doubts:doubts_command", "List the steps in doubt, which a person must settle."),
    "resolve": ("steer:resolve_command", "Settle a step in doubt by a person's word."),
    "accept": ("steer:accept_command", "Accept a divergence: the code carries on as it is now."),
    "pause": ("holding:pause_command", "Keep a run, a queue or an agent from being carried on."),
    "resume": ("holding:resume_command", "Let what was paused be carried on."),
    "queues": (
        "holding:queues_command",
        "List queues and limits; or set the limits of one.",
    ),
    "schedules": ("schedules:schedules_command", "List the schedules in these files."),
    "export": ("moving:export_command", "Write runs to a file, to be imported into another store."),
    "import": ("moving:import_command", "Take in the runs of a file that an export has written."),
    "erase": ("erase:erase_command", "Destroy a subject's key and payloads; the log tells so."),
    "gc": (
        "gc:gc_command",
        "Let go of payloads of runs that ended long ago.",
    ),
    "check": ("check:check_command", "Find what an agent does that a replay could not repeat."),
    "doctor": ("doctor:doctor_command", "Look over this machine and the store."),
    "fsck": ("fsck:fsck_command", "Check the invariants of a store, read-only."),
    "key": ("key:key_command", "Make, show or replace the key that signs the log."),
    "checkpoint": ("proofs:checkpoint_command", "Print the newest checkpoint of the log."),
    "prove": ("proofs:prove_command", "Write an event and the proof that it is in the log."),
    "consistency": (
        "proofs:consistency_command",
        "Prove that an older checkpoint is of a prefix of the log.",
    ),
    "publish": (
        "proofs:publish_command",
        "Write the log into a directory that anybody can verify.",
    ),
    "witness": ("witness:witness_command", "Cosign the checkpoints of logs that carry on."),
    "verify": ("verify:verify_command", "Tell whether the log is the one that was signed."),
    "migrate": ("migrate:migrate_command", "Bring a store up to this release's version."),
    "demo": ("demo.command:demo", "Watch a support desk survive being killed, again and again."),
    "version": ("version:version_command", "Print the version of holdfast and its parts."),
}
"""Name → where its function is, below holdfast.cli; and its line in the help."""


class _Commands(TyperGroup):
    """Loads a command when it is called, and lists all without loading any."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {cmd_name!r}.{hint}")
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        home = f"holdfast.cli.{module}"
        try:
            loaded = importlib.import_module(home)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if home.startswith(missing):
                ctx.fail(f"{cmd_name!r} is not part of this installation of holdfast.")
            ctx.fail(f"{cmd_name!r} needs {missing!r}. Hint: pip install 'holdfast[{cmd_name}]'")
            raise  # unreachable: fail raises
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(cmd_name)(getattr(loaded, function))
        made = typer.main.get_command(single)
        for param in made.params:
            if getattr(param, "hidden", False):
                param.get_usage_pieces = lambda ctx: []  # type: ignore[method-assign]  # noqa: ARG005 - click's name
        return made

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - typer's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer's signature
    if wanted:
        from holdfast import __version__  # noqa: PLC0415 - only if wanted

        typer.echo(f"holdfast {__version__}")
        raise typer.Exit


@app.callback()
def top(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run AI agents that survive anything that happens to their process.

    Every step an agent takes is an event in a log; any process can carry it on from there. The log
    is the file ./holdfast.db unless --store or HOLDFAST_STORE says otherwise.
    """


def main() -> None:
    """Run the command line; the entry point of `holdfast`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal that lacks a letter is no error
    app(prog_name="holdfast")
