"""`holdfast workers`: who carries runs on, since when, and how many."""

import json
import time
from dataclasses import asdict
from typing import Any

from rich.text import Text

from holdfast.cli.shell import Shell, command
from holdfast.cli.text import Grid, ago, clean, iso
from holdfast.ports import WorkerInfo

__all__ = ["workers_command"]


@command
async def workers_command(shell: Shell) -> None:
    """List the workers whose leases hold, and what they hold."""
    now = time.time_ns() // 1000
    async with shell.app() as app:
        found = await app.store.workers(now=now)
    if shell.as_json:
        for worker in found:
            shell.emit(_as_json(worker), line=True)
        return
    if not found:
        shell.note("no workers")
        return
    table = Grid("worker", "for", "lease", "runs", "version", "where", "agents", crop="agents")
    for worker in found:
        about = _about(worker)
        where = f"{about.get('host', '')} {about.get('pid', '')}"
        table.add_row(
            Text(clean(worker.worker)),
            ago(now - worker.since),
            ago(worker.expires_at - now),
            str(worker.runs),
            Text(clean(str(about.get("version", "")))),
            Text(clean(where)),
            Text(clean(", ".join(map(str, about.get("agents", ()))))),
        )
    shell.show(table)


def _about(worker: WorkerInfo) -> dict[str, Any]:
    about = json.loads(worker.about or "{}")
    return about if isinstance(about, dict) else {}


def _as_json(worker: WorkerInfo) -> dict[str, Any]:
    facts = asdict(worker) | {"about": _about(worker)}
    return facts | {"since": iso(worker.since), "expires_at": iso(worker.expires_at)}
