"""A leaf is bytes that others can check: exact, on one line, bound to payload and predecessor.

*Goal*: the bytes of an event follow PROOF's rules to the letter and read back as the same event.
*Method*: Hypothesis makes bodies of every type; a plain ``json.dumps`` and ``hashlib`` are the
second opinion; one golden leaf is written out and hashed by hand.
"""

import dataclasses
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core import events as ev
from holdfast.core.limits import (
    AGENT_NAME_CHARS_MAX,
    LEAF_BYTES_MAX,
    MESSAGE_ID_CHARS_MAX,
    RUN_ID_CHARS_MAX,
    STEP_NAME_CHARS_MAX,
    TOPIC_CHARS_MAX,
)
from holdfast.errors import StoreRefused, UsageError

SALT = bytes(range(32))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
BELOW_2_53 = st.integers(0, 2**53 - 1)
OF_TYPE = {str: TEXT, int: BELOW_2_53, bool: st.booleans()}


def bodies(kind):
    """Values of one type of body."""
    fields = dataclasses.fields(ev.BODIES[kind])
    return st.builds(ev.BODIES[kind], **{field.name: OF_TYPE[field.type] for field in fields})


@st.composite
def sealed(draw, body):
    payload = draw(st.none() | st.binary(max_size=100))
    return ev.seal(
        draw(body),
        run=draw(TEXT),
        seq=draw(BELOW_2_53),
        prev=draw(st.binary(min_size=32, max_size=32)).hex(),
        at=draw(BELOW_2_53),
        epoch=draw(BELOW_2_53),
        agent=draw(TEXT),
        cause=tuple(draw(st.lists(BELOW_2_53 | st.tuples(TEXT, BELOW_2_53), max_size=3))),
        payload=payload,
        salt=None if payload is None else SALT,
    )


def facts_of(event):
    """What a leaf should say, written down independently of ``seal``."""
    facts = dataclasses.asdict(event.body) | {
        "type": event.body.type,
        "v": 2 if event.body.type == "run.created" else 1,
        "run": event.run,
        "seq": event.seq,
        "at": event.at,
        "epoch": event.epoch,
        "agent": event.agent,
        "cause": event.cause,
        "prev": event.prev,
    }
    if event.payload is not None:
        facts["payload"] = "hs256:" + hmac.new(SALT, event.payload, "sha256").hexdigest()
    return facts


