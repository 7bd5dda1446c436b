"""Agents of pydantic-ai and openai-agents, unmodified: all they are given is an HTTP client.

Run as ``python framework_agents.py FRAMEWORK STORE MODEL_URL SHOP_URL``; prints the run's result.
"""

import asyncio
import sys

import openai

import holdfast as hf

FRAMEWORK, STORE, MODEL_URL, SHOP_URL = sys.argv[1:]


async def act(deed, order):
    headers = {"idempotency-key": hf.idempotency_key()}
    async with hf.async_http_client() as client:
        answer = await client.post(f"{SHOP_URL}/{deed}", json={"order": order}, headers=headers)
    return answer.raise_for_status().json()["receipt"]


async def find_refund(order):
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


MODEL = openai.AsyncOpenAI(
    api_key="none", base_url=MODEL_URL, http_client=hf.async_http_client(), max_retries=0
)

if FRAMEWORK.startswith("pydantic-ai"):
    import pydantic_ai
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    chat = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=MODEL))
    desk = pydantic_ai.Agent(chat, tools=[refund, ship])

    @hf.agent
    async def whole(ticket: str) -> str:
        return (await desk.run(ticket)).output

    @hf.agent
    async def streamed(ticket: str) -> str:
        async with desk.run_stream(ticket) as result:
            return "".join([piece async for piece in result.stream_text(delta=True)])

else:
    import agents

    agents.set_tracing_disabled(True)
    desk = agents.Agent(
        name="desk",
        instructions="Help.",
        model=agents.OpenAIChatCompletionsModel("m", MODEL),
        tools=[agents.function_tool(refund), agents.function_tool(ship)],
    )

    @hf.agent
    async def whole(ticket: str) -> str:
        return (await agents.Runner.run(desk, ticket)).final_output

    @hf.agent
    async def streamed(ticket: str) -> str:
        result = agents.Runner.run_streamed(desk, ticket)
        async for _ in result.stream_events():
            pass
        return result.final_output


async def main():
    agent = streamed if FRAMEWORK.endswith("streamed") else whole
    async with hf.App(STORE, agents=[agent]) as app:
        run = await app.client.start(agent, "help me", id="ticket-7")
        # A short lease: whoever carries on waits for the dead process's to end.
        settings = hf.WorkerSettings(only_run=run, lease_s=1.0, poll_s=0.1)
        await app.worker(settings).run(until_idle=True)
        sys.stdout.write(await app.client.result(run))


if __name__ == "__main__":
    asyncio.run(main())
