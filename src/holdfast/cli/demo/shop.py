"""A mail-order shop: an HTTP service over its own SQLite file, with faults drawn from a seed.

``python -m holdfast.cli.demo.shop --db FILE --seed N [--port 0] [--faults on|off] [--tickets N]``
prints ``{"port": N}`` when it listens. ``--tickets`` says how many of the demo's tickets have their
orders in the shop. All bodies are JSON objects; an error is ``{"error": {"code", "message",
"type"}}``. Unknown orders are 404, wrong bodies 400.

- ``GET /orders/{id}`` gives ``{id, customer, email, placed_on, status, items, shipping_cents,
  total_cents}``.
- ``GET /payments?order=`` gives ``{"payments": [{id, order, cents, method, status}]}``.
- ``GET /shipments?order=`` gives ``{"shipments": [{id, order, kind, carrier, tracking, status}]}``.
- ``POST /refunds`` takes ``{order, cents, reason, reference?}`` and gives 201 with ``{id, order,
  cents, reason, reference}``. It knows no idempotency key: asked twice, it refunds twice.
- ``GET /refunds?order=[&reference=]`` gives ``{"refunds": [...]}``: did my own deed happen?
- ``POST /shipments`` takes ``{order, kind: "replacement" | "return_label"}`` and gives 201 with a
  shipment. It honours ``Idempotency-Key``: the receipt of the first deed again, also when that
  was answered by 500 or by nothing, with the header ``Idempotent-Replayed: true``. The same key
  for another request is 422.
- ``POST /emails`` takes ``{to, template, order}`` and gives 202 with ``{id, status: "queued"}``. It
  honours nothing, and the caller cannot look up what was sent.
- ``GET /operator/emails[?order=]`` gives ``{"emails": [{id, order, to, template, at}]}``: the
  outbox, for people only.
- ``POST /operator/hold`` takes ``{kind, order, hold_ms}`` and gives 201 with ``{hold}``: the next
  deed of this kind for this order is done, and its answer waits (see holds.py).
- ``GET /operator/held[?wait_ms=&after=]`` gives ``{"held": [{n, hold, kind, order, deed,
  status}]}`` with n > after, at once or as soon as there is one, or empty after wait_ms; status is
  waiting, released, expired or gone (the client).
- ``POST /operator/release`` takes ``{hold?}``, one hold or all, armed ones too, and gives
  ``{"released": [hold, ...]}``.
- ``GET /ledger`` gives ``{"deeds": [{id, kind, order, details, reference, idempotency_key, at}]}``.
- ``GET /calls`` gives ``{"calls": {WHAT: {requests, held, replayed, faults: {NAME: n}}}}``.
- ``GET /health`` gives ``{"ok": true}``.

Kinds of deeds are ``refund``, ``replacement``, ``return_label`` and ``email``. A third of the
requests for one meet a fault, at most two in a row for the same kind and order: ``unavailable``
(503 with Retry-After, always before the deed), ``reset_before``, ``reset_after``, ``error_after``
(500 after the deed), and some are ``slow`` after the deed. Reads are answered by 500 or slowly at
times, the refunds looked up included.

Invariants: whatever a client is told, a deed and its ledger row are one transaction; a held deed
meets no fault; the faults of one order do not depend on what is asked for another.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from holdfast.cli.demo.books import Books, KeyReusedError
from holdfast.cli.demo.faults import NONE, Chance, Fault, draw
from holdfast.cli.demo.holds import Holds
from holdfast.cli.demo.tickets import load_tickets
from holdfast.cli.demo.wire import JsonHandler, Refusal, Request, Server, arguments, serve

__all__ = ["ACTION_CHANCES", "HOLD_MS_MAX", "KINDS", "READ_CHANCES", "Shop", "main"]

HOLD_MS_MAX = 60_000
TEXT_CHARS_MAX = 1_000

ACTION_CHANCES = (
    Chance("error_after", 0.11),
    Chance("reset_after", 0.09),
    Chance("reset_before", 0.06),
    Chance("unavailable", 0.07, (50, 200)),
    Chance("slow", 0.15, (20, 150), fails=False),
)
READ_CHANCES = (
    Chance("error", 0.10),
    Chance("slow", 0.10, (20, 100), fails=False),
)

KINDS = ("refund", "replacement", "return_label", "email")

Done = tuple[int | None, dict[str, Any]]


class Shop(Server):
    """The shop's state: its books, its holds, and how often it was asked for what."""

    def __init__(self, books: Books, *, seed: int, port: int, faults: bool) -> None:
        super().__init__(("127.0.0.1", port), ShopHandler)
        self.books = books
        self.holds = Holds()
        self._seed = seed
        self._faults = faults
        self._lock = threading.Lock()
        self._asked: Counter[tuple[str, str]] = Counter()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def fault(self, what: str, order: str, *, read: bool) -> Fault:
        """Draw what happens to the next request for ``what`` and this order."""
        with self._lock:
            self._asked[what, order] += 1
            self._counts[what]["requests"] += 1
            nth = self._asked[what, order]
        if not self._faults:
            return NONE
        return draw(self._seed, f"{what} {order}", nth, READ_CHANCES if read else ACTION_CHANCES)

    def count(self, what: str, name: str) -> None:
        """Count one fault, hold or replay for the statistics."""
        with self._lock:
            self._counts[what][name] += 1

    def calls(self) -> dict[str, Any]:
        """Return what was asked for how often, and what became of it."""
        own = ("requests", "held", "replayed")
        with self._lock:
            return {
                what: {
                    **{name: counts[name] for name in own},
                    "faults": {name: n for name, n in counts.items() if name not in own},
                }
                for what, counts in self._counts.items()
            }


