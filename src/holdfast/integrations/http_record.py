"""What of an HTTP request and its answer is written to the log, and what never is.

A request is recorded to be told apart and to be shown, not to be sent again: after a crash the
agent's code builds it anew. So its secrets stay out (headers but for a few, cookies, the userinfo
of the URL, parameters and fields that are called like a key), and so does what clients draw at
random (multipart boundaries, keys with a random UUID): it would be another request each time.

An answer is recorded as the agent gets it: status, headers, decoded body. Headers that speak of the
transfer are dropped, since the transfer is over, and cookies, since they are credentials.

Invariant: what is recorded of equal requests is equal bytes.
"""

import base64 as b64
import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from holdfast.core.limits import PAYLOAD_BYTES_MAX, STEP_NAME_CHARS_MAX
from holdfast.core.redaction import is_secret_field
from holdfast.errors import PayloadTooLarge

__all__ = [
    "Answer",
    "Binary",
    "Head",
    "Part",
    "answer_of",
    "has_random_key",
    "kept_headers",
    "part_bytes",
    "part_of",
    "provider_of",
    "raw_headers",
    "recorded_bytes",
    "recorded_request",
    "scrubbed",
    "step_name",
]

REDACTED = "REDACTED"

_REQUEST_HEADERS = frozenset(
    {"accept", "content-type", "idempotency-key", "if-match", "if-none-match", "range"}
)
"""What changes the meaning of a request; anything else may be a secret, or a client's version."""

_OPEN_HEADERS = _REQUEST_HEADERS | {
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "user-agent",
}
"""What may stand in the text of an error."""

_RESPONSE_HEADERS_DROPPED = frozenset(
    {"content-encoding", "content-length", "set-cookie", "set-cookie2", "transfer-encoding"}
)

