"""Secrets are named in the log and known to bodies alone.

*Goal*: wherever a body puts a secret's value (a result, an error, a part of a stream, a message to
another run, an undo, a lookup), no byte of the store holds it, and nothing that is logged or
printed; the name is enough to get the value again in another process. *Method*: an agent that
leaks wherever it can, on a SQLite file of which every byte is searched, chunks inflated.
"""

import base64
import json
import logging
import re

import apsw
import pytest

import holdfast as hf
from holdfast.errors import CodecError, StepFailed, UsageError
from holdfast.stores.payloads import inflate
from holdfast.stores.sqlite import SqliteStore

VALUE = "hunter2/of the shop"
SPELLINGS = (VALUE, "hunter2", "hunter2%2Fof", base64.b64encode(VALUE.encode()).decode()[:-4])
KEY = hf.Secret("SHOP_KEY")


def every_byte(directory):
    """All bytes of the files of a directory, and what they hold deflated."""
    found = [path.read_bytes() for path in directory.iterdir() if path.is_file()]
    for path in directory.glob("*.db"):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        rows = [
            *connection.execute("SELECT form, payload FROM event WHERE payload IS NOT NULL"),
            *connection.execute("SELECT form, payload FROM inbox WHERE payload IS NOT NULL"),
            *connection.execute("SELECT form, data FROM chunk"),
        ]
        found += [inflate(form, data) if form == 1 else data for form, data in rows]
        connection.close()
    return b"\n".join(found)


def assert_nowhere(data, *texts):
    text = data if isinstance(data, bytes) else data.encode()
    for spelling in texts or SPELLINGS:
        assert spelling.encode() not in text, f"{spelling!r} was recorded"


@hf.step
async def lookup(order: str, key: hf.Secret[str]) -> str:
    return f"{order} {key.value} " + base64.b64encode(b"me:" + key.value.encode()).decode() * 200


@hf.step(retry=hf.Retry(attempts=2, base_s=0.001))
async def refused(key: hf.Secret[str]) -> str:
    raise ConnectionError(f"illegal header: 'Bearer {key.value}'")


@hf.step
async def wrong_type(key: hf.Secret[str]) -> int:
    return {"headers": ["x" * 30, key.value + "y" * 100]}


@hf.step
async def letters(key: hf.Secret[str]):
    yield f"part {key.value}"
    yield {"key": key.value}


async def take_back(key: hf.Secret[str], outcome: str) -> str:
    return f"took {outcome} back with {key.value}"


@hf.tool(effect="idempotent", compensate=take_back)
async def reserve(key: hf.Secret[str]) -> str:
    return f"reserved with {key.value}"


async def ask_shop(key: hf.Secret[str]) -> str:
    return f"found with {key.value}"


@hf.tool(effect="once", reconcile=ask_shop)
async def pay(key: hf.Secret[str]) -> str:
    raise TimeoutError(f"no answer to {key.value}")


@hf.tool(effect="transactional")
def note(key: hf.Secret[str]) -> str:
    assert key.value == VALUE
    return key.value


@hf.agent
async def clerk(key: hf.Secret[str]) -> str:
    return await lookup("child", key)


@hf.agent
async def leaky(key: hf.Secret[str]) -> str:
    found = [await lookup("order-7", key), await pay(key), await reserve(key), note(key)]
    for failing in (refused, wrong_type):
        try:
            await failing(key)
        except StepFailed as error:
            found.append(error.error_message)
    async for part in letters(key):
        hf.emit(part)
        found.append(part if isinstance(part, str) else part["key"])
    found.append(await clerk(key))
    hf.send("other", found, topic="all")
    found.append(f"{key}")
    raise RuntimeError("; ".join(found))


@pytest.fixture
def played(stage, tmp_path, caplog):
    """The leaky agent, played to its end on a file."""
    caplog.set_level(logging.DEBUG)
    s = stage(leaky, clerk, secrets={"SHOP_KEY": VALUE})
    s.store = s.run(SqliteStore.open(tmp_path / "holdfast.db"))
    s.start(leaky, KEY)
    s.play()
    yield s
    s.run(s.store.close())


