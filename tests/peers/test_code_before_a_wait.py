"""Code before a wait does not act again when the run goes on, and answers find their question.

The fault: a run that waits for a person is resumed by running its function from the top, so all
that stands before the wait happens again; and with several questions open the answers are handed
out by position, to the wrong tool. Reported as langgraph #7780, #6533.

*Goal*: what was done stays done, through any number of waits, and each answer goes to who asked.
*Method*: an agent that acts, asks three things at once and acts on each answer; answers arrive in
another order, each in a process of its own.
"""

import asyncio
import itertools

import holdfast as hf

acted = []


@hf.tool(effect="once")
async def act(what: str) -> str:
    acted.append(what)
    return what


async def ask_and_act(what):
    if await hf.ask(f"may I {what}?", bool):
        return await act(what)
    return f"not {what}"


@hf.agent
async def job() -> list[str]:
    await act("prepare")
    answers = await asyncio.gather(*(ask_and_act(what) for what in ("buy", "sell", "wait")))
    await act("tidy up")
    return answers


def answer(s, n, value):
    s.tell(value, topic=f"ask#{n}")


def test_each_effect_happens_once_however_often_the_run_waits(stage):
    for order in itertools.permutations([(1, True), (2, False), (3, True)]):
        acted.clear()
        s = stage(job)
        s.start(job)
        for n, value in order:
            s.play()
            assert s.status() == "waiting"
            answer(s, n, value)
        s.play()
        assert s.result() == ["buy", "not sell", "wait"]
        assert acted[0] == "prepare"
        assert acted[-1] == "tidy up"
        assert sorted(acted[1:-1]) == ["buy", "wait"]


def test_an_answer_given_before_it_is_waited_for_reaches_its_question(stage):
    acted.clear()
    s = stage(job)
    s.start(job)
    answer(s, 3, value=False)
    answer(s, 2, value=False)
    answer(s, 1, value=True)
    s.play()
    assert s.result() == ["buy", "not sell", "not wait"]


def test_a_kill_between_answer_and_act_repeats_neither(stage):
    for write in itertools.count(1):
        acted.clear()
        s = stage(job)
        s.start(job)
        for n in (1, 2, 3):
            answer(s, n, value=True)
        killed = s.work_until_killed(write, made=True)
        s.play()
        for _ in range(4):  # a kill at an intent leaves doubt, never a second act
            if s.status() == "in_doubt":
                doubts = [k for k, step in s.state().open_steps.items() if step.stage == "doubted"]
                for key in doubts:
                    s.run(s.client.resolve("r", key, happened="?", by="ann"))
                s.play()
        assert s.status() == "succeeded"
        assert len(acted) == len(set(acted))
        if not killed:
            break
    assert acted == ["prepare", "buy", "sell", "wait", "tidy up"]
