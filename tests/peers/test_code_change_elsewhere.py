"""A deploy that does not change what a run asks for does not strand it.

The fault: a run is pinned to a hash of all code, so that each deploy, be it of a comment, parks
every run that waits. Reported as decocms/studio #4143 and czpython/druks #619.

*Goal*: a waiting run is bound by the calls it has made and by nothing else. *Method*: the agent is
deployed anew with everything changed that its log does not hold.
"""

import holdfast as hf


def release_1():
    @hf.step
    async def look(n: int) -> int:
        return n

    @hf.agent
    async def job() -> list[int]:
        first = await look(1)
        await hf.receive("go on")
        return [first, await look(2)]

    return job


def release_2():
    """As release 1, with other bodies, docstrings, defaults, detours, tools and another ending."""

    @hf.tool
    async def brand_new(text: str) -> str:
        return text

    @hf.step(retry=hf.Retry(attempts=9), timeout=99)
    async def look(n: int) -> int:
        """Look closer."""
        return n * 1000

    async def look_from_elsewhere(n):
        return await look(n)

    @hf.agent(tools=[brand_new])
    async def job() -> list[int]:
        """Do the job better."""
        first = await look_from_elsewhere(1)
        await hf.receive("go on")
        return [first, await look(3), await look(4), len(await brand_new("new"))]

    return job


def test_a_waiting_run_goes_on_with_the_next_release(stage):
    s = stage(release_1())
    s.start(release_1())
    s.play()
    s.tell(None, topic="go on")
    s.play(release_2())
    assert s.result() == [1, 3000, 4000, 3]


def test_a_run_goes_on_when_an_argument_gets_a_default_it_does_not_use(stage):
    """Bound: an added argument is another call, and says so; a guard lets old runs pass."""

    def release(*, guarded):
        @hf.step
        async def look(n: int) -> int:
            return n

        @hf.agent
        async def job() -> int:
            if guarded and hf.version_guard("look twice"):
                await look(7)
            first = await look(1)
            await hf.receive("go on")
            return first

        return job

    s = stage(release(guarded=False))
    s.start(release(guarded=False))
    s.play()
    s.start(release(guarded=True), id="fresh")
    for run in ("r", "fresh"):
        s.tell(None, run, topic="go on")
    s.play(release(guarded=True))
    assert (s.result(), s.result("fresh")) == (1, 1)
    assert "version.marked 'look twice'" in s.said("fresh")
    assert "version.marked 'look twice'" not in s.said()