def test_a_secret_is_in_no_byte_of_the_store_and_in_no_line_of_the_log(played, tmp_path, caplog):
    assert played.status() == "failed"
    assert_nowhere(every_byte(tmp_path))
    assert_nowhere(caplog.text)
    with pytest.raises(hf.RunFailed) as failed:
        played.result()
    assert_nowhere(str(failed.value))
    told = played.events()[-1].payload.decode()
    for what in ("order-7", "found with", "reserved with", "illegal header", "part", "child"):
        assert re.search(rf"{what}[^;]*\[secret SHOP_KEY\]", told), f"{what} was really tried"


def test_what_the_agent_gets_live_is_what_a_replay_gets(played):
    said = played.said()
    before = played.events()
    played.run(played.store.close())
    played.store = played.run(SqliteStore.open(played.store.url.removeprefix("sqlite://")))
    assert played.events() == before
    from holdfast.cli.replay import replay  # noqa: PLC0415 - the command line is only wanted here

    assert replay(leaky.__holdfast__, played.events()).difference is None
    assert "step.started undo:reserve#1 (idempotent)" in said


def test_another_process_gets_the_value_from_its_own_provider(stage):
    seen = []

    @hf.tool(effect="idempotent")
    async def call(key: hf.Secret[str]) -> str:
        seen.append(key.value)
        return "done"

    @hf.agent
    async def job() -> str:
        return await call(KEY)

    s = stage(job, secrets={"SHOP_KEY": "old-value"})
    s.start(job)
    assert s.work_until_killed(3, made=False)
    s.options = {"secrets": {"SHOP_KEY": "rotated-value"}.get}
    s.play()
    assert s.result() == "done"
    assert seen == ["old-value", "rotated-value"]
    started = [e for e in s.events() if e.body.type == "step.started"]
    assert started[0].payload == b'{"key":{"$secret":"SHOP_KEY"}}'


def test_the_environment_is_asked_unless_the_app_has_a_provider(stage, monkeypatch):
    @hf.step
    async def call(key: hf.Secret[str]) -> int:
        return len(key.value)

    @hf.agent
    async def job() -> int:
        return await call(hf.Secret("SHOP_KEY"))

    monkeypatch.setenv("HOLDFAST_SECRET_SHOP_KEY", "from-the-environment")
    s = stage(job)
    s.start(job)
    s.play()
    assert s.result() == 20


def test_a_worker_without_the_value_does_not_begin_the_body(stage):
    begun = []

    @hf.tool(effect="once", retry=hf.Retry(attempts=2, base_s=0.001))
    async def call(key: hf.Secret[str]) -> str:
        begun.append(key)
        return "done"

    @hf.agent
    async def job() -> str:
        return await call(hf.Secret("NOBODY_KNOWS"))

    s = stage(job, secrets={})
    s.start(job)
    s.play()
    assert s.status() == "failed", "not in doubt: it is sure that nothing happened"
    with pytest.raises(hf.RunFailed, match="'NOBODY_KNOWS' is unknown to this worker"):
        s.result()
    assert begun == []


def test_the_code_of_an_agent_has_no_value(stage):
    @hf.agent
    async def job(key: hf.Secret[str]) -> str:
        return key.value

    s = stage(job, secrets={"SHOP_KEY": VALUE})
    s.start(job, KEY)
    s.play()
    with pytest.raises(hf.RunFailed, match="in the code of an agent"):
        s.result()


def test_a_body_may_name_a_secret_itself_and_have_it_typed(stage):
    @hf.step
    async def call(login: hf.Secret[dict[str, str]]) -> list[str]:
        return [login.value["password"], hf.Secret("SHOP_KEY").value]

    @hf.agent
    async def job() -> list[str]:
        return await call(hf.Secret("LOGIN"))

    login = json.dumps({"user": "me", "password": "correct-horse"})
    s = stage(job, secrets={"SHOP_KEY": VALUE, "LOGIN": login})
    s.start(job)
    s.play()
    assert s.result() == ["[secret LOGIN]", "[secret SHOP_KEY]"]


def test_a_value_given_in_place_of_a_secret_is_refused_and_not_quoted(stage):
    with pytest.raises(CodecError, match="expected a secret") as refused_input:
        stage(clerk).start(clerk, VALUE)
    assert_nowhere(str(refused_input.value))
    assert_nowhere(repr(KEY) + str(KEY))


