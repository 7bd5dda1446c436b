"""`holdfast erase`: what is known of a person is destroyed, and the log says that it was."""

from dataclasses import asdict
from typing import Annotated

import typer

from holdfast.cli.shell import DONE, FAILED, Shell, command
from holdfast.cli.steer import ByOption, this_person
from holdfast.cli.text import clean, count
from holdfast.errors import SubjectErased
from holdfast.runtime.births import ERASED_RUNS

__all__ = ["erase_command"]


@command
async def erase_command(
    shell: Shell,
    *,
    subject: Annotated[
        str, typer.Option(metavar="S", help="The pseudonymous id that runs were started with.")
    ],
    basis: Annotated[
        str,
        typer.Option(metavar="TEXT", help="On what grounds; it stays in the log for ever."),
    ],
    by: ByOption = "",
) -> int:
    """Destroy a subject's key and payloads; the log tells so.

    Leaves and hashes stay, so the log can be verified as before. Refused while runs are alive that
    need the subject's payloads. Exits with 0 when nothing is left, 1 when old pages of the file are
    still in its write-ahead log because somebody reads them: whoever opens the store next tries
    again.
    """
    done = {"subject": subject, "event": f"{ERASED_RUNS}{subject}@2"}
    async with shell.app(write=True) as app:
        try:
            erasure = await app.client.erase(subject, basis=basis, by=by or this_person())
        except SubjectErased as error:
            shell.note(str(error))
            scrubbed, facts = error.facts.get("scrubbed", True), done | {"before": True}
        else:
            scrubbed, facts = erasure.scrubbed, done | {"before": False} | asdict(erasure)
            if not shell.as_json:
                payloads, runs = count(erasure.payloads, "payload"), count(erasure.runs, "run")
                gone = f"{payloads} of {runs}, {count(erasure.messages, 'unread message')}"
                shell.show(clean(f"{subject}: the key is destroyed, and {gone}"))
                shell.show(clean(f"recorded as event {done['event']}"))
    if shell.as_json:
        shell.emit(facts)
    if not scrubbed:
        shell.note(
            "but another process still reads old pages of the file, which its write-ahead log keeps"
            " till then. Hint: stop it, and give this command once more"
        )
    return DONE if scrubbed else FAILED
