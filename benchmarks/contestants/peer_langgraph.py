"""LangGraph: a graph whose node is the step, with its SQLite or PostgreSQL saver.

``durability="sync"``: a step's checkpoint is written before the next begins. The state keeps the
last result only, which is the kindest to a checkpointer that writes the state at each step.
"""

import asyncio
import contextlib
import time
from typing import Any, TypedDict

from job import RESULT, Job, Meter, say, stop_here
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

TIMES: list[float] = []


class State(TypedDict):
    """What is checkpointed."""

    n: int
    right: int
    result: dict[str, str]


async def effect(state: State) -> dict[str, Any]:
    """Return the result."""
    if JOB.runs == 1:
        TIMES.append(time.perf_counter())
    if JOB.work in ("record", "recover") and state["n"] == JOB.steps:
        stop_here({"steps": state["n"]})
    right = state["right"] + (state["result"] in ({}, RESULT))
    return {"n": state["n"] + 1, "right": right, "result": RESULT}


def _built(saver: Any, steps: int) -> Any:
    graph = StateGraph(State)
    graph.add_node("effect", effect)
    graph.add_edge(START, "effect")
    graph.add_conditional_edges("effect", lambda state: END if state["n"] >= steps else "effect")
    return graph.compile(checkpointer=saver)


async def _run(graph: Any, name: str, steps: int, *, resume: bool = False) -> int:
    config = {"configurable": {"thread_id": name}, "recursion_limit": steps + 10}
    state = None if resume else {"n": 0, "right": 0, "result": {}}
    ended = await graph.ainvoke(state, config, durability="sync")
    return int(ended["right"])


@contextlib.asynccontextmanager
async def _saver() -> Any:
    if not JOB.postgres:
        path = JOB.directory / "langgraph.db"
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            yield saver
        return
    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(JOB.postgres, min_size=4, max_size=20, kwargs=kwargs) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver


async def _main() -> None:
    async with _saver() as saver:
        match JOB.work:
            case "steps":
                graph = _built(saver, JOB.steps)
                await _run(_built(saver, 1), "first", 1)  # what is prepared on first use
                TIMES.clear()
                meter = Meter(
                    JOB,
                    others=(JOB.server_pid,) if JOB.server_pid else (),
                    path=None if JOB.postgres else JOB.directory / "langgraph.db",
                    step_times=TIMES,
                )
                runs = (_run(graph, f"r{n}", JOB.steps) for n in range(JOB.runs))
                answer, graph = meter.stop(await asyncio.gather(*runs)), _built(saver, 1)
                for n in range(JOB.ones):
                    begun = time.perf_counter()
                    assert await _run(graph, f"one{n}", 1) == 1
                    answer.setdefault("ms", []).append((time.perf_counter() - begun) * 1000)
                say(answer)
            case work:
                graph = _built(saver, JOB.steps + 1)
                await _run(graph, "recovered", JOB.steps + 1, resume=work == "recover")


if __name__ == "__main__":
    JOB = Job.given()
    asyncio.run(_main())
