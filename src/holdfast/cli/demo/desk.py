"""A support desk: one agent, seven tools, the stock OpenAI client, and not a word about crashes.

Each tool says what may happen twice (``effect=``); that is all. Whatever kills the process this
runs in, another one carries on from where it was, and the shop does everything once.
"""

import asyncio
import functools
import json
import os
from http import HTTPStatus
from typing import Any

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

import holdfast as hf
from holdfast.cli.demo.tickets import DESK_POLICY

__all__ = ["desk"]

MODEL = "gpt-4.1-mini"
KEY = os.environ.get("OPENAI_API_KEY", "none")
ALOUD = ("damaged", "late", "question")  # kinds of tickets whose answers are read as they come
SAID = {
    "role": True,
    "content": True,
    "tool_calls": {"__all__": {"id": True, "type": True, "function": {"name", "arguments"}}},
}  # what a provider takes back of its own message

shop = hf.async_http_client(base_url=os.environ.get("SHOP_URL", ""), timeout=30)


@hf.tool(effect="read")
async def lookup_order(order: str) -> Any:
    """What was ordered, with its status and its shipping fee."""
    return await get(f"/orders/{order}")


@hf.tool(effect="read")
async def lookup_payment(order: str) -> Any:
    """The payments for an order."""
    return await get("/payments", order=order)


async def find_refund(order: str) -> Any:
    """Did this refund happen? The shop keeps the reference that it was asked with."""
    found = await get("/refunds", order=order, reference=hf.idempotency_key())
    return found["refunds"][0] if found["refunds"] else hf.NOT_DONE


@hf.tool(effect="once", reconcile=find_refund)
async def refund(order: str, cents: int, reason: str) -> Any:
    """Pay money back for an order."""
    reference = hf.idempotency_key()
    return await post("/refunds", order=order, cents=cents, reason=reason, reference=reference)


@hf.tool(effect="idempotent")
async def ship_replacement(order: str) -> Any:
    """Send the goods of an order again."""
    return await post("/shipments", order=order, kind="replacement")


@hf.tool(effect="idempotent")
async def return_label(order: str) -> Any:
    """Issue a label for sending the goods back."""
    return await post("/shipments", order=order, kind="return_label")


@hf.tool(effect="once")
async def send_email(to: str, template: str, order: str) -> Any:
    """Send the customer an e-mail made from a template."""
    return await post("/emails", to=to, template=template, order=order)


@hf.tool(effect="transactional")
def note(ticket: str, text: str) -> str:
    """Keep a note about a ticket for colleagues."""
    database = hf.transaction()
    database.execute("CREATE TABLE IF NOT EXISTS notes (ticket TEXT, text TEXT)")
    database.execute("INSERT INTO notes VALUES (?, ?)", (ticket, text))
    return "noted"


@hf.agent(
    tools=[lookup_order, lookup_payment, refund, ship_replacement, return_label, send_email, note]
)
async def desk(ticket: dict[str, str]) -> str:
    """Handle one ticket; return what was done."""
    use = await settings()
    client = openai.AsyncOpenAI(
        api_key=KEY,
        base_url=use["url"],
        max_retries=8,
        http_client=hf.async_http_client(),
    )
    ask = functools.partial(client.chat.completions.create, model=use["model"], tools=hf.schemas())
    messages: list[Any] = [
        {"role": "system", "content": DESK_POLICY},
        {"role": "user", "content": json.dumps(ticket)},
    ]
    think = think_aloud if ticket["kind"] in ALOUD else think_quietly
    while True:
        said = await think(ask, messages)
        messages.append(said.model_dump(include=SAID, exclude_none=True))
        if not said.tool_calls:
            return str(said.content)
        messages += await asyncio.gather(*(hf.call(call) for call in said.tool_calls))


async def think_quietly(ask: Any, messages: list[Any]) -> Any:
    """Return the model's next message."""
    return (await ask(messages=messages)).choices[0].message


async def think_aloud(ask: Any, messages: list[Any]) -> Any:
    """Return the model's next message, and hand its words to whoever follows the run."""
    heard = ChatCompletionStreamState()
    async for chunk in await ask(messages=messages, stream=True):
        heard.handle_chunk(chunk)
        for choice in chunk.choices:
            if choice.delta.content:
                hf.emit(choice.delta.content)
    return heard.get_final_completion().choices[0].message


@hf.step
async def settings() -> dict[str, str]:
    """Which model to ask: a step, so that a replay elsewhere asks for the same."""
    return {
        "url": os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
        "model": os.environ.get("OPENAI_MODEL", MODEL),
    }


async def get(path: str, **query: str) -> Any:
    """Ask the shop."""
    return (await shop.get(path, params=query)).raise_for_status().json()


async def post(path: str, **body: Any) -> Any:
    """Have the shop do something."""
    key = {"Idempotency-Key": hf.idempotency_key()}
    answer = await shop.post(path, json=body, headers=key)
    if answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE:  # so nothing was done, says its manual
        raise hf.NotDone("the shop is too busy", retryable=True, response=answer)
    return answer.raise_for_status().json()
