"""What a value says in a few words, where its JSON would only show its outside.

An HTTP exchange begins with headers, and a model's answer with ids and counts: of an exchange the
body is what people want to see, of a model's answer what it says and which tools it calls, of a
request to one its last message. Everything else is shown as the JSON it is.
"""

import json
from typing import Any

__all__ = ["gist"]


def gist(value: Any) -> str:
    """Return what a decoded payload says, in one long line."""
    match value:
        case {"status": int(status), "headers": list(), "body": str(body)}:
            return f"{status} {_answer(body)}"
        case {"method": str(), "url": str(url), "headers": dict(), **rest}:
            return _request(rest) if rest else url
        case _:
            return _json(value)


def _answer(body: str) -> str:
    try:
        data = json.loads(body)
    except ValueError:
        return body
    match data:
        case {"choices": [{"message": {**message}}, *_]}:
            said = message.get("content") or ""
            calls = [_call(call.get("function")) for call in _dicts(message.get("tool_calls"))]
            return " ".join([*([str(said)] if said else []), *calls]) or body
        case {"role": "assistant", "content": [*parts]}:
            return " ".join(map(_part, _dicts(parts)))
        case _:
            return body


def _part(part: dict[str, Any]) -> str:
    if part.get("type") == "tool_use":
        return f"{part.get('name')}({_json(part.get('input'))})"
    return str(part.get("text", _json(part)))


def _call(function: Any) -> str:
    if not isinstance(function, dict):
        return "?"
    return f"{function.get('name')}({function.get('arguments')})"


def _request(rest: dict[Any, Any]) -> str:
    match rest:
        case {"json": {"messages": [*earlier, {"role": str(role), "content": content}]}}:
            before = f"{len(earlier)} messages, then " if earlier else ""
            return f"{before}{role}: {content if isinstance(content, str) else _json(content)}"
        case _:
            return _json(next(iter(rest.values())))


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values or () if isinstance(value, dict)]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
