"""The same desk as a plain tool-calling loop: what one writes without thinking of crashes.

``python -m holdfast.cli.demo.naive --shop URL --model URL --tickets FILE --done FILE`` works
through the tickets of FILE (`holdfast.cli.demo.tickets.write_messages`) one after the other, and
appends the id of each finished one to the file of ``--done``. Started again after a kill, it goes
on with the unfinished tickets, each from its start. Notes are JSON lines ``{"kind": "note",
"order", "details": {"ticket", "text"}}`` in the file of ``--done`` with ``.notes`` appended.

It is written with care, as such loops go: the OpenAI client retries by itself, a cut stream is
asked for again, reads are tried three times, a 503 that the shop sends before doing anything is
waited for, and shipments carry an idempotency key. What it cannot know is whether a deed happened
whose answer never came: it tells the model ``error: ...``, the model asks again, and after a kill
the whole conversation starts over. Nothing of holdfast is used.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai

from holdfast.cli.demo.tickets import DESK_POLICY, read_messages

__all__ = ["TOOLS", "Desk", "Shop", "ShopError", "main"]

MODEL = os.environ.get("OPENAI_MODEL", "desk-planner-1")
TRIES_MAX = 3
STREAM_TRIES_MAX = 5
REPLIES_MAX = 40
TIMEOUT_S = 10.0
PAUSE_S = 0.1


class ShopError(Exception):
    """The shop did not answer as it should; the text is what the model is told."""


class Shop:
    """The shop as seen by a client with a few retries."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def get(self, path: str) -> Any:
        """Read; harmless, so tried again whatever went wrong."""
        for _ in range(TRIES_MAX - 1):
            try:
                return self._send("GET", path)
            except ShopError:
                time.sleep(PAUSE_S)
        return self._send("GET", path)

    def post(self, path: str, body: Mapping[str, Any], key: str | None = None) -> Any:
        """Act; tried again only when the shop says that it was too busy to begin."""
        for _ in range(TRIES_MAX - 1):
            try:
                return self._send("POST", path, body, key)
            except ShopError as error:
                cause = error.__cause__
                if not isinstance(cause, urllib.error.HTTPError) or cause.code != 503:  # noqa: PLR2004 - a status
                    raise
                time.sleep(float(cause.headers.get("Retry-After", PAUSE_S)))
        return self._send("POST", path, body, key)

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, key: str | None = None
    ) -> Any:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - the URL is the demo's own shop
            self._url + path, data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - as above
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                reason = json.load(error)["error"]["message"]
            raise ShopError(f"error: HTTP {error.code}: {reason}") from error
        except TimeoutError as error:
            raise ShopError("error: the shop did not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            raise ShopError("error: the connection to the shop was lost") from error


class Desk:
    """One conversation per ticket, from the first message to the last."""

    def __init__(self, shop: Shop, client: openai.OpenAI, notes: Path) -> None:
        self._shop = shop
        self._client = client
        self._notes = notes

    def work(self, ticket: Mapping[str, str]) -> str:
        """Handle one ticket and return the model's summary.

        Raises:
            RuntimeError: The model does not come to an end.
        """
        messages: list[Any] = [
            {"role": "system", "content": DESK_POLICY},
            {"role": "user", "content": json.dumps(ticket, ensure_ascii=False)},
        ]
        for _ in range(REPLIES_MAX):
            said = self._ask(messages)
            messages.append(said)
            if "tool_calls" not in said:
                return str(said["content"])
            for call in said["tool_calls"]:
                answer = self._call(ticket, call["function"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": answer})
        raise RuntimeError(f"ticket {ticket['id']}: no end after {REPLIES_MAX} replies")

    def _ask(self, messages: list[Any]) -> dict[str, Any]:
        for _ in range(STREAM_TRIES_MAX):
            try:
                said = self._stream(messages)
            except openai.APIConnectionError:
                said = None
            if said is not None:
                return said
            time.sleep(PAUSE_S)
        raise RuntimeError(f"the model's stream was cut {STREAM_TRIES_MAX} times")

    def _stream(self, messages: list[Any]) -> dict[str, Any] | None:
        """Return the message that the deltas make up; None when the stream ended too early."""
        content, calls, finished = "", dict[int, dict[str, Any]](), False
        with self._client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS, stream=True
        ) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    content += choice.delta.content or ""
                    finished = finished or choice.finish_reason is not None
                    for piece in choice.delta.tool_calls or ():
                        _add(calls.setdefault(piece.index, {}), piece)
        if not finished:
            return None
        said: dict[str, Any] = {"role": "assistant", "content": content or None}
        if calls:
            said["tool_calls"] = [calls[index] for index in sorted(calls)]
        return said

    def _call(self, ticket: Mapping[str, str], function: Mapping[str, str]) -> str:
        arguments = json.loads(function["arguments"])
        tools: dict[str, Callable[[], Any]] = {
            "lookup_order": lambda: self._shop.get(f"/orders/{quote(arguments['order'])}"),
            "lookup_payment": lambda: self._shop.get(
                f"/payments?order={quote(arguments['order'])}"
            ),
            "refund": lambda: self._shop.post("/refunds", arguments),
            "ship_replacement": lambda: self._ship(arguments["order"], "replacement"),
            "return_label": lambda: self._ship(arguments["order"], "return_label"),
            "send_email": lambda: self._shop.post("/emails", arguments),
            "note": lambda: self._note(ticket, arguments),
        }
        try:
            return json.dumps(tools[function["name"]](), ensure_ascii=False)
        except ShopError as error:
            return str(error)

    def _ship(self, order: str, kind: str) -> Any:
        # A fresh key per call, as is usual: nothing outlives a kill from which the same key could
        # be made again.
        return self._shop.post("/shipments", {"order": order, "kind": kind}, str(uuid.uuid4()))

    def _note(self, ticket: Mapping[str, str], arguments: Mapping[str, Any]) -> dict[str, str]:
        line = {"kind": "note", "order": ticket["order"], "details": arguments}
        with self._notes.open("a", encoding="utf-8") as notes:
            notes.write(json.dumps(line, ensure_ascii=False) + "\n")
        return {"status": "noted"}


def _add(call: dict[str, Any], piece: Any) -> None:
    if piece.id:
        name = piece.function.name
        call |= {"id": piece.id, "type": "function", "function": {"name": name, "arguments": ""}}
    if piece.function is not None:
        call["function"]["arguments"] += piece.function.arguments or ""


def _tool(name: str, description: str, **parameters: str) -> Any:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
                "additionalProperties": False,
            },
        },
    }


