"""`holdfast migrate`: bring a store up to this release's version."""

from holdfast.app import migrate_store
from holdfast.cli.shell import DONE, Shell, command

__all__ = ["migrate_command"]


@command
async def migrate_command(shell: Shell) -> int:
    """Bring a store up to this release's version.

    A store in PostgreSQL waits for this command, to be given once no worker of an older release is
    at work; a file is brought up to date by whoever opens it to write.
    """
    found, now = await migrate_store(shell.store_url)
    if shell.as_json:
        shell.emit({"store": shell.store_url, "found": found, "version": now})
    elif found == now:
        shell.show(f"version {now}: nothing to do")
    else:
        shell.show(f"brought from version {found} to {now}" if found else f"made, version {now}")
    return DONE
