"""Agents of pydantic-ai and openai-agents, unmodified: all they are given is an HTTP client.

Run as ``python framework_agents.py FRAMEWORK STORE MODEL_URL SHOP_URL``; prints the run's result.
"""

import sys

import agents
import openai
import pydantic_ai
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

import holdfast as hf

FRAMEWORK, STORE, MODEL_URL, SHOP_URL = sys.argv[1:]


async def act(deed: str, order: str) -> str:
    """Have the shop do something."""
    headers = {"idempotency-key": hf.idempotency_key()}
    async with hf.async_http_client() as client:
        answer = await client.post(f"{SHOP_URL}/{deed}", json={"order": order}, headers=headers)
    return answer.raise_for_status().json()["receipt"]


async def find_refund(order: str) -> str | object:
    """Ask the shop whether it has paid back."""
    async with hf.async_http_client() as client:
        answer = await client.get(f"{SHOP_URL}/refund", params={"order": order})
    return answer.json()["receipt"] or hf.NOT_DONE


@hf.tool(effect="once", reconcile=find_refund)
async def refund(order: str) -> str:
    """Pay an order back."""
    return await act("refund", order)


@hf.tool(effect="idempotent")
async def ship(order: str) -> str:
    """Ship an order."""
    return await act("ship", order)


def model() -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key="none", base_url=MODEL_URL, http_client=hf.async_http_client()
    )


def pydantic_agent() -> pydantic_ai.Agent:
    provider = OpenAIProvider(openai_client=model())
    return pydantic_ai.Agent(OpenAIChatModel("m", provider=provider), tools=[refund, ship])


def openai_agent() -> agents.Agent:
    agents.set_tracing_disabled(True)
    return agents.Agent(
        name="desk",
        instructions="Help.",
        model=agents.OpenAIChatCompletionsModel("m", model()),
        tools=[agents.function_tool(refund), agents.function_tool(ship)],
    )


@hf.agent(name="pydantic-ai")
async def with_pydantic_ai(ticket: str) -> str:
    return (await pydantic_agent().run(ticket)).output


@hf.agent(name="pydantic-ai-streamed")
async def with_pydantic_ai_streamed(ticket: str) -> str:
    async with pydantic_agent().run_stream(ticket) as result:
        return "".join([piece async for piece in result.stream_text(delta=True)])


@hf.agent(name="openai-agents")
async def with_openai_agents(ticket: str) -> str:
    return (await agents.Runner.run(openai_agent(), ticket)).final_output


@hf.agent(name="openai-agents-streamed")
async def with_openai_agents_streamed(ticket: str) -> str:
    result = agents.Runner.run_streamed(openai_agent(), ticket)
    async for _ in result.stream_events():
        pass
    return result.final_output


FRAMEWORKS = {
    "pydantic-ai": with_pydantic_ai,
    "pydantic-ai-streamed": with_pydantic_ai_streamed,
    "openai-agents": with_openai_agents,
    "openai-agents-streamed": with_openai_agents_streamed,
}

if __name__ == "__main__":
    print(hf.run(FRAMEWORKS[FRAMEWORK], "help me", id="ticket-7", store=STORE))
