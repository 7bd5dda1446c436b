"""The demo's shop, model and naive desk do what the demo relies on.

*Goal*: the world around the desk is believable and fair: a deed and its ledger row are one, each
fault is what its name says, a hold opens the window between deed and answer, the same seed gives
the same faults, and the plain loop is right as long as nothing goes wrong. *Method*: pure parts are
called; servers run as processes of their own on loopback ports, asked by the standard library's
HTTP client and by the real openai client. Faults are not waited for: the draw is a function, so a
test computes which order or conversation meets the fault that it wants.
"""

import ast
import http.client
import itertools
import json
import re
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest

from holdfast.cli.demo import books, faults, holds, ledger, model, planner, shop, tickets, wire
from holdfast.cli.demo.ledger import Action, Deed, Row

SEED = 7
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in (
        *("lookup_order", "lookup_payment", "refund", "ship_replacement"),
        *("return_label", "send_email", "note"),
    )
]
PAST = {"kind": "refund", "order": "A-7001"}


# Processes.


class Server:
    """One server process, and requests to it."""

    def __init__(self, process):
        self.process = process
        self.port = json.loads(process.stdout.readline())["port"]
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None, headers=()):
        """Return status, headers and JSON of one answer; a lost connection raises."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json", **dict(headers)},
            )
            answer = connection.getresponse()
            with answer:
                return answer.status, answer.headers, json.loads(answer.read())
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return body

    def ledger(self):
        return self.get("/ledger")["deeds"]

    def deeds(self, kind, order):
        return [deed for deed in self.ledger() if (deed["kind"], deed["order"]) == (kind, order)]


@pytest.fixture
def start(tmp_path):
    """Start servers; each must end cleanly and have said nothing on stderr."""
    running = []

    def start_one(name, *arguments, seed=SEED, faults="on"):
        extra = [f"--db={tmp_path / f'shop{len(running)}.db'}"] if name == "shop" else []
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"holdfast.cli.demo.{name}"),
                *(f"--seed={seed}", f"--faults={faults}", *extra, *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return Server(process)

    yield start_one
    for process in running:
        process.terminate()
        _, said = process.communicate(timeout=10)
        assert (process.returncode, said) == (0, "")


@pytest.fixture
def calm_shop(start):
    return start("shop", faults="off")


def order_that_meets(fault, kind, chances=shop.ACTION_CHANCES):
    """Return an order whose first request of this kind meets the fault."""
    for ticket in tickets.load_tickets(200):
        if faults.draw(SEED, f"{kind} {ticket.order}", 1, chances).name == fault:
            return ticket.order
    raise AssertionError(f"no order meets {fault}")


def refund_body(order, **more):
    return {"order": order, "cents": 100, "reason": "test", **more}


def ship_body(order, kind="replacement"):
    return {"order": order, "kind": kind}


# The comparison.

REFUND = Action("refund", "A-1", {"cents": 500})
LABEL = Action("return_label", "A-1", {})


def deed(action, **details):
    return Deed(action.kind, action.order, {**action.details, **details})


@pytest.mark.parametrize(
    ("done", "row"),
    [
        ([deed(REFUND, reason="any"), deed(LABEL)], Row("T", 2, 2, 0, 0)),
        ([], Row("T", 2, 0, 0, 2)),
        ([deed(LABEL)] * 3, Row("T", 2, 1, 2, 1)),
        ([deed(REFUND), deed(LABEL), deed(REFUND, cents=499)], Row("T", 2, 2, 0, 0, stray=1)),
        ([deed(REFUND, cents=499), deed(LABEL)], Row("T", 2, 1, 0, 1, stray=1)),
    ],
    ids=["once", "nothing", "thrice", "another amount too", "another amount instead"],
)
def test_comparison_counts_every_deed_once(done, row):
    assert ledger.compare({"T": [REFUND, LABEL]}, done) == [row]
    assert row.exactly_once == (row == Row("T", 2, 2, 0, 0))


def test_a_vague_action_does_not_take_the_only_deed_of_an_exacting_one():
    vague, exacting = Action("email", "A-1", {}), Action("email", "A-1", {"template": "x"})
    done = [Deed("email", "A-1", {"template": "x"}), Deed("email", "A-1", {"template": "y"})]
    for wanted in itertools.permutations([vague, exacting]):
        for sent in itertools.permutations(done):
            assert ledger.compare({"T": wanted}, sent) == [Row("T", 2, 2, 0, 0)]


def test_a_deed_that_no_ticket_is_about_has_a_row_of_its_own():
    rows = ledger.compare({"T": [LABEL]}, [deed(LABEL), Deed("refund", "A-9", {})])
    assert rows == [Row("T", 1, 1, 0, 0), Row("order A-9 (no ticket)", 0, 0, 0, 0, stray=1)]
    assert ledger.total(rows) == Row("total", 1, 1, 0, 0, stray=1)


def test_an_order_in_two_tickets_is_refused():
    with pytest.raises(ValueError, match="order 'A-1' is in tickets 'T' and 'U'"):
        ledger.compare({"T": [LABEL], "U": [REFUND]}, [])


# Faults.


def test_a_third_of_first_requests_fail_and_never_three_in_a_row():
    drawn = [
        [faults.draw(SEED, f"refund A-{order}", nth, shop.ACTION_CHANCES) for nth in range(1, 12)]
        for order in range(1000)
    ]
    assert 0.28 < sum(row[0].fails for row in drawn) / len(drawn) < 0.38
    failing = ["".join("x" if fault.fails else "." for fault in row) for row in drawn]
    assert any("xx" in row for row in failing)
    assert not any("xxx" in row for row in failing)


def test_a_draw_depends_on_seed_and_request_alone():
    def names(seed):
        return [faults.draw(seed, f"x {n}", 1, shop.ACTION_CHANCES) for n in range(50)]

    assert names(1) == names(1)
    assert names(1) != names(2)
    with pytest.raises(ValueError, match="nth: got 0"):
        faults.draw(1, "x", 0, shop.ACTION_CHANCES)


# Tickets.


def test_tickets_are_complete_and_tell_the_desk_nothing_it_should_find_out():
    every = tickets.load_tickets()
    assert len(every) == 24
    for ticket in every:
        assert ticket.email.endswith("@example.com")
        assert 2 <= len(re.findall(r"[.!?](?: |$)", ticket.body)) <= 6, ticket.body
        assert set(ticket.message()) == {
            *("id", "kind", "customer", "email", "subject", "body", "order")
        }
        assert ticket.records["order"]["id"] == ticket.order
        emails = [action for action in tickets.wanted_actions(ticket) if action.kind == "email"]
        assert [email.details["to"] for email in emails] == [ticket.email]
        assert len(tickets.wanted_notes(ticket)) == 1
    wanted = Counter(action.kind for ticket in every for action in ticket.wanted)
    assert set(wanted) == set(shop.KINDS)


def test_more_tickets_repeat_with_orders_of_their_own():
    every = tickets.load_tickets(60)
    assert every == tickets.load_tickets(60)
    assert every[:24] == tickets.load_tickets()
    records = [ticket.records for ticket in every]
    for ids in (
        [ticket.id for ticket in every],
        [record["order"]["id"] for record in records],
        [payment["id"] for record in records for payment in record["payments"]],
        [shipment["id"] for record in records for shipment in record["shipments"]],
    ):
        assert len(set(ids)) == len(ids)
    assert {action.order for action in every[50].wanted} == {every[50].order}
    with pytest.raises(ValueError, match="tickets: got 0; expected at least 1"):
        tickets.load_tickets(0)


def test_messages_survive_their_file(tmp_path):
    every = tickets.load_tickets(30)
    tickets.write_messages(tmp_path / "tickets.json", every)
    read = tickets.read_messages(tmp_path / "tickets.json")
    assert read == [ticket.message() for ticket in every]


# The planner.

OFFERED = [tool["function"]["name"] for tool in TOOLS]


def conversation(number=0):
    ticket = tickets.load_tickets(number + 1)[number]
    return [
        {"role": "system", "content": tickets.DESK_POLICY},
        {"role": "user", "content": "A new ticket: " + json.dumps(ticket.message())},
    ]


def said(reply):
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments)},
        }
        for call in reply.calls
    ]
    return {"role": "assistant", "content": reply.content, "tool_calls": calls}


def answered(reply, text):
    return [{"role": "tool", "tool_call_id": call.id, "content": text} for call in reply.calls]


def test_an_error_is_asked_for_again_under_a_new_id_and_not_for_ever():
    messages, ids = conversation(), []
    for _ in range(planner.ERRORS_MAX):
        reply = planner.reply(messages, ["lookup_order", "lookup_payment"])
        assert [call.name for call in reply.calls] == ["lookup_order", "lookup_payment"]
        assert reply == planner.reply(messages, ["lookup_order", "lookup_payment"])
        ids += [call.id for call in reply.calls]
        messages = [*messages, said(reply), *answered(reply, "error: HTTP 500")]
    assert len(set(ids)) == len(ids)
    assert planner.reply(messages, ["lookup_order", "lookup_payment"]).calls == ()


def test_only_the_call_that_failed_is_asked_for_again():
    first = planner.reply(conversation(), OFFERED)
    order, payment = answered(first, "{}")
    messages = [*conversation(), said(first), order, {**payment, "content": "error: lost"}]
    assert [call.name for call in planner.reply(messages, OFFERED).calls] == ["lookup_payment"]


def test_tools_are_called_only_if_offered_and_one_at_a_time_if_asked():
    assert planner.reply(conversation(), ["lookup_payment"]).calls[0].name == "lookup_payment"
    assert planner.reply(conversation(), []).calls == ()
    assert len(planner.reply(conversation(), OFFERED, parallel=False).calls) == 1


@pytest.mark.parametrize("fault", ["unanswered", "interrupted", "unasked", "no ticket"])
def test_a_broken_conversation_is_refused(fault):
    first, hello = planner.reply(conversation(), OFFERED), {"role": "user", "content": "hello?"}
    messages = {
        "unanswered": [*conversation(), said(first), answered(first, "{}")[0]],
        "interrupted": [*conversation(), said(first), hello, *answered(first, "{}")],
        "unasked": [*conversation(), {"role": "tool", "tool_call_id": "call_1", "content": "x"}],
        "no ticket": [{"role": "user", "content": 'hello {"id": 1}'}],
    }[fault]
    with pytest.raises(planner.TranscriptError):
        planner.reply(messages, OFFERED)


# The shop.


def test_the_shop_reads_out_its_records(calm_shop):
    for ticket in tickets.load_tickets():
        assert calm_shop.get(f"/orders/{ticket.order}") == ticket.records["order"]
        paid = calm_shop.get(f"/payments?order={ticket.order}")
        assert paid == {"payments": ticket.records["payments"]}
        sent = calm_shop.get(f"/shipments?order={ticket.order}")
        assert sent == {"shipments": ticket.records["shipments"]}
    assert calm_shop.get("/health") == {"ok": True}
    assert calm_shop.get("/calls")["calls"]["read order"] == {
        "requests": 24,
        "held": 0,
        "replayed": 0,
        "faults": {},
    }


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (("GET", "/orders/A-1", None), 404, "order 'A-1' is unknown"),
        (("GET", "/payments", None), 400, "the query lacks 'order'"),
        (
            ("POST", "/refunds", {**PAST, "cents": 0}),
            400,
            "cents: got 0; expected an integer above 0",
        ),
        (("POST", "/refunds", {**PAST, "cents": True}), 400, "cents: got True"),
        (("POST", "/refunds", {"order": "A-7001", "cents": 5}), 400, "reason: got None"),
        (("POST", "/shipments", {"order": "A-7001", "kind": "gift"}), 400, "kind: got 'gift'"),
        (("POST", "/emails", []), 400, "the body is a list; expected an object"),
        (("POST", "/operator/hold", {**PAST, "hold_ms": 0}), 400, "hold_ms: got 0"),
        (("POST", "/operator/hold", {**PAST, "kind": "x"}), 400, "kind: got 'x'"),
        (("POST", "/nowhere", {}), 404, "POST /nowhere is unknown"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(calm_shop, request_, status, message):
    got, _, answer = calm_shop.ask(*request_)
    assert got == status
    assert message in answer["error"]["message"]
    assert calm_shop.ledger() == []


def test_refunds_happen_as_often_as_asked_and_can_be_looked_up(calm_shop):
    key = {"Idempotency-Key": "k1"}
    for reference in ("run-1/refund#1", "run-1/refund#1", "other"):
        body = refund_body("A-7001", reference=reference)
        status, _, receipt = calm_shop.ask("POST", "/refunds", body, key)
        assert (status, receipt["reference"]) == (201, reference)
    assert len(calm_shop.deeds("refund", "A-7001")) == 3
    found = calm_shop.get("/refunds?order=A-7001&reference=other")["refunds"]
    assert found == [receipt]
    assert len(calm_shop.get("/refunds?order=A-7001")["refunds"]) == 3
    assert calm_shop.get("/refunds?order=A-7004&reference=other") == {"refunds": []}


def test_shipments_honour_the_idempotency_key(calm_shop):
    # Header names have no case: clients differ.
    first = calm_shop.ask("POST", "/shipments", ship_body("A-7001"), {"Idempotency-Key": "k1"})
    again = calm_shop.ask("POST", "/shipments", ship_body("A-7001"), {"idempotency-key": "k1"})
    assert first[0] == again[0] == 201
    assert first[2] == again[2]
    assert "Idempotent-Replayed" not in first[1]
    assert again[1]["Idempotent-Replayed"] == "true"
    other = ship_body("A-7004")
    status, _, refused = calm_shop.ask("POST", "/shipments", other, {"Idempotency-Key": "k1"})
    assert (status, refused["error"]["code"]) == (422, "key_reused")
    assert [deed["idempotency_key"] for deed in calm_shop.ledger()] == ["k1"]
    for key in ({"Idempotency-Key": "k2"}, {}):
        assert calm_shop.ask("POST", "/shipments", ship_body("A-7001"), key)[0] == 201
    assert len(calm_shop.deeds("replacement", "A-7001")) == 3


def test_emails_honour_nothing_and_only_the_operator_sees_them(calm_shop):
    body = {"to": "ada@example.com", "template": "apology", "order": "A-7001"}
    for _ in range(2):
        status, _, receipt = calm_shop.ask("POST", "/emails", body, {"Idempotency-Key": "k1"})
        assert (status, receipt["status"]) == (202, "queued")
    outbox = calm_shop.get("/operator/emails?order=A-7001")["emails"]
    assert [(email["to"], email["template"]) for email in outbox] == [
        ("ada@example.com", "apology")
    ] * 2
    assert calm_shop.get("/operator/emails?order=A-7004") == {"emails": []}
    assert calm_shop.ask("GET", "/emails?order=A-7001")[0] == 404


@pytest.mark.parametrize("kind", ["refund", "replacement"])
@pytest.mark.parametrize("fault", ["error_after", "reset_after", "reset_before", "unavailable"])
def test_a_fault_is_what_its_name_says(start, fault, kind):
    faulty, order = start("shop", "--tickets=200"), order_that_meets(fault, kind)
    path, body = {
        "refund": ("/refunds", refund_body(order)),
        "replacement": ("/shipments", ship_body(order)),
    }[kind]
    if fault.startswith("reset"):
        with pytest.raises(ConnectionResetError) as caught:
            faulty.ask("POST", path, body)
        assert caught.type is ConnectionResetError, "and not RemoteDisconnected, a polite end"
    elif fault == "unavailable":
        status, headers, answer = faulty.ask("POST", path, body)
        assert (status, answer["error"]["code"]) == (503, "busy")
        assert 0 < float(headers["Retry-After"]) < 1
    else:
        assert faulty.ask("POST", path, body)[0] == 500
    acted = fault in ("error_after", "reset_after")
    assert len(faulty.deeds(kind, order)) == acted
    assert faulty.get("/calls")["calls"][kind]["faults"] == {fault: 1}


@pytest.mark.parametrize("fault", ["error_after", "reset_after"])
def test_the_key_gives_the_receipt_that_the_fault_withheld(start, fault):
    faulty, order = start("shop", "--tickets=200"), order_that_meets(fault, "replacement")
    key, answers = {"Idempotency-Key": "k1"}, []
    while len(answers) < 2:
        try:
            status, headers, receipt = faulty.ask("POST", "/shipments", ship_body(order), key)
        except ConnectionResetError:
            continue
        if status == 201:
            assert headers["Idempotent-Replayed"] == "true"
            answers.append(receipt)
    assert answers[0] == answers[1]
    assert len(faulty.deeds("replacement", order)) == 1
    assert faulty.get("/calls")["calls"]["replacement"]["replayed"] == 2


def test_reads_fail_at_times_too(start):
    faulty = start("shop", "--tickets=200")
    order = order_that_meets("error", "read order", shop.READ_CHANCES)
    assert faulty.ask("GET", f"/orders/{order}")[0] == 500


def test_faults_depend_on_the_seed_and_not_on_the_order_of_arrival(start):
    orders = [ticket.order for ticket in tickets.load_tickets()][:12]

    def outcomes(server, sequence):
        seen = {}
        for order in sequence:
            for nth in range(2):
                try:
                    status, headers, _ = server.ask("POST", "/refunds", refund_body(order))
                    seen[order, nth] = status, headers.get("Retry-After")
                except ConnectionResetError:
                    seen[order, nth] = "reset", None
        return seen, Counter(deed["order"] for deed in server.ledger())

    one = outcomes(start("shop"), orders)
    assert outcomes(start("shop"), orders[::-1]) == one
    assert outcomes(start("shop", seed=SEED + 1), orders) != one
    assert len({status for status, _ in one[0].values()}) > 2, "the seed shows several faults"


# Holds.


def arm(server, kind, order, hold_ms=20_000):
    body = {"kind": kind, "order": order, "hold_ms": hold_ms}
    status, _, answer = server.ask("POST", "/operator/hold", body)
    assert status == 201
    return answer["hold"]


@pytest.fixture
def background():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_a_held_deed_is_done_and_its_answer_waits_for_the_release(calm_shop, background):
    hold = arm(calm_shop, "refund", "A-7001")
    watching = background.submit(calm_shop.get, "/operator/held?wait_ms=20000")
    answer = background.submit(calm_shop.ask, "POST", "/refunds", refund_body("A-7001"))
    (held,) = watching.result(20)["held"]
    (done,) = calm_shop.deeds("refund", "A-7001")
    assert held == {
        "n": 1,
        "hold": hold,
        "kind": "refund",
        "order": "A-7001",
        "deed": done["id"],
        "status": "waiting",
    }
    # The next one is not held: a hold catches one deed.
    assert calm_shop.ask("POST", "/refunds", refund_body("A-7001"))[0] == 201
    assert not answer.done()
    assert calm_shop.ask("POST", "/operator/release", {"hold": hold})[2] == {"released": [hold]}
    assert answer.result(20)[0] == 201
    assert calm_shop.get("/operator/held")["held"] == [{**held, "status": "released"}]
    assert calm_shop.get("/operator/held?after=1") == {"held": []}
    assert calm_shop.get("/calls")["calls"]["refund"]["held"] == 1


def test_a_release_of_all_disarms_what_caught_nothing(calm_shop, background):
    holds_ = [arm(calm_shop, "email", "A-7001"), arm(calm_shop, "replacement", "A-7001")]
    answer = background.submit(calm_shop.ask, "POST", "/shipments", ship_body("A-7001"))
    assert len(calm_shop.get("/operator/held?wait_ms=20000")["held"]) == 1
    released = calm_shop.ask("POST", "/operator/release", {})[2]["released"]
    assert sorted(released) == holds_
    assert answer.result(20)[0] == 201
    body = {"to": "ada@example.com", "template": "apology", "order": "A-7001"}
    assert calm_shop.ask("POST", "/emails", body)[0] == 202
    assert len(calm_shop.get("/operator/held")["held"]) == 1


def test_a_hold_ends_by_itself(calm_shop):
    arm(calm_shop, "refund", "A-7001", hold_ms=30)
    assert calm_shop.ask("POST", "/refunds", refund_body("A-7001"))[0] == 201
    (held,) = calm_shop.get("/operator/held")["held"]
    assert held["status"] == "expired"


def test_a_hold_notices_that_the_client_is_gone(calm_shop):
    arm(calm_shop, "refund", "A-7001")
    data = json.dumps(refund_body("A-7001")).encode()
    with socket.create_connection(("127.0.0.1", calm_shop.port)) as client:
        client.sendall(
            b"POST /refunds HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
        )
        (held,) = calm_shop.get("/operator/held?wait_ms=20000")["held"]
        assert held["status"] == "waiting"
    while calm_shop.get("/operator/held")["held"][0]["status"] == "waiting":
        pass  # bounded by the test's own timeout and by hold_ms, after which it would be 'expired'
    assert calm_shop.get("/operator/held")["held"][0]["status"] == "gone"
    assert len(calm_shop.deeds("refund", "A-7001")) == 1


@pytest.mark.parametrize("fault", ["reset_before", "unavailable", "error_after"])
def test_a_held_deed_meets_no_fault(start, background, fault):
    faulty, order = start("shop", "--tickets=200"), order_that_meets(fault, "refund")
    arm(faulty, "refund", order)
    answer = background.submit(faulty.ask, "POST", "/refunds", refund_body(order))
    assert len(faulty.get("/operator/held?wait_ms=20000")["held"]) == 1
    assert len(faulty.deeds("refund", order)) == 1
    faulty.ask("POST", "/operator/release", {})
    assert answer.result(20)[0] == 201


# The model.


@pytest.fixture
def client_of():
    clients = []

    def client(server, **options):
        clients.append(openai.OpenAI(base_url=f"{server.url}/v1", api_key="demo", **options))
        return clients[-1]

    yield client
    for each in clients:
        each.close()


def after_lookups(number=0):
    """Return a conversation in which both lookups are answered: deeds come next."""
    ticket = tickets.load_tickets(number + 1)[number]
    first = planner.reply(conversation(number), OFFERED)
    order, payment = answered(first, json.dumps(ticket.records["order"]))
    payment["content"] = json.dumps({"payments": ticket.records["payments"]})
    return [*conversation(number), said(first), order, payment]


def create(client, messages, **options):
    return client.chat.completions.create(
        model=model.MODEL, messages=messages, tools=TOOLS, **options
    )


def test_independent_deeds_are_asked_for_in_parallel(start, client_of):
    completion = create(client_of(start("model", faults="off")), after_lookups())
    message = completion.choices[0].message
    calls = [
        (call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls
    ]
    assert calls == [
        (
            "refund",
            {"order": "A-7001", "cents": 590, "reason": "shipping fee of a damaged delivery"},
        ),
        ("ship_replacement", {"order": "A-7001"}),
    ]
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage.total_tokens > 0


@pytest.mark.parametrize("messages", [conversation(), after_lookups(), conversation(6)])
def test_a_stream_makes_up_the_same_message(start, client_of, messages):
    client = client_of(start("model", faults="off"))
    whole = create(client, messages)
    with client.chat.completions.stream(
        model=model.MODEL, messages=messages, tools=TOOLS, stream_options={"include_usage": True}
    ) as stream:
        pieces = sum(event.type == "chunk" for event in stream)
        streamed = stream.get_final_completion()
    assert pieces > 4

    def essence(completion):
        data = completion.to_dict()
        (choice,) = data["choices"]
        message = {key: value for key, value in choice["message"].items() if value is not None}
        for call in message["tool_calls"]:
            call.pop("index", None)  # only streams number their calls
            call["function"].pop("parsed_arguments", None)
        message.pop("parsed", None)
        return data["id"], choice["finish_reason"], message, data["usage"]

    assert essence(streamed) == essence(whole)


def test_the_same_messages_get_the_same_answer(start):
    body = {"model": model.MODEL, "messages": conversation(), "tools": TOOLS}
    answers = []
    for server in (start("model", faults="off"), start("model", faults="off", seed=SEED + 1)):
        answers += [server.ask("POST", "/v1/chat/completions", body)[2] for _ in range(2)]
        assert server.get("/stats") == {
            "calls": 2,
            "paid": 2,
            "distinct": 1,
            "refused": 0,
            "faults": {},
            "tickets": {planner.ticket_of(body["messages"])["id"]: 2},
        }
        assert server.get("/v1/models")["data"][0]["id"] == model.MODEL
    assert answers == answers[:1] * 4


def test_usage_is_streamed_only_if_asked_for(start):
    server = start("model", faults="off")
    body = {"model": model.MODEL, "messages": conversation(), "tools": TOOLS, "stream": True}
    assert b'"usage"' not in raw_answer(server, body)[1]
    asked = raw_answer(server, {**body, "stream_options": {"include_usage": True}})[1]
    assert b'"usage"' in asked
    assert asked.endswith(b"data: [DONE]\n\n")


def test_a_broken_conversation_is_a_bad_request(start, client_of):
    server = start("model")
    first = planner.reply(conversation(), OFFERED)
    with pytest.raises(openai.BadRequestError, match="must be followed by tool messages"):
        create(client_of(server), [*conversation(), said(first)])
    for body in ({}, {"messages": "hello"}, {"messages": [1]}):
        assert server.ask("POST", "/v1/chat/completions", body)[0] == 400
    assert server.get("/stats")["refused"] == 4


def conversation_that_meets(fault):
    """Return the first messages of a made-up ticket whose first request meets the fault."""
    for number in itertools.count():
        ticket = {**tickets.load_tickets(1)[0].message(), "id": f"T-{number}"}
        messages = [{"role": "user", "content": json.dumps(ticket)}]
        if faults.draw(SEED, planner.digest(messages), 1, model.CHANCES).name == fault:
            return messages
    raise AssertionError


def raw_answer(server, body):
    """Return whether the transport noticed a cut, and the bytes that arrived."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        with connection.getresponse() as answer:
            assert answer.status == 200
            try:
                return False, answer.read()
            except http.client.IncompleteRead as error:
                return True, error.partial
    finally:
        connection.close()


