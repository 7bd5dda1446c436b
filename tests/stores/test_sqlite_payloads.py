"""Payloads come back byte for byte, and what they share is stored once.

*Goal*: no bytes are too odd, and a conversation costs what was said, not what was sent. *Method*:
Hypothesis makes payloads out of JSON, lines and noise, with limits so small that trees grow high;
conversations of doubled length are written to a file, which is then measured.
"""

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.errors import StoreRefused
from holdfast.stores import payloads
from holdfast.stores.payloads import load
from holdfast.stores.sqlite import SqliteStore
from holdfast.stores.sqlite.file import create_tables
from holdfast.stores.sqlite.payloads import ChunkWriter
from holdfast.testing.harness import hold


class Chunks:
    """A chunk table in memory, a writer to it and what reads it back."""

    def __init__(self):
        self.connection = apsw.Connection(":memory:")
        create_tables(self.connection)
        self.writer = ChunkWriter(self.connection)

    def store(self, payload: bytes) -> tuple[int, bytes]:
        form, stored = self.writer.store(payload)
        assert load(form, stored, self.fetch) == payload
        return form, stored

    def fetch(self, number: int) -> bytes:
        statement = "SELECT form, data FROM chunk WHERE n = ?"
        [(form, data)] = self.connection.execute(statement, (number,)).fetchall()
        return payloads.inflate(form, data)

    def sizes(self) -> list[int]:
        rows = self.connection.execute("SELECT form, data FROM chunk").fetchall()
        return [len(payloads.inflate(*row)) for row in rows]

    def count(self) -> int:
        return len(self.sizes())


noise = st.builds(
    lambda size, seed: random.Random(seed).randbytes(size),
    st.integers(0, 60_000),
    st.integers(0, 3),
)
braces = st.builds(
    b"".join,
    st.lists(st.sampled_from([b"},", b"}],", b"}]}", b"\\n", b"\n", b"}", b"x" * 50, b"\x00"])),
)
messages = st.lists(
    st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=300)}),
    max_size=80,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))
repeated = st.builds(lambda part, count: part * count, st.binary(max_size=40), st.integers(0, 900))
anything = st.one_of(noise, braces, messages, repeated, st.binary()).flatmap(
    lambda first: st.builds(lambda second: first + second, st.one_of(braces, messages, repeated))
)


@given(st.lists(anything, min_size=1, max_size=4))
def test_the_exact_bytes_come_back(values: list[bytes]):
    chunks = Chunks()
    for value in values:
        chunks.store(value)


@settings(max_examples=50)
@given(st.lists(anything, min_size=1, max_size=4))
def test_the_exact_bytes_come_back_from_high_trees(values: list[bytes]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payloads, "CHUNK_BYTES_MAX", 300)
        patch.setattr(payloads, "INLINE_BYTES_MAX", 20)
        patch.setattr(payloads, "ROOT_NUMBERS_MAX", 2)
        patch.setattr(payloads, "_NODE_NUMBERS", (2, 4))
        chunks = Chunks()
        for value in [*values, random.Random(9).randbytes(9_000)]:
            _, root = chunks.store(value)
        assert root[0] >= 2  # so high is the last tree


@pytest.mark.parametrize(
    "size", [0, 1, 399, 400, 401, 2_047, 2_048, 2_049, 16_384, 16_385, 300_000]
)
def test_the_limits_of_the_forms_are_no_edge(size: int):
    chunks = Chunks()
    for value in (bytes(size), random.Random(size).randbytes(size), (b'{"a":"b"},' * size)[:size]):
        chunks.store(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: random.Random(1).randbytes(size),
        lambda size: random.Random(1).randbytes(size // 2).hex().encode(),
        lambda size: (b'{"a":"some longer text"},' * size)[:size],
        lambda size: (b"a line of text\n" * size)[:size],
    ],
    ids=["noise", "hex", "rows", "lines"],
)
def test_ten_megabytes_of_anything_are_cut_into_some_thousand_chunks(make: Callable):
    chunks = Chunks()
    chunks.store(make(10_000_000))
    sizes = chunks.sizes()
    assert max(sizes) <= payloads.CHUNK_BYTES_MAX
    assert len(sizes) < 3_000