@pytest.mark.parametrize(
    "value",
    [
        VALUE,
        "sk-very-secret-1234567890",
        "glpat_0123456789abcdefABCD",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.e30.abc",
        "correcthorse",
    ],
)
def test_the_value_given_for_its_name_is_refused_and_not_quoted(stage, value):
    with pytest.raises(UsageError, match="takes the name of a secret") as refused_name:
        hf.Secret(value)
    assert_nowhere(str(refused_name.value), value)
    with pytest.raises(CodecError, match="expected a secret") as refused_input:
        stage(clerk).start(clerk, {"$secret": value})
    assert_nowhere(str(refused_input.value), value)


def test_a_model_neither_sees_nor_chooses_secrets(stage):
    @hf.tool(effect="read")
    async def shop(order: str, key: hf.Secret[str] = KEY) -> str:
        return f"{order} with {len(key.value)}"

    @hf.tool(effect="read")
    async def careless(key: hf.Secret[str]) -> str:
        return str(key)

    schema = hf.schemas(shop)[0]["function"]["parameters"]
    assert schema["properties"] == {"order": {"type": "string"}}
    with pytest.raises(UsageError, match="parameter 'key' is a secret"):
        hf.schemas(careless)

    def wanted(**arguments):
        return {"id": "1", "function": {"name": "shop", "arguments": json.dumps(arguments)}}

    @hf.agent(tools=[shop])
    async def job() -> list[str]:
        other = {"$secret": "AWS_KEY"}
        answers = [await hf.call(wanted(order="7")), await hf.call(wanted(order="7", key=other))]
        return [answer["content"] for answer in answers]

    s = stage(job, secrets={"SHOP_KEY": VALUE, "AWS_KEY": "not for models"})
    s.start(job)
    s.play()
    assert s.result() == [
        f"7 with {len(VALUE)}",
        "error: a secret cannot be chosen by a model; leave it out",
    ]


def test_what_the_redactor_finds_is_recorded_nowhere_and_the_agent_lives_with_that(stage, tmp_path):
    token = "sk-live-0123456789abcdef"
    bodies = []

    @hf.step
    async def login(user: str, password: str) -> dict[str, str]:
        bodies.append(password)
        return {"token": token, "user": user}

    @hf.agent
    async def other(state: list[str], message: str) -> str:
        state.append(message)
        return message

    @hf.agent
    async def job(hint: str) -> dict[str, str]:
        found = await login("me", "correct horse")
        hf.send("other", f"the token is {token}")
        hf.emit([token])
        return found | {"hint": hint}

    s = stage(job, other, redact=hf.find_credentials)
    s.store = s.run(SqliteStore.open(tmp_path / "holdfast.db"))
    s.start(other, id="other")
    s.start(job, f"use {token}")
    s.tell("password=correct-horse", run="other", id="m")
    s.play()
    assert bodies == ["correct horse"], "the body gets what the code passed"
    assert s.result() == {"token": "[redacted]", "user": "me", "hint": "use [redacted]"}
    assert s.result("other", message="m") == "password=[redacted]"
    s.run(s.store.close())
    assert_nowhere(every_byte(tmp_path), token, "correct horse", "correct-horse")


def test_a_run_carries_on_when_the_redactor_is_new_or_gone(stage):
    @hf.step
    async def use(card: str) -> str:
        return f"used {card}"

    @hf.agent
    async def job() -> str:
        first = await use("4111-1111")
        await hf.receive("go")
        return first + await use("4222-2222")

    pattern = re.compile(r"\d{4}-\d{4}")
    for before, after in ((None, pattern), (pattern, None)):
        s = stage(job, redact=before)
        s.start(job)
        s.play()
        s.options = {"redact": after}
        s.tell("now", topic="go")
        s.play()
        cards = [
            "[redacted]" if finder else card
            for finder, card in ((before, "4111-1111"), (after, "4222-2222"))
        ]
        expected = f"used {cards[0]}used {cards[1]}"
        assert s.result() == (expected if after is None else "used [redacted]used [redacted]")


def test_a_divergence_shows_no_secret(stage):
    asked = ["4111-1111"]

    @hf.step
    async def use(card: str, n: int) -> str:
        return card * n

    @hf.agent
    async def job() -> str:
        await use("4111-1111", len(asked))
        return await hf.receive("go")

    s = stage(job, redact=re.compile(r"\d{4}-\d{4}"))
    s.start(job)
    s.play()
    asked.append("more")
    s.tell("now", topic="go")
    s.play()
    assert s.status() == "diverged"
    assert b"4111" not in b"".join(e.leaf + (e.payload or b"") for e in s.events())