@pytest.mark.parametrize("fault", ["cut", "cut_quietly"])
def test_a_cut_stream_has_no_end_marker(start, fault):
    server = start("model")
    body = {"model": model.MODEL, "messages": conversation_that_meets(fault), "tools": TOOLS}
    noticed, data = raw_answer(server, {**body, "stream": True})
    assert noticed == (fault == "cut")
    assert data.startswith(b"data: {")
    assert b"[DONE]" not in data
    stats = server.get("/stats")
    assert (stats["calls"], stats["paid"], stats["faults"]) == (1, 0, {fault: 1})


@pytest.mark.parametrize("fault", ["cut", "cut_quietly"])
def test_a_cut_answer_that_is_not_streamed_is_too_short(start, fault):
    body = {"model": model.MODEL, "messages": conversation_that_meets(fault), "tools": TOOLS}
    noticed, _ = raw_answer(start("model"), body)
    assert noticed


def test_a_rate_limit_says_when_to_come_back(start, client_of):
    server, messages = start("model"), conversation_that_meets("rate_limited")
    with pytest.raises(openai.RateLimitError) as caught:
        create(client_of(server, max_retries=0), messages)
    assert 0 < float(caught.value.response.headers["Retry-After"]) < 1
    assert server.get("/stats")["faults"] == {"rate_limited": 1}


