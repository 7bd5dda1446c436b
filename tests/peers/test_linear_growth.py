"""A conversation of N turns costs O(N) bytes.

The fault: each checkpoint holds the whole conversation, so that 200 turns of 400 KB of text take
140 MB. Measured with LangGraph's SqliteSaver; reported as langgraph #8531.

*Goal*: 200 turns and 400 KB of text take at most 1.3 MB, and twice the turns at most little more
than twice the bytes. *Method*: an agent keeps its messages as state and passes all of them to its
model in each turn; the file is measured after the store is closed.
"""

import random

import pydantic

import holdfast as hf
from holdfast.stores.sqlite import SqliteStore

TURNS, TURN_CHARS = 200, 2_000
WORDS = ["the", "order", "was", "sent", "back", "your", "money", "is", "on", "its", "way", "again"]


class Chat(pydantic.BaseModel):
    messages: list[dict[str, str]] = []


def prose(seed):
    chance = random.Random(seed)
    words = [f"{chance.choice(WORDS)}{chance.randrange(50)}" for _ in range(TURN_CHARS)]
    return " ".join(words)[: TURN_CHARS // 2]


@hf.step
async def complete(messages: list[dict[str, str]]) -> dict[str, str]:
    return {"role": "assistant", "content": prose(-len(messages))}


@hf.agent
async def talk(state: Chat, message: str) -> str:
    state.messages.append({"role": "user", "content": message})
    state.messages.append(await complete(state.messages))
    return state.messages[-1]["content"]


def test_two_hundred_turns_of_four_hundred_kilobytes(stage, tmp_path):
    path = tmp_path / "s.db"
    s = stage(talk)
    s.store = s.run(SqliteStore.open(path, inline=True))
    s.start(talk)
    sizes = []
    for turns in (range(TURNS // 2), range(TURNS // 2, TURNS)):
        for turn in turns:
            s.tell(prose(turn), id=f"m{turn}")
        s.work()
        s.run(s.store.close())
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
        s.store = s.run(SqliteStore.open(path, inline=True))
    last = s.events()[-1]
    assert last.body.type == "turn.finished"
    assert 390_000 < len(last.payload) < 430_000, "the text is as long as was said"
    s.run(s.store.close())
    assert sizes[1] < 1_300_000
    assert sizes[1] < 2.2 * sizes[0]