_SECRET_PARAMETER = re.compile(
    r"(?:^|[^a-z])(?:api|access|auth|client|id|private|refresh|session)?"
    r"(?:auth|authorization|credentials?|jwt|key|passw(?:or)?d|pwd|secret|session|sig|signature"
    r"|token)(?:[^a-z]|$)"
)
MODEL_CHARS_MAX = 200
_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.IGNORECASE)
_RANDOM_KEY = re.compile(
    r"^stainless-|[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a request. ``body`` is its text, or base64 of what is not UTF-8."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""
    base64: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """The first part of a streamed answer."""

    status: int
    headers: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Binary:
    """A part that is not UTF-8."""

    base64: str


Part = Head | Binary | str


def step_name(request: Any) -> str:
    """Return the readable name of a request's step, such as ``POST api.openai.com/v1/models``."""
    path = request.url.raw_path.partition(b"?")[0].decode("ascii")
    return f"{request.method} {_host(request)}{path}"[:STEP_NAME_CHARS_MAX]


def provider_of(recorded: dict[str, Any], request: Any) -> str:
    """Return who limits how often a request is made, ``HOST MODEL``; empty if it names no model."""
    body = recorded.get("json")
    model = body.get("model") if isinstance(body, dict) else None
    named = isinstance(model, str) and 0 < len(model) <= MODEL_CHARS_MAX
    return f"{_host(request)} {model}" if named else ""


def recorded_request(request: Any) -> dict[str, Any]:
    """Return what is recorded of a request whose body has been read, as plain JSON data."""
    url, query = request.url, request.url.query.decode("ascii")
    path = url.raw_path.partition(b"?")[0].decode("ascii")
    headers = {k: v for k, v in sorted(request.headers.items()) if k in _REQUEST_HEADERS}
    if has_random_key(request):
        headers.pop("idempotency-key", None)
    content = request.content
    content_type = headers.get("content-type", "")
    if found := _BOUNDARY.search(content_type):
        content = content.replace(found[1].encode(), b"boundary")
        headers["content-type"] = content_type.replace(found[1], "boundary")
    return {
        "method": request.method,
        "url": f"{url.scheme}://{_host(request)}{path}" + (query and f"?{_safe_query(query)}"),
        "headers": headers,
        **_body(content, content_type.partition(";")[0].strip().lower()),
    }


def recorded_bytes(recorded: dict[str, Any]) -> bytes:
    """Encode what is recorded of a request.

    Raises:
        PayloadTooLarge: over PAYLOAD_BYTES_MAX.
    """
    # Half a surrogate pair is JSON but not UTF-8; what is only shown and compared may lose it.
    text = json.dumps(recorded, ensure_ascii=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")
    if len(data) > PAYLOAD_BYTES_MAX:
        raise PayloadTooLarge(
            f"{recorded['method']} {recorded['url']}: the request has {len(data)} bytes as JSON; at"
            f" most {PAYLOAD_BYTES_MAX} are possible (PAYLOAD_BYTES_MAX). Hint: send large data in"
            " a function under @hf.step."
        )
    return data


def has_random_key(request: Any) -> bool:
    """Tell whether a client has drawn an idempotency key at random.

    The next replay draws another one, so it names nothing. A key that the user made from what the
    deed is about holds no random UUID.
    """
    return _RANDOM_KEY.search(request.headers.get("idempotency-key", "")) is not None


def answer_of(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Answer:
    """Return the outcome that an answer is recorded as."""
    text = part_of(body)
    if isinstance(text, Binary):
        return Answer(status, kept_headers(headers), text.base64, base64=True)
    return Answer(status, kept_headers(headers), text)


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return the headers of an answer that are recorded."""
    decoded = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return [(name, value) for name, value in decoded if name not in _RESPONSE_HEADERS_DROPPED]


def raw_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return recorded headers as they came."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def part_of(data: bytes) -> Binary | str:
    """Return bytes as they are recorded: text if they are UTF-8, else base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return Binary(b64.b64encode(data).decode())


def part_bytes(part: Answer | Binary | str) -> bytes:
    """Return the bytes that were recorded."""
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, Binary):
        return b64.b64decode(part.base64)
    return b64.b64decode(part.body) if part.base64 else part.body.encode()


def scrubbed(text: str, request: Any) -> str:
    """Return the text of an error without the words of the request's secrets.

    h11, for one, quotes a header that it refuses.
    """
    secrets = [v for name, v in request.headers.items() if name not in _OPEN_HEADERS]
    secrets += [request.url.password or "", *_secret_values(request.url.query.decode("ascii"))]
    words = {word for secret in secrets for word in secret.split() if len(word) > 5}  # noqa: PLR2004 - shorter ones are words of the language
    for word in sorted(words, key=len, reverse=True):
        text = text.replace(word, REDACTED)
    return text


def _host(request: Any) -> str:
    """Return host and port, without the userinfo that may stand before them."""
    host: str = request.url.netloc.decode("ascii")
    return host


def _body(content: bytes, media_type: str) -> dict[str, Any]:
    if not content:
        return {}
    if media_type.endswith("json"):
        try:
            return {"json": json.loads(content, object_hook=_safe_object, parse_constant=str)}
        except (ValueError, RecursionError):
            pass
    text = part_of(content)
    if isinstance(text, Binary):
        return {"base64": text.base64}
    form = media_type == "application/x-www-form-urlencoded"
    return {"text": _safe_query(text) if form else text}


def _safe_query(query: str) -> str:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(
        f"{name}={REDACTED}" if _is_secret_parameter(name) else f"{name}{equals}{value}"
        for name, equals, value in pairs
    )


def _secret_values(query: str) -> list[str]:
    pairs = (pair.partition("=") for pair in query.split("&"))
    return [value for name, _, value in pairs if _is_secret_parameter(name)]


@functools.lru_cache(maxsize=1024)
def _is_secret_parameter(name: str) -> bool:
    return _SECRET_PARAMETER.search(_CAMEL.sub("_", name).lower()) is not None


_is_secret_field = functools.lru_cache(maxsize=1024)(is_secret_field)


def _safe_object(value: dict[str, Any]) -> dict[str, Any]:
    for name, part in value.items():
        if isinstance(part, str) and _is_secret_field(name):
            value[name] = REDACTED
    return value