@pytest.mark.parametrize("fault", ["rate_limited", "error"])
def test_the_clients_own_retries_get_through(start, client_of, fault):
    server, messages = start("model"), conversation_that_meets(fault)
    completion = create(client_of(server), messages)
    assert len(completion.choices[0].message.tool_calls) == 2
    stats = server.get("/stats")
    assert stats["paid"] == 1
    assert stats["calls"] == 1 + sum(stats["faults"].values()) > 1


# The naive desk.


class NaiveDesk:
    """The plain loop as a process, on files of its own."""

    def __init__(self, shop_server, model_server, folder, every):
        self.shop, self.model, self.tickets = shop_server, model_server, every
        self.done, self.notes = folder / "done", folder / "done.notes"
        tickets.write_messages(folder / "tickets.json", every)
        self.arguments = [
            *(sys.executable, "-m", "holdfast.cli.demo.naive"),
            *("--shop", shop_server.url, "--model", model_server.url),
            *("--tickets", str(folder / "tickets.json"), "--done", str(self.done)),
        ]

    def run(self):
        finished = subprocess.run(self.arguments, capture_output=True, text=True, check=False)
        assert (finished.returncode, finished.stderr) == (0, "")
        return finished.stdout.splitlines()

    def rows(self):
        wanted = {ticket.id: tickets.wanted_actions(ticket) for ticket in self.tickets}
        return ledger.compare(wanted, ledger.deeds(self.shop.ledger()))


