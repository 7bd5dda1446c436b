"""Restate: its server as npm brings it, and a service by its Python SDK behind Hypercorn.

Three processes, as its documents have it: the server (default settings, which sync), the service
(Hypercorn, with the stream limits of its page on production), and a client that calls the handler
through the ingress. CPU counts all three. ``recover`` kills the service and starts it again, while
the server lives on: Restate's own recovery, without the server's start.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path

import httpx
import hypercorn
import hypercorn.asyncio
import restate
from job import RESULT, Job, Meter, percentile, say, stop_here

INGRESS, ADMIN, NODE, SERVICE = 18080, 19070, 15122, 19080
BINARY = "node_modules/@restatedev/restate-server-*/bin/restate-server"
TIMES: list[float] = []

bench = restate.Service("bench")


async def effect(n: int) -> dict[str, str]:
    """Return the result."""
    if JOB.runs == 1:
        TIMES.append(time.perf_counter())
    if JOB.work == "recover" and n == JOB.steps:
        stop_here({"steps": n})
    return RESULT


@bench.handler()
async def effects(ctx: restate.Context, steps: int) -> int:
    """Make steps one after the other and count the right results."""
    right = 0
    for n in range(steps):
        right += await ctx.run_typed("effect", effect, n=n) == RESULT
    return right


@bench.handler()
async def p50(ctx: restate.Context, steps: int) -> float:
    """Return the p50 between the steps of the last run, in ms."""
    gaps = [b - a for a, b in itertools.pairwise(TIMES)]
    return percentile(gaps, 50) * 1000 if gaps else 0.0


async def _serve() -> None:
    config = hypercorn.Config()
    config.bind = [f"127.0.0.1:{SERVICE}"]
    config.h2_max_concurrent_streams = 2147483647
    config.keep_alive_max_requests = 2147483647
    config.keep_alive_timeout = 2147483647
    config.loglevel = "ERROR"
    await hypercorn.asyncio.serve(restate.app(services=[bench]), config)


def _start_server(job: Job) -> subprocess.Popen:
    settings = {
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": "127.0.0.1",
        "RESTATE_BIND_PORT": str(NODE),
        "RESTATE_ADMIN__BIND_PORT": str(ADMIN),
        "RESTATE_INGRESS__BIND_PORT": str(INGRESS),
        "RESTATE_LOG_FILTER": "error",
        "DO_NOT_TRACK": "1",
    }
    (binary,) = Path(job.npm).glob(BINARY)
    return subprocess.Popen(
        [binary, "--base-dir", job.directory / "restate", "--no-logo"],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _start_service(job: Job) -> subprocess.Popen:
    facts = json.dumps({**asdict(job), "directory": str(job.directory)})
    return subprocess.Popen(
        [sys.executable, __file__, facts, "serve"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _post(url: str, body: object) -> None:
    """Post until somebody listens, for half a minute at most."""
    ends = time.monotonic() + 30
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except (OSError, urllib.error.HTTPError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)
        else:
            return


async def _call(client: httpx.AsyncClient, handler: str, steps: int) -> int:
    answer = await client.post(f"/bench/{handler}", json=steps)
    answer.raise_for_status()
    return answer.json()


async def _work(job: Job, server: subprocess.Popen, service: subprocess.Popen) -> None:
    limits = httpx.Limits(max_connections=None)
    url = f"http://127.0.0.1:{INGRESS}"
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        meter = Meter(job, others=(server.pid, service.pid), path=job.directory / "restate")
        calls = (_call(client, "effects", job.steps) for _ in range(job.runs))
        answer = meter.stop(await asyncio.gather(*calls))
        if job.runs == 1:
            answer["p50_ms"] = await _call(client, "p50", 0)
        for _ in range(job.ones):
            begun = time.perf_counter()
            assert await _call(client, "effects", 1) == 1
            answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
        say(answer)


def _recover(job: Job, service: subprocess.Popen) -> None:
    _post(f"http://127.0.0.1:{INGRESS}/bench/effects/send", job.steps + 1)
    service.communicate()
    begun = time.time()
    again = _start_service(job)
    said, _ = again.communicate(timeout=300)
    say({"seconds": json.loads(said)["at"] - begun, "steps": json.loads(said)["steps"]})


def _main(job: Job) -> None:
    if job.work == "record":
        say({"steps": 0})  # recover does it all: the server has to live on in between
        return
    server, service = _start_server(job), _start_service(job)
    try:
        _post(f"http://127.0.0.1:{ADMIN}/deployments", {"uri": f"http://127.0.0.1:{SERVICE}"})
        _post(f"http://127.0.0.1:{INGRESS}/bench/effects", 1)
        if job.work == "recover":
            _recover(job, service)
        else:
            asyncio.run(_work(job, server, service))
    finally:
        server.kill()
        service.kill()
        server.wait()
        service.wait()


if __name__ == "__main__":
    JOB = Job.given()
    if sys.argv[2:] == ["serve"]:
        asyncio.run(_serve())
    else:
        _main(JOB)
