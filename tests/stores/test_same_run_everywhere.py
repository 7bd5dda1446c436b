"""The same run gives the same log on every store, byte for byte.

*Goal*: what an agent did is written alike in memory, in a file and in PostgreSQL. *Method*: one
worker plays a program of all contracts, timers, children, messages and turns, with a clock that
stands still and chance that repeats itself; the leaves of the whole log are compared.
"""

import asyncio
import dataclasses

import holdfast as hf
from holdfast.stores.memory import MemoryStore
from holdfast.stores.postgres import PostgresStore
from holdfast.stores.sqlite import SqliteStore


@hf.step
async def look(n: int) -> str:
    return f"seen {n} " + "x" * 3_000


@hf.tool(effect="idempotent")
async def ship(order: str) -> str:
    return f"shipped {order}"


@hf.tool(effect="once")
async def pay(order: str) -> str:
    if order == "bad":
        raise hf.NotDone("refused")
    return f"paid {order}"


@hf.tool(effect="transactional")
def book(order: str) -> int:
    tables = hf.transaction()
    tables.execute("CREATE TABLE IF NOT EXISTS ledger (name TEXT, n BIGINT)")
    tables.execute("INSERT INTO ledger (name, n) VALUES (?, ?)", (order, 2**40))
    return tables.execute("SELECT count(*) FROM ledger WHERE name = :name", {"name": order})[0][0]


@hf.agent
async def part(order: str) -> str:
    return await ship(order)


@hf.agent
async def serve(order: str) -> list[object]:
    said: list[object] = [await look(1), await pay(order), await part(f"{order}-part")]
    await asyncio.sleep(3600)
    return [*said, book(order), await hf.receive("note", str), hf.random(), hf.now().isoformat()]


@dataclasses.dataclass
class Memory:
    heard: list[str] = dataclasses.field(default_factory=list)


@hf.agent
async def talk(state: Memory, message: str) -> str:
    state.heard.append(message)
    return f"{await look(len(state.heard))} {message}"


def test_one_program_leaves_the_same_leaves_on_every_store(stage, tmp_path, database):
    def leaves(opening):
        on_stage = stage(serve, part, talk)
        store = on_stage.store = on_stage.run(opening)
        for agent, text, run in (
            (talk, "hello", "talk"),
            (serve, "bad", "fails"),
            (serve, "o1", "r"),
        ):
            on_stage.start(agent, text, id=run)
            on_stage.play()  # one after the other, for they share one chance
        on_stage.tell("be quick", topic="note")
        on_stage.play()
        on_stage.tell("well?", run="talk")
        on_stage.play()
        log = on_stage.run(store.read_log(0, limit=1_000))
        on_stage.run(store.close())
        return [event.leaf for _, event in log]

    async def memory():
        return MemoryStore()

    expected = leaves(memory())
    assert len(expected) > 30
    assert b'"transactional"' in b"".join(expected)
    assert leaves(SqliteStore.open(tmp_path / "x.db")) == expected
    assert leaves(PostgresStore.open(database, lease_clock="caller")) == expected