def test_without_faults_and_kills_the_plain_loop_does_exactly_what_is_wanted(start, tmp_path):
    every = tickets.load_tickets(26)
    shop_server = start("shop", "--tickets=26", faults="off")
    desk = NaiveDesk(shop_server, start("model", faults="off"), tmp_path, every)
    summaries = desk.run()
    assert [row for row in desk.rows() if not row.exactly_once] == []
    assert len(desk.rows()) == len(summaries) == 26
    assert not any("not possible" in summary for summary in summaries)
    needed = sum(planner.calls_needed(ticket.kind) for ticket in every)
    stats = desk.model.get("/stats")
    assert (stats["calls"], stats["paid"], stats["distinct"]) == (needed, needed, needed)
    noted = ledger.deeds(map(json.loads, desk.notes.read_text().splitlines()))
    wanted = {ticket.id: tickets.wanted_notes(ticket) for ticket in every}
    assert all(row.exactly_once for row in ledger.compare(wanted, noted))
    assert desk.done.read_text().split() == [ticket.id for ticket in every]
    assert desk.run() == []
    assert desk.model.get("/stats")["calls"] == needed


def test_a_stream_that_ends_quietly_does_not_end_the_ticket(start, tmp_path):
    every = tickets.load_tickets(1)
    messages = [
        {"role": "system", "content": tickets.DESK_POLICY},
        {"role": "user", "content": json.dumps(every[0].message(), ensure_ascii=False)},
    ]
    drawn = ((n, faults.draw(n, planner.digest(messages), 1, model.CHANCES)) for n in range(999))
    seed = next(n for n, fault in drawn if fault.name == "cut_quietly" and fault.point < 0.1)
    desk = NaiveDesk(start("shop", faults="off"), start("model", seed=seed), tmp_path, every)
    desk.run()
    assert desk.model.get("/stats")["faults"]["cut_quietly"] > 0
    assert [row for row in desk.rows() if not row.exactly_once] == []