TOOLS: list[Any] = [
    _tool(
        "lookup_order", "What was ordered, with its status and its shipping fee.", order="string"
    ),
    _tool("lookup_payment", "The payments for an order.", order="string"),
    _tool(
        "refund", "Pay money back for an order.", order="string", cents="integer", reason="string"
    ),
    _tool("ship_replacement", "Send the goods of an order again.", order="string"),
    _tool("return_label", "Issue a label for sending the goods back.", order="string"),
    _tool(
        "send_email",
        "Send the customer an e-mail made from a template.",
        to="string",
        template="string",
        order="string",
    ),
    _tool("note", "Keep a note about a ticket for colleagues.", ticket="string", text="string"),
]


def main() -> None:
    """Work through the unfinished tickets."""
    parser = argparse.ArgumentParser(description="The demo's desk as a plain tool-calling loop.")
    parser.add_argument("--shop", required=True, help="the shop's URL")
    parser.add_argument("--model", required=True, help="the model's URL, without /v1")
    parser.add_argument("--tickets", type=Path, required=True, help="JSON list of tickets")
    parser.add_argument("--done", type=Path, required=True, help="where finished ids are kept")
    given = parser.parse_args()
    done = set(given.done.read_text(encoding="utf-8").split()) if given.done.exists() else set()
    client = openai.OpenAI(
        base_url=f"{given.model.rstrip('/')}/v1", api_key=os.environ.get("OPENAI_API_KEY", "demo")
    )
    with client:
        desk = Desk(Shop(given.shop), client, given.done.with_name(f"{given.done.name}.notes"))
        for ticket in read_messages(given.tickets):
            if ticket["id"] in done:
                continue
            summary = desk.work(ticket)
            with given.done.open("a", encoding="utf-8") as finished:
                finished.write(ticket["id"] + "\n")
            sys.stdout.write(summary + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
