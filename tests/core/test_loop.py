"""The turn's loop depends on nothing but the order in which futures and timers are resolved.

*Goal*: asyncio's own tools behave on it as everywhere, and do the same thing in every process; what
reaches for the world is refused. *Method*: ``play`` drives a coroutine with virtual time alone; the
order of sets is compared between processes whose hash seed and memory differ.
"""

import asyncio
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.core import loop as loop_module
from holdfast.core.loop import TurnLoop, running
from holdfast.errors import IoOutsideStep, UsageError


def play(main):
    """Run a coroutine function on a loop of its own, firing timers as they come due."""
    loop = TurnLoop()
    with running(loop):
        task = loop.create_task(main())
        while loop.run_ready() and not task.done():
            when, key = loop.next_timer()
            loop.set_time(when)
            loop.fire(key)
    return task.result()


async def after(delay, value):
    await asyncio.sleep(delay)
    return value


# Order and time


def test_callbacks_run_first_in_first_out():
    seen = []

    async def one(name):
        for n in range(3):
            seen.append(f"{name}{n}")
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(one("a"), one("b"), one("c"))

    play(main)
    assert seen == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_time_stands_still_until_it_is_set_and_never_goes_back():
    loop = TurnLoop()
    loop.set_time(100.0)
    assert loop.time() == 100.0
    loop.set_time(50.0)
    assert loop.time() == 100.0

    async def main():
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(30 * 86400)
        return asyncio.get_running_loop().time() - began

    assert play(main) == 30 * 86400


def test_timers_are_numbered_as_they_are_set_and_fire_only_when_told():
    loop = TurnLoop()
    seen = []
    for delay in (9.0, 3.0, 5.0, 3.0):
        loop.call_later(delay, seen.append, delay)
    assert loop.next_timer() == (3.0, (0, 2))
    loop.set_time(100.0)
    loop.run_ready()
    assert seen == []
    for expected in (2, 4, 3, 1):
        assert loop.next_timer()[1] == (0, expected)
        assert loop.fire((0, expected))
        loop.run_ready()
    assert seen == [3.0, 3.0, 5.0, 9.0]
    assert loop.next_timer() is None
    assert not loop.fire((0, 1))


def test_a_cancelled_timer_is_gone():
    loop = TurnLoop()
    first, _second = loop.call_later(1.0, print), loop.call_later(2.0, print)
    first.cancel()
    assert loop.next_timer() == (2.0, (0, 2))
    assert not loop.fire((0, 1))


def test_timers_are_counted_under_the_event_they_were_set_under():
    loop = TurnLoop()
    for loop.cause, delay in ((17, 2.0), (17, 1.0), (18, 1.0)):
        loop.call_later(delay, print)
    fired = []
    while timer := loop.next_timer():
        fired.append(timer)
        loop.fire(timer[1])
    assert fired == [(1.0, (17, 2)), (1.0, (18, 1)), (2.0, (17, 1))]


# What asyncio brings


def test_gather_keeps_the_order_asked_for():
    async def main():
        return await asyncio.gather(after(3, "a"), after(1, "b"), after(2, "c"))

    assert play(main) == ["a", "b", "c"]


def test_wait_first_completed_returns_the_first():
    async def main():
        tasks = [asyncio.create_task(after(n, n)) for n in (3, 1, 2)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done], [tasks.index(task) for task in pending]

    assert play(main) == ([1], [0, 2])


def test_a_task_group_cancels_the_others_when_one_fails():
    seen = []

    async def patient():
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def hasty():
        await asyncio.sleep(1)
        raise ValueError("now")

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(patient())
            group.create_task(hasty())
            group.create_task(patient())

    with pytest.raises(ExceptionGroup) as caught:
        play(main)
    assert [str(error) for error in caught.value.exceptions] == ["now"]
    assert seen == ["cancelled", "cancelled"]