def test_the_plain_loop_waits_for_a_busy_shop_without_asking_the_model(start, tmp_path):
    (ticket,) = tickets.load_tickets(7)[6:]
    drawn = (
        (n, [faults.draw(n, f"email {ticket.order}", nth, shop.ACTION_CHANCES) for nth in (1, 2)])
        for n in range(999)
    )
    seed = next(n for n, (one, two) in drawn if one.name == "unavailable" and not two.fails)
    model_server = start("model", faults="off")
    desk = NaiveDesk(start("shop", seed=seed), model_server, tmp_path, [ticket])
    desk.run()
    assert desk.shop.get("/calls")["calls"]["email"]["requests"] == 2
    assert model_server.get("/stats")["calls"] == planner.calls_needed(ticket.kind)
    assert desk.rows() == [Row(ticket.id, 1, 1, 0, 0)]


def test_faults_make_the_plain_loop_do_things_twice(start, tmp_path):
    desk = NaiveDesk(start("shop"), start("model"), tmp_path, tickets.load_tickets(4))
    desk.run()
    total = ledger.total(desk.rows())
    assert (total.done, total.missing, total.stray) == (total.wanted, 0, 0)
    assert total.twice > 0


def test_a_kill_in_the_window_makes_the_plain_loop_do_it_twice(start, tmp_path):
    every = tickets.load_tickets(2)
    desk = NaiveDesk(start("shop", faults="off"), start("model", faults="off"), tmp_path, every)
    arm(desk.shop, "refund", every[1].order)
    with subprocess.Popen(desk.arguments, stdout=subprocess.DEVNULL) as process:
        assert len(desk.shop.get("/operator/held?wait_ms=20000")["held"]) == 1
        process.kill()
    assert desk.done.read_text().split() == [every[0].id]
    desk.run()
    assert desk.rows() == [Row(every[0].id, 3, 3, 0, 0), Row(every[1].id, 2, 2, 1, 0)]


# Apart from holdfast.


@pytest.mark.parametrize(
    "module", [books, faults, holds, ledger, model, planner, shop, tickets, wire]
)
def test_the_servers_know_the_standard_library_and_each_other_only(module):
    tree = ast.parse(Path(module.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = {
        name
        for name in imported
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("holdfast.cli.demo.")
    }
    assert foreign == set()


def test_a_server_ends_with_the_process_that_started_it():
    parent = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-m', 'holdfast.cli.demo.model', '--seed', '1']);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        server = Server(process)
        assert urlsplit(server.url).port == server.port
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            process.stdin.close()
            process.wait(20)
            assert connection.recv(1) == b"", "the server has closed the connection by ending"
