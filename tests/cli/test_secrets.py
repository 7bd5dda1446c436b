"""Commands know secrets by name, and print nothing of what was taken out."""

import json

VALUE = "hunter2-of-the-shop"

CODE = """
import holdfast as hf

@hf.step
async def lookup(order: str, key: hf.Secret[str]) -> str:
    if order == "bad":
        raise ValueError(f"refused {key.value}")
    return f"found {order} with {key.value}"

@hf.agent
async def find(order: str, key: hf.Secret[str]) -> str:
    return await lookup(order, key)

@hf.agent
async def echo(said: dict[str, str]) -> dict[str, str]:
    return said | {"sk": await hf.receive("more", str)}
"""


def test_a_command_line_resolves_secrets_from_the_environment_and_prints_none(
    cli, desk, monkeypatch
):
    (desk / "shop.py").write_text(CODE)
    monkeypatch.setenv("HOLDFAST_SECRET_SHOP_KEY", VALUE)
    outputs = []
    for order in ("good", "bad"):
        given = json.dumps({"order": order, "key": {"$secret": "SHOP_KEY"}})
        for command in (
            ("run", "shop.py:find", "--id", order, "--input", given),
            ("show", order),
            ("events", order, "--json"),
            ("state", order),
            ("replay", order),
            ("why", order),
        ):
            said = cli(*command)
            outputs += [said.out, said.err]
    everything = "".join(outputs)
    assert VALUE not in everything
    assert "found good with [secret SHOP_KEY]" in everything
    assert "refused [secret SHOP_KEY]" in everything


def test_what_looks_like_a_credential_is_taken_out_if_the_environment_says_so(
    cli, desk, monkeypatch
):
    (desk / "shop.py").write_text(CODE)
    monkeypatch.setenv("HOLDFAST_REDACT", "credentials")
    given = json.dumps({"password": VALUE, "name": "me"})
    assert cli("run", "shop.py:echo", "--id", "r", "--input", given).code == 4
    wrong = cli("run", "shop.py:echo", "--input", json.dumps([f"password={VALUE}"]))
    assert wrong.code == 2
    assert VALUE not in wrong.err
    assert cli("message", "r", '"Bearer 0123456789abcdefghij"', "--topic", "more").code == 0
    said = cli("run", "shop.py:echo", "--id", "r")
    assert said.json == {"password": "[redacted]", "name": "me", "sk": "Bearer [redacted]"}
    monkeypatch.setenv("HOLDFAST_REDACT", "all")
    said = cli("ls")
    assert said.code == 2
    assert "HOLDFAST_REDACT='all': expected 'credentials' or nothing" in said.err
