"""What a cleaner takes out of payloads, and what it leaves as it is.

*Goal*: no spelling of a known secret and nothing that the finder names is left in a payload, and
nothing else of it changes; a replay takes a mark for what stood there. *Method*: examples, and
properties over generated JSON.
"""

import base64
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast as hf
from holdfast.core.redaction import Cleaner, find_credentials, same_but_marks
from holdfast.errors import UsageError

VALUE = 'pa"ss\\wörd/+ 1'
SECRETS = st.text(min_size=6, max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def cleaner(*values, find=None):
    made = Cleaner(find)
    for n, value in enumerate(values):
        made.learn(f"S{n}", value)
    return made


def encoded(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def test_without_secrets_a_payload_is_the_same_object():
    payload = b'{"password":"x"}'
    assert Cleaner().clean(payload) is payload
    assert cleaner(VALUE).clean(payload) is payload


@pytest.mark.parametrize(
    "spelled",
    [
        VALUE,
        repr(VALUE)[1:-1],
        json.dumps(VALUE)[1:-1],
        json.dumps({"nested": VALUE}),
        json.dumps({"nested": VALUE}, ensure_ascii=False),
        quote(VALUE, safe=""),
        VALUE.encode().hex(),
        *(base64.b64encode(b"x" * n + VALUE.encode() + b"yz").decode() for n in range(3)),
        *(base64.urlsafe_b64encode(b"x" * n + VALUE.encode()).decode() for n in range(3)),
    ],
)
def test_every_spelling_of_a_secret_is_taken_out(spelled):
    payload = encoded({"a": [1, f"see {spelled}!"], "b": True})
    cleaned = cleaner(VALUE).clean(payload)
    assert b"[secret S0]" in cleaned
    core = re.escape(base64.b64encode(VALUE.encode()).decode()[:8])
    assert not re.search(f"ss.{{0,4}}w|{core}|{VALUE.encode().hex()}", cleaned.decode())
    assert json.loads(cleaned)["b"] is True


def test_names_of_fields_and_numbers_are_searched_too():
    cleaned = cleaner("12345678", "secret-key").clean(b'{"secret-key": [12345678, 1.50], "n": 1e3}')
    assert cleaned == b'{"[secret S1]": ["[secret S0]", 1.50], "n": 1e3}'


def test_what_an_excerpt_cut_in_two_is_taken_out():
    made = cleaner("tok-abcdefghijklmnop")
    assert made.text("got 'tok-abcdefgh… and more") == "got '[secret S0]… and more"
    assert made.text("{'a': 'x...hijklmnop'}") == "{'a': 'x...[secret S0]'}"
    assert made.text("a tok-abc of another kind…") == "a tok-abc of another kind…"


def test_a_secret_that_cannot_be_told_from_other_text_is_refused():
    with pytest.raises(UsageError, match="'PIN' has 4 characters; at least 6"):
        Cleaner().learn("PIN", "4711")


def test_a_secret_called_like_the_mark_does_not_eat_it():
    made = cleaner("secret")
    once = made.text("my secret, your secret")
    assert once == "my [secret S0], your [secret S0]"
    assert made.text(once) == once


@given(JSON, SECRETS)
def test_a_known_secret_never_stays_and_cleaning_twice_is_cleaning_once(value, secret):
    made = cleaner(secret)
    payload = encoded({"before": value, "it": [secret, f"x{secret}y"], "after": value})
    cleaned = made.clean(payload)
    assert made.clean(cleaned) == cleaned
    texts = json.loads(cleaned)["it"]
    assert all("[secret S0]" in text for text in texts)


@given(JSON)
def test_what_holds_no_secret_keeps_its_bytes(value):
    payload = encoded(value)
    assert Cleaner(lambda _text, _field: ()).clean(payload) == payload


def test_a_finder_is_told_the_field_and_its_finds_are_replaced():
    seen = []

    def find(text, field):
        seen.append((text, field))
        return ["4111"] if field == "card" else []

    payload = encoded({"card": ["no 4111", {"other": "4111"}, "4111"], "n": "4111"})
    cleaned = json.loads(Cleaner(find).clean(payload))
    assert cleaned == {"card": ["no [redacted]", {"other": "4111"}, "[redacted]"], "n": "4111"}
    assert ("4111", "other") in seen


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        ("key sk-proj-abcdefghijklmnop1234", "", ["sk-proj-abcdefghijklmnop1234"]),
        ("AKIAIOSFODNN7EXAMPLE", "", ["AKIAIOSFODNN7EXAMPLE"]),
        ("Authorization: Bearer abcdefghijklmnopqrst", "", ["abcdefghijklmnopqrst"]),
        ("postgres://me:hunter2@db/x", "", ["hunter2"]),
        ("?api_key=abcd1234&x=1", "", ["abcd1234"]),
        ('{"password": "hunter2"}', "", ["hunter2"]),
        ('{\\"password\\": \\"hunter2\\"}', "", ["hunter2"]),
        ("hunter2", "password", ["hunter2"]),
        ("hello", "token", []),
        ("abcdefghijklmnopqrst", "token", ["abcdefghijklmnopqrst"]),
        ("the order-7 was refunded; 3 tokens, passwords are never asked for", "", []),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "", ["eyJhbGciOiJI.eyJzdWIiOiIx.c2ln"]),
    ],
)
def test_the_stock_finder_sees_credentials_and_little_else(text, field, found):
    assert find_credentials(text, field) == found
    assert hf.find_credentials is find_credentials


@pytest.mark.parametrize(
    ("recorded", "requested", "same"),
    [
        (b'{"a":"[redacted]"}', b'{"a":"sk-1234567890"}', True),
        (b'{"a":"[secret X]","b":"[redacted]"}', b'{"a":"1","b":"2"}', True),
        (b'{"a":"[secret X]","b":1}', b'{"a":"1","b":2}', False),
        (b'{"a":1}', b'{"a":1}', True),
        (b'{"a":1}', b'{"a":2}', False),
        (b'"x[redacted]x"', b'"x"', False),
    ],
)
def test_a_mark_stands_for_any_text(recorded, requested, same):
    assert same_but_marks(recorded, requested) is same