def holds(event):
    plain = json.dumps(facts_of(event), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    assert event.leaf == plain.encode() + b"\n"
    assert event.leaf.count(b"\n") == 1
    assert event.hash == hashlib.sha256(b"\x00" + event.leaf).hexdigest()
    assert ev.open_leaf(event.leaf, payload=event.payload, salt=event.salt) == event


@pytest.mark.parametrize("kind", ev.BODIES)
def test_a_leaf_of_each_type_is_one_line_of_sorted_json_and_reads_back(kind):
    values = {str: 'ä"\\\n\u2028%s', int: 2**53 - 1, bool: True}
    fields = dataclasses.fields(ev.BODIES[kind])
    body = ev.BODIES[kind](**{field.name: values[field.type] for field in fields})
    holds(seal(body))
    holds(seal(body, payload=b"1", salt=SALT, cause=(), run="%", agent='a"'))


@given(sealed(st.sampled_from(sorted(ev.BODIES)).flatmap(bodies)))
def test_any_leaf_is_one_line_of_sorted_json_and_reads_back(event):
    holds(event)


def seal(body=ev.RunSucceeded(), **changes):  # noqa: B008 - bodies are frozen
    facts = {
        "run": "ticket-7",
        "seq": 2,
        "prev": ev.GENESIS,
        "at": 1_790_000_000_000_000,
        "epoch": 1,
        "agent": "agent:triage",
        "cause": (1,),
    }
    return ev.seal(body, **(facts | changes))


GOLDEN = (
    b'{"agent":"agent:triage","at":1790000000000000,"attempt":1,"cause":[3,["mother",12]],'
    b'"effect":"once","epoch":1,"key":"refund#1",'
    b'"payload":"hs256:498398a1c817c97dcb83020911babe3705f957d89ff6416080cc28fd6f8752c0",'
    b'"prev":"' + b"ab" * 32 + b'","run":"t\xc3\xa4\\"7","seq":4,"type":"step.started","v":1}\n'
)


def test_the_golden_leaf():
    payload, salt = b'{"order":"a","cents":500}', bytes(range(32))
    event = ev.seal(
        ev.StepStarted("refund#1", "once"),
        run='tä"7',
        seq=4,
        prev="ab" * 32,
        at=1_790_000_000_000_000,
        epoch=1,
        agent="agent:triage",
        cause=(3, ("mother", 12)),
        payload=payload,
        salt=salt,
    )
    assert event.leaf == GOLDEN
    # By hand: HMAC-SHA256 is SHA-256(outer key ‖ SHA-256(inner key ‖ message)), RFC 2104.
    inner, outer = (bytes(b ^ pad for b in salt.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    mac = hashlib.sha256(outer + hashlib.sha256(inner + payload).digest()).hexdigest()
    assert json.loads(event.leaf)["payload"] == "hs256:" + mac
    assert event.hash == hashlib.sha256(b"\x00" + GOLDEN).hexdigest()


def test_each_event_holds_the_hash_of_the_one_before():
    first = seal(seq=1)
    second = seal(prev=first.hash)
    assert json.loads(second.leaf)["prev"] == hashlib.sha256(b"\x00" + first.leaf).hexdigest()


@given(st.binary(min_size=32, max_size=32), st.binary(), st.binary())
def test_a_commitment_binds_salt_and_payload(salt, payload, other):
    assert ev.commitment(salt, payload) == "hs256:" + hmac.new(salt, payload, "sha256").hexdigest()
    if other != payload:
        assert ev.commitment(salt, payload) != ev.commitment(salt, other)


def test_the_payload_is_not_in_the_leaf():
    event = seal(payload=b'{"name":"Ada Lovelace"}', salt=SALT)
    assert b"Ada" not in event.leaf


def test_without_a_payload_there_is_no_commitment():
    event = seal()
    assert (event.committed, event.payload) == ("", None)
    assert b'"payload"' not in event.leaf


def test_an_empty_payload_is_one():
    assert seal(payload=b"", salt=SALT).committed == ev.commitment(SALT, b"")


def test_an_erased_payload_leaves_its_commitment():
    event = seal(payload=b"1", salt=SALT)
    erased = ev.open_leaf(event.leaf)
    assert (erased.payload, erased.salt, erased.committed) == (None, None, event.committed)
    assert erased.hash == event.hash


def test_half_of_a_surrogate_is_refused():
    for changes in ({"run": "\ud800"}, {"body": ev.StepStarted("\udfff#1", "read")}):
        with pytest.raises(UsageError, match="not valid Unicode"):
            seal(**changes)


def test_a_leaf_has_at_most_65535_bytes():
    assert LEAF_BYTES_MAX == 65_535
    room = LEAF_BYTES_MAX - len(seal(run="").leaf)
    assert len(seal(run="r" * room).leaf) == LEAF_BYTES_MAX
    with pytest.raises(UsageError, match="65536 bytes; at most 65535"):
        seal(run="r" * (room + 1))


def test_the_longest_names_that_are_let_in_fit():
    widest = "\U0001f600"  # four bytes
    body = ev.MessageSent(
        widest * STEP_NAME_CHARS_MAX + "#1",
        widest * RUN_ID_CHARS_MAX,
        widest * TOPIC_CHARS_MAX,
        widest * MESSAGE_ID_CHARS_MAX,
    )
    agent = "agent:" + widest * AGENT_NAME_CHARS_MAX
    event = seal(body, run=widest * RUN_ID_CHARS_MAX, agent=agent, payload=b"", salt=SALT)
    assert ev.open_leaf(event.leaf).body == body


def changed(**changes):
    facts = json.loads(seal(ev.TimerFired(1)).leaf) | changes
    return json.dumps({k: v for k, v in facts.items() if v is not None}).encode() + b"\n"


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (changed(type="step.levitated"), "'step.levitated' version 1 is unknown to this release"),
        (changed(v=2), "version 2 is unknown to this release"),
        (changed(v="1"), "version '1' is unknown"),
        (changed(timer=None), "lacks 'timer'"),
        (changed(seq=None), "lacks 'seq'"),
        (changed(type=None), "not an event's leaf"),
        (changed(cause=[["r"]]), "lacks"),
        (b"", "not an event's leaf"),
        (b"[]\n", "not an event's leaf"),
        (b"7\n", "not an event's leaf"),
        (b'{"type":"run.succee', "not an event's leaf"),
        (b"\xff\xfe\n", "not an event's leaf"),
    ],
)
def test_what_this_release_does_not_know_is_refused(leaf, text):
    with pytest.raises(StoreRefused, match="(?s)" + text):
        ev.open_leaf(leaf)


def test_an_older_form_is_brought_up_to_todays(monkeypatch):
    def add_timer(facts):
        return {**facts, "v": 1, "timer": facts["number"]}

    monkeypatch.setitem(ev.UPCASTS, ("timer.fired", 0), add_timer)
    leaf = changed(v=0, timer=None, number=5)
    event = ev.open_leaf(leaf)
    assert event.body == ev.TimerFired(5)
    assert event.leaf == leaf
    assert event.hash == ev.leaf_hash(leaf), "the bytes that were written are the ones that count"


def test_a_run_of_the_first_version_stood_in_the_default_queue():
    created = seal(ev.RunCreated(7, 1, "mother", "a#1"))
    facts = json.loads(created.leaf) | {"v": 1}
    for name in ("queue", "priority", "key", "start_at"):
        del facts[name]
    leaf = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    event = ev.open_leaf(leaf)
    assert event.body == ev.RunCreated(7, 1, "mother", "a#1", "default", 0, "", 0)
    assert (event.leaf, event.hash) == (leaf, ev.leaf_hash(leaf))


def test_every_field_of_every_body_is_fit_for_a_leaf():
    for kind, body in ev.BODIES.items():
        for field in dataclasses.fields(body):
            assert field.type in OF_TYPE, f"{kind}.{field.name}: {field.type}"
            assert field.name.isascii()
            assert field.name not in {"agent", "at", "cause", "epoch", "payload", "prev", "run"}
            assert field.name not in {"seq", "type", "v"}


def test_every_body_has_its_own_type_and_one_of_three_roles():
    assert len({body.type for body in ev.BODIES.values()}) == len(ev.BODIES) == 28
    assert {body.role for body in ev.BODIES.values()} == {"input", "note", "mark"}