class ShopHandler(JsonHandler):
    """Answers for the shop."""

    server: Shop

    def route(self, request: Request) -> None:
        endpoint = (request.method, request.path[0] if request.path else "")
        if endpoint == ("GET", "orders") and len(request.path) > 1:
            self._read("order", request.path[1], self._order)
            return
        answers: Mapping[tuple[str, ...], Callable[[Request], None]] = {
            ("GET", "payments"): self._payments,
            ("GET", "shipments"): self._shipments,
            ("GET", "refunds"): self._refunds,
            ("POST", "refunds"): self._refund,
            ("POST", "shipments"): self._ship,
            ("POST", "emails"): self._email,
            ("GET", "operator", "emails"): self._outbox,
            ("POST", "operator", "hold"): self._hold,
            ("GET", "operator", "held"): self._held,
            ("POST", "operator", "release"): self._release,
            ("GET", "ledger"): lambda _: self.answer(200, {"deeds": self.server.books.ledger()}),
            ("GET", "calls"): lambda _: self.answer(200, {"calls": self.server.calls()}),
            ("GET", "health"): lambda _: self.answer(200, {"ok": True}),
        }
        answer = answers.get((request.method, *request.path))
        if answer is None:
            raise Refusal(404, "unknown", f"{request.method} /{'/'.join(request.path)} is unknown")
        answer(request)

    def _order(self, order: str) -> Mapping[str, Any]:
        return self._known(order)

    def _payments(self, request: Request) -> None:
        books = self.server.books
        self._read("payments", _order_of(request), lambda o: {"payments": books.payments(o)})

    def _shipments(self, request: Request) -> None:
        books = self.server.books
        self._read("shipments", _order_of(request), lambda o: {"shipments": books.shipments(o)})

    def _refunds(self, request: Request) -> None:
        books, reference = self.server.books, request.query.get("reference")
        self._read(
            "refunds", _order_of(request), lambda o: {"refunds": books.refunds(o, reference)}
        )

    def _refund(self, request: Request) -> None:
        order, cents = self._body_order(request), request.body.get("cents")
        if not isinstance(cents, int) or isinstance(cents, bool) or cents < 1:
            raise _invalid(f"cents: got {cents!r}; expected an integer above 0")
        reason = _text(request.body, "reason")
        reference = _text(request.body, "reference") if "reference" in request.body else None
        self._act(
            "refund",
            order,
            lambda: self.server.books.refund(order, cents, reason, reference),
            status=HTTPStatus.CREATED,
        )

    def _ship(self, request: Request) -> None:
        order, kind = self._body_order(request), request.body.get("kind")
        if kind not in ("replacement", "return_label"):
            raise _invalid(f"kind: got {kind!r}; expected 'replacement' or 'return_label'")
        key = request.headers.get("idempotency-key")
        self._act(
            kind,
            order,
            lambda: self.server.books.ship(order, kind, key),
            status=HTTPStatus.CREATED,
        )

    def _email(self, request: Request) -> None:
        order = self._body_order(request)
        to, template = _text(request.body, "to"), _text(request.body, "template")
        self._act(
            "email",
            order,
            lambda: self.server.books.email(order, to, template),
            status=HTTPStatus.ACCEPTED,
        )

    def _outbox(self, request: Request) -> None:
        self.answer(200, {"emails": self.server.books.emails(request.query.get("order"))})

    def _hold(self, request: Request) -> None:
        order, kind = self._body_order(request), request.body.get("kind")
        if kind not in KINDS:
            raise _invalid(f"kind: got {kind!r}; expected one of {', '.join(KINDS)}")
        hold_ms = request.body.get("hold_ms")
        if not isinstance(hold_ms, int) or not 0 < hold_ms <= HOLD_MS_MAX:
            raise _invalid(f"hold_ms: got {hold_ms!r}; expected an integer from 1 to {HOLD_MS_MAX}")
        self.answer(201, {"hold": self.server.holds.arm(kind, order, hold_ms).id})

    def _held(self, request: Request) -> None:
        after, wait_ms = _number(request, "after"), _number(request, "wait_ms")
        if wait_ms > HOLD_MS_MAX:
            raise _invalid(f"wait_ms: got {wait_ms}; expected at most {HOLD_MS_MAX}")
        self.answer(200, {"held": self.server.holds.held_after(after, wait_ms / 1000)})

    def _release(self, request: Request) -> None:
        hold = request.body.get("hold")
        if hold is not None and not isinstance(hold, int):
            raise _invalid(f"hold: got {hold!r}; expected the id of a hold")
        self.answer(200, {"released": self.server.holds.release(hold)})

    def _read(self, what: str, order: str, read: Callable[[str], Mapping[str, Any]]) -> None:
        self._known(order)
        fault = self.server.fault(f"read {what}", order, read=True)
        if fault.name != "none":
            self.server.count(f"read {what}", fault.name)
        time.sleep(fault.wait_s)
        if fault.name == "error":
            raise Refusal(500, "internal", "something went wrong")
        self.answer(200, read(order))

    def _act(self, kind: str, order: str, deed: Callable[[], Done], *, status: int) -> None:
        fault = self.server.fault(kind, order, read=False)
        if self.server.holds.is_armed(kind, order):
            fault = NONE
        if fault.name != "none":
            self.server.count(kind, fault.name)
        if fault.name == "unavailable":
            raise Refusal(
                503, "busy", "too busy, nothing was done", {"Retry-After": f"{fault.wait_s:g}"}
            )
        if fault.name == "reset_before":
            self.reset()
            return
        try:
            deed_id, receipt = deed()
        except KeyReusedError as error:
            raise Refusal(422, "key_reused", str(error)) from error
        if deed_id is not None and self._is_held_to_the_end(kind, order, deed_id):
            self.hang_up()
            return
        if fault.name == "reset_after":
            self.reset()
            return
        if fault.name == "error_after":
            raise Refusal(500, "internal", "something went wrong")
        time.sleep(fault.wait_s)
        if deed_id is None:
            self.server.count(kind, "replayed")
        self.answer(status, receipt, {"Idempotent-Replayed": "true"} if deed_id is None else None)

    def _is_held_to_the_end(self, kind: str, order: str, deed_id: int) -> bool:
        """Wait if a hold caught this deed; tell whether the client has gone away meanwhile."""
        hold = self.server.holds.catch(kind, order, deed_id)
        if hold is None:
            return False
        self.server.count(kind, "held")
        return self.server.holds.wait_released(hold, self.client_is_gone) == "gone"

    def _body_order(self, request: Request) -> str:
        order = _text(request.body, "order")
        self._known(order)
        return order

    def _known(self, order: str) -> Mapping[str, Any]:
        found = self.server.books.order(order)
        if found is None:
            raise Refusal(404, "unknown_order", f"order {order!r} is unknown")
        return found


def _order_of(request: Request) -> str:
    if "order" not in request.query:
        raise _invalid("the query lacks 'order'")
    return request.query["order"]


def _number(request: Request, name: str) -> int:
    text = request.query.get(name, "0")
    if not text.isdecimal():
        raise _invalid(f"{name}: got {text!r}; expected an integer from 0")
    return int(text)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_CHARS_MAX:
        raise _invalid(f"{name}: got {value!r}; expected 1 to {TEXT_CHARS_MAX} characters")
    return value


def _invalid(message: str) -> Refusal:
    return Refusal(400, "invalid", message)


def main() -> None:
    """Serve until told to stop."""
    parser = arguments("The demo's shop.")
    parser.add_argument("--db", type=Path, required=True, help="the shop's SQLite file")
    parser.add_argument("--tickets", type=int, help="stock the orders of this many tickets")
    given = parser.parse_args()
    books = Books(given.db, load_tickets(given.tickets))
    try:
        serve(Shop(books, seed=given.seed, port=given.port, faults=given.faults == "on"))
    finally:
        books.close()


if __name__ == "__main__":
    main()
