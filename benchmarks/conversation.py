"""What does a long conversation cost on disk? 2 KB of text a turn, through the stock OpenAI client.

Method: an agent keeps its messages as state; in each turn it takes a message of 1,000 characters,
sends the whole conversation to a model through ``openai.AsyncOpenAI`` with holdfast's HTTP client,
and gets 1,000 characters back. The model is a server in this process, on a loopback port. The text
is random words, seeded; after 50, 100, 200 and 400 turns the store is closed and its file
measured.

    python benchmarks/conversation.py [--small]
"""

import asyncio
import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import openai
from harness import Place, main

import holdfast as hf

__all__ = ["measure"]

TURNS, SMALL = (50, 100, 200, 400), (2, 4)
CHARS = 1_000
BUDGET_S = 60
"""After this the next doubling is left out: the client's work grows with the square of turns."""
WORDS = ["the", "order", "was", "sent", "back", "your", "money", "is", "on", "its", "way", "again"]


def _prose(seed: int) -> str:
    chance = random.Random(seed)
    words = [f"{chance.choice(WORDS)}{chance.randrange(50)}" for _ in range(CHARS // 4)]
    return " ".join(words)[:CHARS]


def _agent(url: str) -> Any:
    @hf.agent
    async def talk(state: list[dict[str, str]], message: str) -> str:
        """Answer with what the model says to the whole conversation."""
        state.append({"role": "user", "content": message})
        async with hf.async_http_client() as http:
            client = openai.AsyncOpenAI(base_url=url, api_key="none", http_client=http)
            said = await client.chat.completions.create(model="bench", messages=state)
        text = said.choices[0].message.content or ""
        state.append({"role": "assistant", "content": text})
        return text

    return talk


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Be a model: say prose to each request of a connection."""
    with contextlib.suppress(asyncio.IncompleteReadError, asyncio.CancelledError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            fields = dict(
                line.lower().split(b": ", 1) for line in head.split(b"\r\n") if b": " in line
            )
            asked = json.loads(await reader.readexactly(int(fields[b"content-length"])))
            choice = {"role": "assistant", "content": _prose(-len(asked["messages"]))}
            body = json.dumps(
                {
                    "id": f"chat-{len(asked['messages'])}",
                    "object": "chat.completion",
                    "created": 1_790_000_000,
                    "model": "bench",
                    "choices": [{"index": 0, "message": choice, "finish_reason": "stop"}],
                }
            ).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                % len(body)
                + body
            )
            await writer.drain()
    writer.close()


async def _talk(path: Path, turns: tuple[int, ...]) -> dict[int, int]:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    agent = _agent(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    sizes, done, begun = {}, 0, time.monotonic()
    for until in turns:
        if done and time.monotonic() - begun > BUDGET_S:
            break
        async with hf.App(path, agents=[agent]) as app:
            run = await app.client.start(agent, id="chat")
            async with app.working():
                for turn in range(done, until):
                    message = await app.client.message(run, _prose(turn), id=f"m{turn}")
                    reply = await app.client.result(run, message=message)
                    assert reply == _prose(-(2 * turn + 1)), f"turn {turn}: another reply"
        done = until
        sizes[until] = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    server.close()
    return sizes


def measure(
    here: Place, *, rounds: int, small: bool, only: str = "", quick: bool = False
) -> dict[str, Any]:
    """Return the bytes on disk by turns; they are counted once, since they hardly vary."""
    turns = SMALL if small else TURNS[:2] if quick else TURNS
    sizes = asyncio.run(_talk(here.new("conversation") / "ours.db", turns))
    return {
        "bytes": {str(count): size for count, size in sizes.items()},
        "text bytes": {str(count): 2 * CHARS * count for count in sizes},
    }


if __name__ == "__main__":
    main(measure, __doc__.partition("\n")[0])
