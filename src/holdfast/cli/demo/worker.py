"""A worker of the demo: carries on the desk's runs, and tells the supervisor what it is at.

``python -m holdfast.cli.demo.worker --store FILE [--lease S] [--runs N]`` prints JSON lines
``{"what", "run", "step", "effect"}``: ``ready``; ``began`` before and ``ended`` after the body of a
step; ``fenced`` when it learns that it has lost a run. SHOP_URL, OPENAI_BASE_URL and OPENAI_MODEL
say whom its desk asks. It drains when its stdin ends, so none outlives the supervisor.

It is `holdfast worker` with one middleware: what the supervisor learns this way only tells it whom
to kill.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import holdfast as hf
from holdfast.cli.demo.desk import desk
from holdfast.ports import StepCall

__all__ = ["main"]

POLL_S = 0.1


def _say(what: str, run: str = "", step: str = "", effect: str = "") -> None:
    line = {"what": what, "run": run, "step": step, "effect": effect}
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)  # the supervisor is dead


async def _tell(call: StepCall, proceed: Callable[[], Awaitable[Any]]) -> Any:
    _say("began", call.run, call.key, call.effect)
    try:
        return await proceed()
    finally:
        _say("ended", call.run, call.key, call.effect)


async def _tell_fences(worker: hf.Worker) -> None:
    """Tell of the runs that this worker has lost to another."""
    told: set[str] = set()
    while True:
        lost = {run for run, ending in worker.endings.items() if ending.kind == "fenced"}
        for run in sorted(lost - told):
            _say("fenced", run)
        told |= lost
        await asyncio.sleep(POLL_S)


async def _serve(store: Path, settings: hf.WorkerSettings) -> None:
    async with hf.App(store, agents=[desk], middleware=[_tell]) as app:
        worker = app.worker(settings)
        loop = asyncio.get_running_loop()

        def drain() -> None:
            loop.remove_reader(sys.stdin)
            worker.drain()

        loop.add_reader(sys.stdin, drain)
        telling = loop.create_task(_tell_fences(worker))
        _say("ready")
        await worker.run()
        telling.cancel()


def main() -> None:
    """Work until stdin ends."""
    parser = argparse.ArgumentParser(description="A worker of the demo.")
    parser.add_argument("--store", type=Path, required=True, help="the store's file")
    parser.add_argument("--lease", type=float, default=15.0, help="in seconds")
    parser.add_argument("--runs", type=int, default=500, help="how many runs to hold at once")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    settings = hf.WorkerSettings(lease_s=given.lease, poll_s=POLL_S, runs_max=given.runs)
    asyncio.run(_serve(given.store, settings))


if __name__ == "__main__":
    main()
