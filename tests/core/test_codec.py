"""What crosses the log comes back as it was, or fails at once with the path of the bad part.

*Goal*: ``decode(encode(x)) == x`` for every annotated type; where the annotation says nothing, only
what JSON can tell apart passes. *Method*: Hypothesis makes values for each of many types; the rest
are single cases, by their error messages.
"""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import uuid
from typing import Any, Literal, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from holdfast.core import codec as codec_module
from holdfast.core.codec import ArgsCodec, Codec, path_text
from holdfast.errors import CodecError, PayloadTooLarge


class Colour(enum.Enum):
    RED, GREEN = "red", 2


class Item(pydantic.BaseModel):
    name: str
    cents: int
    when: dt.datetime | None = None
    tags: list[str] = []


@dataclasses.dataclass
class Basket:
    items: list[Item]
    note: str = ""


@dataclasses.dataclass
class Raw:
    body: bytes
    rate: float = 0


class Sealed(pydantic.BaseModel):
    raw: bytes


class Point(NamedTuple):
    x: int
    raw: bytes


class Order(TypedDict):
    id: str
    basket: Basket


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WHEN = st.datetimes() | st.datetimes(timezones=st.just(dt.UTC))
ITEM = st.builds(Item, name=TEXT, cents=st.integers(), when=st.none() | WHEN, tags=st.lists(TEXT))
BASKET = st.builds(Basket, items=st.lists(ITEM, max_size=3), note=TEXT)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(TEXT, part, max_size=3),
    max_leaves=10,
)
VALUES = {
    "int": (int, st.integers()),
    "float": (float, st.floats(allow_nan=False)),
    "bool": (bool, st.booleans()),
    "str": (str, TEXT),
    "bytes": (bytes, st.binary()),
    "None": (None, st.none()),
    "Any": (Any, JSON),
    "datetime": (dt.datetime, WHEN),
    "date": (dt.date, st.dates()),
    "timedelta": (dt.timedelta, st.timedeltas(dt.timedelta(-9000), dt.timedelta(9000))),
    "Decimal": (decimal.Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "UUID": (uuid.UUID, st.uuids()),
    "enum": (Colour, st.sampled_from(Colour)),
    "Literal": (Literal["a", 1], st.sampled_from(["a", 1])),
    "list[bytes]": (list[bytes], st.lists(st.binary())),
    "dict[str, int]": (dict[str, int], st.dictionaries(TEXT, st.integers())),
    "dict[int, str]": (dict[int, str], st.dictionaries(st.integers(), TEXT)),
    "tuple": (tuple[int, str], st.tuples(st.integers(), TEXT)),
    "tuple of any length": (tuple[int, ...], st.lists(st.integers()).map(tuple)),
    "set": (set[str], st.sets(TEXT)),
    "frozenset": (frozenset[int], st.frozensets(st.integers())),
    "Optional": (str | None, st.none() | TEXT),
    "bytes or int": (bytes | int, st.binary() | st.integers()),
    "model": (Item, ITEM),
    "dataclass": (Basket, BASKET),
    "dataclass of bytes": (Raw, st.builds(Raw, st.binary(), st.floats(allow_nan=False))),
    "NamedTuple": (Point, st.builds(Point, st.integers(), st.binary())),
    "TypedDict": (Order, st.fixed_dictionaries({"id": TEXT, "basket": BASKET})),
    "model or dataclass": (list[Item | Basket], st.lists(ITEM | BASKET, max_size=3)),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_comes_back_as_it_was(kind):
    annotation, values = VALUES[kind]
    codec = Codec(annotation, "x")

    @given(values)
    def comes_back(value):
        data = codec.encode(value)
        json.loads(data)
        decoded = codec.decode(data)
        assert decoded == value
        assert type(decoded) is type(value)

    comes_back()


def test_not_a_number_comes_back_where_it_is_annotated():
    assert math.isnan(Codec(float, "x").decode(Codec(float, "x").encode(math.nan)))
    assert Codec(list[float], "x").decode(b'["NaN","-Infinity"]')[1] == -math.inf


class Loose(pydantic.BaseModel):
    when: Any = None
    rate: float = 0


SELF: list[Any] = []
SELF.append(SELF)

REFUSED = {
    "a tuple in Any": (Any, {"a": [0, (1, 2)]}, "$.a[1]", "(1, 2) (tuple) would come back"),
    "a tuple in list": (list, [(1,)], "$[0]", "(1,) (tuple)"),
    "a tuple in dict": (dict, {"a": (1,)}, "$.a", "(1,) (tuple)"),
    "bytes in Any": (Any, [b"x"], "$[0]", "b'x' (bytes)"),
    "a datetime in Any": (Any, {"at": dt.datetime(2026, 1, 1)}, "$.at", "datetime"),  # noqa: DTZ001 - naive is the case
    "a number as a key in Any": (Any, {1: 2}, "$", "dict"),
    "a model in Any": (dict[str, Any], {"m": Item(name="a", cents=1)}, "$.m", "Item"),
    "not a number in Any": (Any, {"a": [1.5, math.nan]}, "$.a[1]", "nan (float)"),
    "not a number in a model": (Loose, Loose(rate=math.nan), "$.rate", "valid number"),
    "an infinite Decimal": (decimal.Decimal, decimal.Decimal("Infinity"), "$", "finite"),
    "a str for an int": (list[int], [1, "x"], "$[1]", "valid integer, not 'x'"),
    "nothing for an int": (int, None, "$", "valid integer, not None"),
    "nothing for a str": (str, None, "$", "valid string, not None"),
    "nothing in a list": (list[bytes], [b"", None], "$[1]", "not None"),
    "nothing in a dict": (dict[str, int], {"a": None}, "$.a", "not None"),
    "a part of a model": (list[Item], [Item(name="a", cents=1), 3], "$[1]", "not 3"),
    "an int for a bool": (bool, 1, "$", "valid boolean"),
    "an object": (Any, {"items": [0, object()]}, "$.items[1]", "object cannot be written"),
    "an object in a model": (list[Loose], [Loose(when=object())], "$[0].when", "object cannot"),
    "bytes that are not text in a model": (Sealed, Sealed(raw=b"\xff"), "$.raw", "bytes cannot"),
    "half of a surrogate": (Any, ["\ud800"], "$[0]", "str cannot be written"),
    "a tuple as a key": (dict[tuple[int, int], str], {(1, 2): "a"}, "$", "1,2"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_survive_is_refused_with_its_path(kind):
    annotation, value, path, text = REFUSED[kind]
    with pytest.raises(CodecError) as caught:
        Codec(annotation, "the result of step 'look'").encode(value)
    assert str(caught.value).startswith(f"the result of step 'look', {path}")
    assert text in str(caught.value)


def test_a_value_that_contains_itself_is_refused():
    with pytest.raises(CodecError, match="contains itself"):
        Codec(Any, "x").encode(SELF)


@pytest.mark.parametrize(
    ("annotation", "data", "path"),
    [
        (int, b'"x"', "$"),
        (list[Item], b'[{"name":"a","cents":1},{"name":"a","cents":"?"}]', "$[1].cents"),
        (Item, b"{}", "$.name"),
        (dict[str, int], b'{"a":1', "$"),
        (int, b"", "$"),
    ],
)
def test_bytes_of_something_else_are_refused_with_their_path(annotation, data, path):
    with pytest.raises(CodecError) as caught:
        Codec(annotation, "the input").decode(data)
    assert str(caught.value).startswith(f"the input, {path}:")
    assert caught.value.path == path


def test_a_long_value_is_not_repeated_in_the_message():
    with pytest.raises(CodecError) as caught:
        Codec(int, "the input").decode(json.dumps("x" * 10_000).encode())
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("annotation", [type("Odd", (), {}), ValueError])
def test_a_type_that_has_no_json_is_refused_and_named(annotation):
    with pytest.raises(CodecError, match="the state of agent 'a'"):
        Codec(annotation, "the state of agent 'a'").encode(1)


def test_ten_megabytes_pass():
    value = {"text": "ä" * 5_000_000}
    assert Codec(dict[str, str], "x").decode(Codec(dict[str, str], "x").encode(value)) == value


def test_over_the_limit_names_value_and_limit(monkeypatch):
    monkeypatch.setattr(codec_module, "PAYLOAD_BYTES_MAX", 100)
    assert Codec(str, "x").encode("a" * 98)
    with pytest.raises(PayloadTooLarge) as caught:
        Codec(str, "the result of step 'read'").encode("a" * 99)
    assert str(caught.value).startswith("the result of step 'read' has 101 bytes")
    assert "at most 100" in str(caught.value)
    assert "PAYLOAD_BYTES_MAX" in str(caught.value)


def test_a_path_reads_like_code():
    assert path_text(("items", 3, "when")) == "$.items[3].when"


# Arguments


def every_kind(a: int, b: str = "b", *rest: float, flag: bool = False, **more: bytes): ...


def test_arguments_come_back_by_name_with_their_defaults():
    args = ArgsCodec(every_kind, "step 'f'")
    data = args.encode(args.bind((1, "x", 2.5, 3.5), {"flag": True, "z": b"\xff"}))
    assert json.loads(data) == {
        "a": 1,
        "b": "x",
        "rest": [2.5, 3.5],
        "flag": True,
        "more": {"z": "_w=="},
    }
    assert args.spread(args.decode(data)) == ([1, "x", 2.5, 3.5], {"flag": True, "z": b"\xff"})
    assert args.spread(args.decode(b'{"a":5}')) == ([5, "b"], {"flag": False})
    assert args.bind((5,), {}) == {"a": 5, "b": "b", "rest": (), "flag": False, "more": {}}


@given(st.integers(), TEXT, st.lists(st.floats(allow_nan=False), max_size=3), st.booleans())
def test_any_arguments_survive(a, b, rest, flag):
    args = ArgsCodec(every_kind, "step 'f'")
    bound = args.bind((a, b, *rest), {"flag": flag})
    assert args.spread(args.decode(args.encode(bound))) == ([a, b, *rest], {"flag": flag})


def test_how_arguments_are_given_does_not_change_their_bytes():
    args = ArgsCodec(plain, "step 'f'")
    ways = [((1, "x"), {}), ((1,), {"b": "x"}), ((), {"a": 1, "b": "x"}), ((), {"b": "x", "a": 1})]
    assert {args.encode(args.bind(*way)) for way in ways} == {b'{"a":1,"b":"x"}'}


def binary(raw: bytes, many: list[bytes], order: Order, *rest: bytes, **more: bytes): ...


@given(st.binary(), st.lists(st.binary(), max_size=3))
def test_bytes_survive_wherever_they_stand_in_arguments(raw, many):
    args = ArgsCodec(binary, "step 'f'")
    order = {"id": "1", "basket": Basket([Item(name="a", cents=1)], "n")}
    bound = args.bind((raw, many, order, *many), {"more": raw})
    assert args.decode(args.encode(bound)) == bound


class Parcel(TypedDict):
    raw: bytes


class Letter(TypedDict):
    __pydantic_config__ = pydantic.ConfigDict(ser_json_bytes="hex", val_json_bytes="hex")
    raw: bytes


@pytest.mark.parametrize(
    ("kind", "data"), [(Parcel, b'{"raw":"YWI="}'), (Letter, b'{"raw":"6162"}')]
)
def test_a_typed_dict_is_written_and_read_by_its_own_configuration_or_by_ours(kind, data):
    codec = Codec(kind, "x")
    assert codec.encode({"raw": b"ab"}) == data
    assert codec.decode(data) == {"raw": b"ab"}


def plain(a: int, b: str = "b"): ...


@pytest.mark.parametrize(
    ("given_args", "kwargs"),
    [((), {}), ((1, "b", 2), {}), ((1,), {"a": 1}), ((1,), {"c": 2}), ((), {"b": "x"})],
)
def test_arguments_that_do_not_fit_are_a_type_error_that_names_the_step(given_args, kwargs):
    with pytest.raises(TypeError, match="step 'plain'"):
        ArgsCodec(plain, "step 'plain'").bind(given_args, kwargs)


def test_unknown_and_missing_arguments_are_refused_by_name():
    args = ArgsCodec(plain, "tool 'plain'")
    with pytest.raises(CodecError, match=r"\$\.c: Extra inputs"):
        args.decode(b'{"a":1,"c":2}')
    with pytest.raises(CodecError, match=r"\$\.a: Field required"):
        args.decode(b"{}")


def open_ended(a, b: Any = None, c: Raw | None = None): ...


def test_an_argument_without_annotation_is_held_against_what_json_can_say():
    args = ArgsCodec(open_ended, "step 'f'")
    assert (
        args.encode(args.bind(([1, {"a": None}],), {})) == b'{"a":[1,{"a":null}],"b":null,"c":null}'
    )
    with pytest.raises(CodecError, match=r"\$\.a\[0\]: \(1,\) \(tuple\)"):
        args.encode(args.bind(([(1,)],), {}))
    with pytest.raises(CodecError, match=r"\$\.b: b'x' \(bytes\)"):
        args.encode(args.bind((1, b"x"), {}))


class Named:
    """A type of no value to JSON."""


def unreadable(a: "NoSuchType"): ...  # noqa: F821 - that it does not exist is the case
def not_json(a: Named): ...


@pytest.mark.parametrize("fn", [unreadable, not_json])
def test_an_annotation_that_cannot_be_read_names_the_step(fn):
    with pytest.raises(CodecError, match="step 'f'"):
        ArgsCodec(fn, "step 'f'").encode({"a": 1})