def test_the_same_bytes_are_stored_once():
    chunks = Chunks()
    value = random.Random(1).randbytes(100_000)
    first = chunks.store(value)
    count = chunks.count()
    assert chunks.store(value) == first
    chunks.writer.forget()
    assert chunks.store(value) == first
    assert chunks.count() == count


def test_a_list_shares_its_chunks_with_one_that_begins_or_ends_otherwise():
    rows = [json.dumps({"n": n, "text": random.Random(n).randbytes(60).hex()}) for n in range(800)]
    chunks = Chunks()
    chunks.store(("[" + ",".join(rows) + "]").encode())
    before = chunks.count()
    assert before > 100
    for other in (rows[1:], rows[30:], ['{"n":0}', *rows], rows[:-1], rows[:400] + rows[401:]):
        chunks.store(("[" + ",".join(other) + "]").encode())
        assert chunks.count() - before < 20, "hardly a chunk is shared"
        before = chunks.count()


def test_a_text_with_an_edited_line_shares_the_rest():
    lines = [random.Random(n).randbytes(30).hex() for n in range(12_000)]
    chunks = Chunks()
    chunks.store(json.dumps({"text": "\n".join(lines)}).encode())
    before = chunks.count()
    lines[1_500] = "edited"
    chunks.store(json.dumps({"text": "\n".join(lines)}).encode())
    assert chunks.count() - before < 15


WORDS = [random.Random(n).randbytes(4).hex()[: 2 + n % 7] for n in range(3_000)]


def said(turn: int, size: int) -> str:
    text = random.Random(turn).choices(WORDS, k=size)
    return " ".join(text)[:size]


TOOL = {"parameters": {"type": "object", "properties": {"order": {"description": said(-1, 90)}}}}
TOOLS = [
    {"type": "function", "function": {"name": f"t{n}", "description": said(n, 200)} | TOOL}
    for n in range(4)
]


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def size_of_conversation(path: Path, turns: int, *, messages_first: bool) -> int:
    """Return the bytes on disk when 2 KB are said in each turn, and sent again ever after."""

    async def main():
        store = await SqliteStore.open(path)
        script = await hold(store)
        messages = [{"role": "system", "content": said(0, 500)}]
        rest = {"model": "gpt", "tools": TOOLS}
        for turn in range(turns):
            messages.append({"role": "user", "content": said(2 * turn, 1_000)})
            every = {"messages": messages}
            call = encode(every | rest if messages_first else rest | every)
            messages.append({"role": "assistant", "content": said(2 * turn + 1, 1_000)})
            answer = encode({"id": turn, "choices": [{"index": 0, "message": messages[-1]}]})
            started, finished = ev.StepStarted(f"m#{turn}", "read"), ev.StepFinished(f"m#{turn}")
            await store.append(script.change((started, call), (finished, answer)))
        assert await store.read("r") == script.events
        await store.close()

    asyncio.run(main())
    return path.stat().st_size


@pytest.mark.parametrize("messages_first", [True, False])
def test_a_conversation_costs_what_was_said_not_what_was_sent(messages_first: bool, tmp_path: Path):
    sizes = [
        size_of_conversation(tmp_path / f"{turns}.db", turns, messages_first=messages_first)
        for turns in (50, 100, 200)
    ]
    assert sizes[-1] < 1_300_000, sizes
    assert sizes[2] - sizes[1] < 2.1 * (sizes[1] - sizes[0]), sizes


@pytest.mark.parametrize(
    ("form", "stored"),
    [
        (payloads.DEFLATED, b"\xff\xff"),
        (payloads.CHUNKED, b""),
        (payloads.CHUNKED, bytes(9) + b"\x01"),
        (payloads.CHUNKED, bytes([0, 9, *bytes(7)])),
    ],
    ids=["deflated", "no root", "half a number", "too short"],
)
def test_damage_is_told_not_returned(form: int, stored: bytes):
    with pytest.raises(StoreRefused):
        load(form, stored, lambda _: b"")
