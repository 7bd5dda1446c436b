"""What is recorded of requests and streams, on its own.

*Goal*: names are readable, secrets and chance stay out, bytes come back as they were, and an end
marker is seen however its bytes arrive. *Method*: real requests of both libraries, and streams cut
at every place (Hypothesis).
"""

import importlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.limits import STEP_NAME_CHARS_MAX
from holdfast.integrations import http_record as record
from holdfast.integrations.http_stream import EndWatch, Pieces


@pytest.fixture(params=["httpx2", "httpx"])
def lib(request):
    return importlib.import_module(request.param)


def recorded(request):
    request.read()
    return record.recorded_request(request)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1/chat/completions?x=1", "api.openai.com/v1/chat/completions"),
        ("http://ann:pw@localhost:8000/a%23b", "localhost:8000/a%23b"),
        ("https://[::1]:443/ü", "[::1]/%C3%BC"),
        ("https://example.org", "example.org/"),
    ],
)
def test_a_step_is_named_by_method_host_and_path(lib, url, name):
    assert record.step_name(lib.Request("get", url)) == f"GET {name}"


def test_a_long_path_gives_a_name_that_fits(lib):
    name = record.step_name(lib.Request("PUT", "https://example.org/" + "x" * 1000))
    assert name.startswith("PUT example.org/xxx")
    assert len(name) == STEP_NAME_CHARS_MAX


@pytest.mark.parametrize(
    "secret",
    [
        *("key", "token", "api_key", "apiKey", "api-key", "access_token", "accessToken", "auth"),
        *("client_secret", "password", "sig", "X-Amz-Signature", "X-Amz-Security-Token", "apikey"),
    ],
)
def test_parameters_that_look_like_a_key_are_redacted(lib, secret):
    request = lib.Request("GET", "https://example.org/", params={"a": "1", secret: "x y", "b": "2"})
    assert recorded(request)["url"] == f"https://example.org/?a=1&{secret}=REDACTED&b=2"
    form = lib.Request("POST", "https://example.org/", data={secret: "x y", "b": "2"})
    assert recorded(form)["text"] == f"{secret}=REDACTED&b=2"


@pytest.mark.parametrize("name", ["page", "monkey", "author", "design", "max_tokens", "passage"])
def test_other_parameters_are_shown(lib, name):
    url = f"https://example.org/?{name}=1"
    assert recorded(lib.Request("GET", url))["url"] == url


def test_only_headers_that_change_the_meaning_are_recorded(lib):
    headers = {
        "Accept": "text/plain",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "If-Match": '"7"',
        "OpenAI-Organization": "org",
        "X-Api-Key": "x",
    }
    request = lib.Request("GET", "https://example.org/", headers=headers)
    assert recorded(request)["headers"] == {"accept": "text/plain", "if-match": '"7"'}


@pytest.mark.parametrize(
    ("content", "kind", "wanted"),
    [
        (b'{"a": [1, 2.5, null]}', "application/json", {"json": {"a": [1, 2.5, None]}}),
        (b'{"apiKey": "x", "n": {"password": {"type": "string"}}}', "application/vnd.x+json",
         {"json": {"apiKey": "REDACTED", "n": {"password": {"type": "string"}}}}),
        (b"{not json", "application/json", {"text": "{not json"}),
        (b"[" * 100_000, "application/json", {"text": "[" * 100_000}),
        ("grüße".encode(), "text/plain", {"text": "grüße"}),
        (b"\xff\x00", "application/octet-stream", {"base64": "/wA="}),
        (b"", "application/json", {}),
    ],
)  # fmt: skip
def test_a_body_is_recorded_as_what_it_is(lib, content, kind, wanted):
    request = lib.Request("POST", "https://x.org/", content=content, headers={"content-type": kind})
    found = recorded(request)
    assert {k: v for k, v in found.items() if k in ("json", "text", "base64")} == wanted
    assert json.loads(record.recorded_bytes(found)) == found


def test_json_that_is_not_unicode_can_be_recorded_too(lib):
    headers = {"content-type": "application/json"}
    request = lib.Request("POST", "https://x.org/", content=b'["\\ud800", NaN]', headers=headers)
    assert json.loads(record.recorded_bytes(recorded(request)))["json"] == ["?", "NaN"]


