"""The life of a worker: known while it lives, ready while it claims, replaced without a gap.

*Goal*: who looks at a fleet sees who is there and what is held; a probe says whether a worker
claims; two versions work side by side, each on the agents that it knows, and one may leave while
they do. *Method*: real workers in this process on one store; probes asked over a real socket.
"""

import asyncio
import json

import pytest

import holdfast as hf
from holdfast.errors import StoreUnavailable, UsageError
from holdfast.runtime.probes import probes
from holdfast.stores.memory import MemoryStore


def version(number: int, names: list[str], seen: list):
    """Return the agents of one version of a program, each of which notes who ran it."""

    def make(name: str):
        async def body(times: int) -> str:
            for _ in range(times):
                await note(f"{name}:{number}")
            return name

        body.__name__ = name
        return hf.agent(body)

    @hf.step
    async def note(text: str) -> None:
        seen.append(text)

    return [make(name) for name in names]


async def until(worker: hf.Worker, says: str) -> None:
    for _ in range(2000):
        if worker.not_ready() == says:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{worker.not_ready()!r} is not {says!r}")


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body or b"{}")


def test_two_versions_work_side_by_side_and_the_old_one_leaves():
    seen: list[str] = []

    async def main():
        store = MemoryStore()
        old = hf.App(store, version(1, ["order"], seen))
        new = hf.App(store, version(2, ["order", "claim"], seen))
        async with old, new:
            runs = [await new.client.start("order", 3) for _ in range(20)]
            runs += [await new.client.start("claim", 3) for _ in range(20)]
            async with new.working():
                async with old.working():
                    first = await old.client.result(runs[0])
                runs += [await new.client.start("order", 3) for _ in range(5)]
                results = [await new.client.result(run) for run in runs]
            assert first == "order"
            assert results.count("claim") == 20
            assert await store.workers(now=2**60) == []

    asyncio.run(main())
    assert "claim:1" not in seen
    assert seen.count("claim:2") == 60
    assert len(seen) == 135  # nothing was lost and no read was made again by the drain


def test_a_run_of_an_agent_that_only_the_new_version_knows_waits_for_it():
    seen: list[str] = []

    async def main():
        store = MemoryStore()
        old = hf.App(store, version(1, ["order"], seen))
        new = hf.App(store, version(2, ["claim"], seen))
        async with old, new:
            run = await new.client.start("claim", 3)
            async with old.working():
                order = await old.client.start("order", 3)
                await old.client.result(order)
                assert (await new.client.row(run)).status == "pending"
                async with new.working():
                    assert await new.client.result(run) == "claim"

    asyncio.run(main())


def test_a_worker_is_known_with_its_agents_from_the_start():
    async def main():
        store = MemoryStore()
        async with hf.App(store, version(1, ["order"], [])) as app, app.working() as worker:
            await until(worker, "")
            [known] = await store.workers(now=0)
            assert known.worker == worker.name
            about = json.loads(known.about)
            assert about["agents"] == ["order"]
            assert about["pid"]
        assert await store.workers(now=0) == []

    asyncio.run(main())


def test_probes_tell_whether_a_worker_lives_and_claims():
    class Flaky(MemoryStore):
        broken = False

        async def workers(self, *, now):
            if self.broken:
                raise StoreUnavailable("the disk is gone")
            return await super().workers(now=now)

    async def main():
        store = Flaky()
        async with hf.App(store, version(1, ["order"], [])) as app:
            worker = app.worker()
            async with probes(worker, 0) as port:
                assert await ask(port, "/ready") == (
                    503,
                    {"worker": worker.name, "not_ready": "it begins"},
                )
                task = asyncio.create_task(worker.run())
                await until(worker, "")
                assert await ask(port, "/ready") == (200, {"worker": worker.name})
                assert await ask(port, "/live?x=1") == (200, {"worker": worker.name})
                assert (await ask(port, "/"))[0] == 404
                assert (await ask(port, "/live", "POST"))[0] == 405
                assert await ask(port, "/live", "HEAD") == (200, {})
                store.broken = True
                status, facts = await ask(port, "/ready")
                assert (status, facts["not_ready"]) == (503, "the disk is gone")
                assert (await ask(port, "/live"))[0] == 200
                store.broken = False
                worker.drain()
                assert worker.not_ready() == "it drains"
                await task
                assert (await ask(port, "/ready"))[1]["not_ready"] == "it has stopped"
                with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
                    async with probes(worker, port):
                        pass

    asyncio.run(main())


def test_a_worker_whose_lease_could_not_be_renewed_is_not_ready():
    class Deaf(MemoryStore):
        deaf = False

        async def renew(self, worker, **facts):
            if self.deaf:
                raise StoreUnavailable("cannot be written")
            return await super().renew(worker, **facts)

    async def main():
        store = Deaf()
        async with hf.App(store, version(1, ["order"], [])) as app:
            worker = app.worker(hf.WorkerSettings(lease_s=0.03, poll_s=0.01))
            task = asyncio.create_task(worker.run())
            for deaf, said in ((False, ""), (True, "cannot be written"), (False, "")):
                store.deaf = deaf
                await until(worker, said)
            worker.drain()
            await task

    asyncio.run(main())


def test_a_request_that_is_none_is_dropped():
    async def main():
        async with hf.App(MemoryStore()) as app, probes(app.worker(), 0) as port:
            for noise in (b"x" * 20_000, b"\xff\xfe\r\n\r\n", b"GET"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(noise)
                writer.write_eof()
                await reader.read()
                writer.close()
            assert (await ask(port, "/live"))[0] == 200

    asyncio.run(main())
