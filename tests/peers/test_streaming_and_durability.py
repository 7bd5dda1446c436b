"""Tokens are seen as they come, and every one of them is in the log.

The fault: one may have a durable call or a streamed one, not both: inside the durable engine the
stream arrives in one piece at the end. Reported as pydantic-ai #6092, #6620, and so documented for
Restate's OpenAI extension.

*Goal*: a follower has a token before the next one exists; whoever comes later or again gets the
same tokens from where it left off; a kill in the middle neither loses nor repeats any. *Method*: a
stream that waits for its reader after each token.
"""

import asyncio
from collections.abc import AsyncIterator

import holdfast as hf

WORDS = ["to", "be", "or", "not"]


def talker(allow=None):
    """An agent that hands on what it hears; with ``allow``, each word waits for its permit."""

    @hf.step
    async def words() -> AsyncIterator[str]:
        for word in WORDS:
            if allow is not None:
                await allow.acquire()
            yield word

    @hf.agent
    async def talk() -> str:
        heard = []
        async for word in words():
            hf.emit(word)
            heard.append(word)
        return " ".join(heard)

    return talk


def test_a_reader_has_each_token_before_the_next_one_exists(stage):
    allow = asyncio.Semaphore(1)
    talk = talker(allow)
    s = stage(talk)
    s.start(talk)
    worker = s.worker()
    ended = s.begin(worker.run(until_idle=True))

    async def follow():
        seen = []
        async for _, word in s.client.stream("r"):
            seen.append(word)
            allow.release()  # only now may the next one be made
        return seen

    assert s.run(asyncio.wait_for(follow(), 20)) == WORDS
    s.run(ended)
    assert s.result() == "to be or not"


def test_a_reader_resumes_where_it_left_off(stage):
    talk = talker()
    s = stage(talk)
    s.start(talk)
    s.play()

    async def read(after, count):
        seen = []
        async for seq, word in s.client.stream("r", after=after):
            seen.append((seq, word))
            if len(seen) == count:
                break
        return seen

    first = s.run(read(0, 2))
    rest = s.run(read(first[-1][0], 10))
    assert [word for _, word in first + rest] == WORDS


def test_a_kill_in_the_middle_neither_loses_nor_repeats_a_token(stage):
    for write in range(1, 40):
        talk = talker()
        s = stage(talk)
        s.start(talk)
        killed = s.work_until_killed(write, made=True)
        s.play()
        assert s.result() == "to be or not"
        assert s.run(read(s)) == WORDS
        if not killed:
            break
    assert write > 3


async def read(s):
    """Follow the run from its beginning, and forget what is taken back."""
    seen = {}
    async for seq, word in s.client.stream("r"):
        if isinstance(word, hf.Retracted):
            for retracted in word.seqs:
                del seen[retracted]
        else:
            seen[seq] = word
    return [*seen.values()]