def test_multipart_bodies_with_other_boundaries_are_recorded_alike(lib):
    def upload(data):
        files = {"file": ("a.bin", data, "application/octet-stream")}
        return recorded(lib.Request("POST", "https://x.org/", files=files, data={"a": "b"}))

    assert upload(b"1") == upload(b"1")
    assert upload(b"\xff") == upload(b"\xff")
    assert upload(b"1") != upload(b"2")
    assert upload(b"1")["headers"]["content-type"] == "multipart/form-data; boundary=boundary"


def test_a_random_idempotency_key_is_not_recorded_and_the_users_is(lib):
    def key(value):
        headers = {"idempotency-key": value}
        return recorded(lib.Request("POST", "https://x.org/", headers=headers))["headers"]

    assert key("order-7") == {"idempotency-key": "order-7"}
    assert key("refund 2f1a") == {"idempotency-key": "refund 2f1a"}
    assert key("x-0c7f1e3c-7d43-4d5e-9f0a-1c2b3d4e5f60") == {}
    assert key("stainless-python-retry-abc") == {}


def test_the_text_of_an_error_loses_the_words_of_the_secrets(lib):
    headers = {"authorization": "Bearer sk-12345678\n", "user-agent": "python/3"}
    url = "http://ann:hunter22@example.org/?token=tok-12345"
    request = lib.Request("GET", url, headers=headers)
    text = "python/3 at example.org sent b'Bearer sk-12345678\\n' by hunter22 with tok-12345"
    assert record.scrubbed(text, request) == (
        "python/3 at example.org sent b'REDACTED REDACTED\\n' by REDACTED with REDACTED"
    )


@given(st.binary())
def test_an_answer_comes_back_as_its_bytes(body):
    answer = record.answer_of(200, [], body)
    assert record.part_bytes(answer) == body


@given(st.lists(st.tuples(st.sampled_from([b"x-a", b"X-B"]), st.binary(max_size=5))))
def test_headers_come_back_in_order_with_every_byte(headers):
    kept = record.kept_headers([*headers, (b"Set-Cookie", b"s"), (b"Content-Length", b"1")])
    assert record.raw_headers(kept) == [(name.lower(), value) for name, value in headers]


def chunks(data, cuts):
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=6)


@given(st.one_of(st.binary(), st.text().map(str.encode)), CUTS)
def test_pieces_are_the_bytes_and_text_is_never_cut_in_a_character(data, cuts):
    pieces = Pieces()
    parts = [part for chunk in chunks(data, cuts) for part in pieces.feed(chunk)]
    parts += pieces.end()
    assert b"".join(record.part_bytes(part) for part in parts) == data
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    assert all(isinstance(part, str) for part in parts)


CHAT = b'data: {"content": "[DONE]"}\n\n'
STREAMS = [
    ("/v1/chat/completions", CHAT, b"data: [DONE]\n\n"),
    ("/openai/v1/completions/", CHAT, b"data:[DONE]\r\n\r\n"),
    ("/v1/chat/completions", CHAT, b"data: [DONE]"),
    ("/v1/messages", b"event: ping\ndata: message_stop\n\n", b"event: message_stop\ndata: {}\n\n"),
    ("/v1/messages", b"", b"event: error\r\ndata: {}\r\n\r\n"),
    ("/v1/responses", b'data: {"type": "response.created"}\n\n', b'data: {"type":"error"}\n\n'),
    ("/v1/responses", b'data: {"text": "response.completed"}\n\n',
     b'event: response.completed\ndata: {"type":"response.completed"}\n\n'),
    ("/v1/responses", b"data: response.failed\n\n", b'data: {"type":"response.failed"}\n\n'),
]  # fmt: skip


@pytest.mark.parametrize(("path", "before", "marker"), STREAMS)
@given(cuts=CUTS)
def test_an_end_marker_is_seen_however_it_arrives(path, before, marker, cuts):
    watch, fed = EndWatch(path), 0
    for chunk in chunks(before + marker, cuts):
        watch.feed(chunk)
        fed += len(chunk)
        assert not (watch.seen and fed <= len(before))
    assert watch.seen
    assert watch.missing == ""


@pytest.mark.parametrize(("path", "before", "marker"), STREAMS)
def test_a_stream_cut_before_its_end_marker_is_whole_lacks_it(path, before, marker):
    for end in range(len(before) + len(marker.rstrip()) - 1):
        watch = EndWatch(path)
        watch.feed((before + marker)[:end])
        assert watch.missing


def test_where_no_marker_is_known_none_is_missed():
    watch = EndWatch("/feed")
    watch.feed(b"data: 1\n\n")
    assert not watch.seen
    assert not watch.missing