def test_timeout_and_wait_for_end_at_their_time():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await after(9, None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(after(9, None), 2)
        return loop.time(), await asyncio.wait_for(after(1, "in time"), 2)

    assert play(main) == (7.0, "in time")


def test_as_completed_yields_in_the_order_of_completion():
    async def main():
        waiting = [after(n, n) for n in (3, 1, 2)]
        return [await first for first in asyncio.as_completed(waiting)]

    assert play(main) == [1, 2, 3]


def test_queue_lock_event_and_condition_serve_first_come_first():
    async def main():
        queue, lock, event = asyncio.Queue(1), asyncio.Lock(), asyncio.Event()
        seen = []

        async def put():
            for n in range(3):
                await queue.put(n)

        async def hold(name):
            await event.wait()
            async with lock:
                seen.append(name)
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            for name in "abc":
                group.create_task(hold(name))
            seen.extend([await queue.get() for _ in range(3)])
            event.set()
        return seen

    assert play(main) == [0, 1, 2, "a", "b", "c"]


def test_to_thread_runs_inline():
    async def main():
        mine = threading.get_ident()
        return await asyncio.to_thread(threading.get_ident) == mine

    assert play(main)


def test_an_exception_in_to_thread_is_raised_by_the_await():
    def boom():
        raise ValueError("inside")

    async def main():
        with pytest.raises(ValueError, match="inside"):
            await asyncio.to_thread(boom)
        return "on"

    assert play(main) == "on"


def test_what_a_callback_raises_is_kept():
    loop = TurnLoop()
    loop.call_soon(lambda: 1 / 0)
    with running(loop):
        assert loop.run_ready()
    assert isinstance(loop.unhandled[0]["exception"], ZeroDivisionError)


# The same in every process

ORDERS = Path(__file__).with_name("orders.py")


def orders(*, seed, junk):
    """Return what ``orders.py`` prints in a process of its own."""
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, str(ORDERS), str(junk)]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_sets_of_tasks_iterate_alike_whatever_the_hash_seed_and_the_memory():
    seen = {orders(seed=seed, junk=junk) for seed, junk in [("1", 0), ("2", 3), ("77", 20)]}
    assert len(seen) == 1, "\n".join(seen)


# What is refused

REACHING_OUT = {
    "a connection": lambda: asyncio.open_connection("localhost", 80),
    "a server": lambda: asyncio.start_server(print, "localhost", 0),
    "a name": lambda: asyncio.get_running_loop().getaddrinfo("localhost", 80),
    "a process": lambda: asyncio.create_subprocess_exec("true"),
    "a shell": lambda: asyncio.create_subprocess_shell("true"),
    "a descriptor": lambda: asyncio.get_running_loop().add_reader(0, print),
    "a raw socket": lambda: asyncio.get_running_loop().sock_recv(None, 1),
    "a signal": lambda: asyncio.get_running_loop().add_signal_handler(1, print),
}


@pytest.mark.parametrize("what", REACHING_OUT)
def test_reaching_for_the_world_is_refused_and_names_the_decorator(what):
    async def main():
        with pytest.raises(IoOutsideStep, match=r"@hf\.step"):
            await REACHING_OUT[what]()
        return "refused"

    assert play(main) == "refused"


def test_a_thread_that_calls_back_is_refused():
    loop = TurnLoop()
    errors = []

    def call_back():
        try:
            loop.call_soon_threadsafe(print)
        except IoOutsideStep as error:
            errors.append(str(error))

    thread = threading.Thread(target=call_back)
    thread.start()
    thread.join()
    assert "@hf.step" in errors[0]
    assert loop.run_ready()


@pytest.mark.parametrize("name", ["run_forever", "run_until_complete", "stop"])
def test_driving_the_loop_from_inside_is_refused(name):
    async def main():
        with pytest.raises(UsageError, match=name):
            getattr(asyncio.get_running_loop(), name)()
        return "refused"

    assert play(main) == "refused"


def test_a_loop_that_never_waits_is_seen_to_spin(monkeypatch):
    monkeypatch.setattr(loop_module, "CALLBACKS_MAX", 1000)
    loop = TurnLoop()
    turns = []

    def again():
        turns.append(1)
        loop.call_soon(again)

    loop.call_soon(again)
    assert not loop.run_ready()
    assert len(turns) == 1000


def test_an_asynchronous_generator_left_behind_is_kept_until_the_turn_ends():
    async def count():
        try:
            yield 1
            yield 2
        finally:
            seen.append("closed")

    seen = []
    loop = TurnLoop()

    async def main():
        async for _ in count():
            break

    with running(loop):
        loop.create_task(main())
        loop.run_ready()
    assert seen == []
    with running(loop):
        loop.create_task(loop.shutdown_asyncgens())
        loop.run_ready()
    assert seen == ["closed"]


@pytest.mark.parametrize("delay", [math.inf, 1e300, 2**53])
def test_a_sleep_without_end_is_due_at_the_last_moment_that_a_leaf_can_say(delay):
    loop = TurnLoop()
    loop.set_time(1.79e9)
    loop.call_later(delay, print)
    when, _ = loop.next_timer()
    assert when == loop_module.TIME_MAX_S
    assert 1.79e15 < int(when * 1e6) + 1 < 2**53
