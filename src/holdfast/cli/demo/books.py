"""The shop's books: one SQLite file with its orders and everything it has done.

- ``orders``: document (JSON: id, customer, email, placed_on, status, items, shipping_cents,
  total_cents)
- ``payments``: document (JSON: id, order, cents, method, status)
- ``refunds``: cents, reason, reference: the caller's name for the deed, stored and never compared
- ``shipments``: document (JSON: id, order, kind, carrier, tracking, status), sent before or now
- ``emails``: the outbox: to, template
- ``answers``: the first answer given to each idempotency key, with what was asked for
- ``ledger``: every deed: kind, order, details, reference, idempotency key, time

Invariants: a deed, its ledger row and its kept answer are one transaction; ids and receipts depend
on the order and on how many such deeds it had before, not on time, so that the same conversation
reads the same a second time.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.cli.demo.tickets import Ticket

__all__ = ["Books", "KeyReusedError"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, document TEXT NOT NULL); CREATE TABLE IF NOT
EXISTS payments (id TEXT PRIMARY KEY, "order" TEXT NOT NULL, document TEXT NOT NULL); CREATE TABLE
IF NOT EXISTS shipments (id TEXT PRIMARY KEY, "order" TEXT NOT NULL, document TEXT NOT NULL); CREATE
TABLE IF NOT EXISTS refunds (
  id TEXT PRIMARY KEY, "order" TEXT NOT NULL, cents INTEGER NOT NULL, reason TEXT NOT NULL,
  reference TEXT
);
CREATE TABLE IF NOT EXISTS emails (
  id TEXT PRIMARY KEY, "order" TEXT NOT NULL, "to" TEXT NOT NULL, template TEXT NOT NULL, at REAL
  NOT NULL
); CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, asked TEXT NOT NULL, answer TEXT NOT
NULL); CREATE TABLE IF NOT EXISTS ledger (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, "order" TEXT NOT NULL, details TEXT NOT NULL,
  reference TEXT, idempotency_key TEXT, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS ledger_by_order ON ledger ("order", kind);
"""


class KeyReusedError(Exception):
    """An idempotency key was sent again with another request."""


class Books:
    """One connection to the shop's file, used by one thread at a time."""

    def __init__(self, path: Path, tickets: Iterable[Ticket]) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        # The demo kills the desk, never the shop: what is committed here outlives every kill
        # without a sync.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_SCHEMA)
        with self._transaction():
            for ticket in tickets:
                self._stock(ticket.records)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def order(self, order: str) -> dict[str, Any] | None:
        """Return one order, or None."""
        rows = self._documents("SELECT document FROM orders WHERE id = ?", order)
        return rows[0] if rows else None

    def payments(self, order: str) -> list[dict[str, Any]]:
        """Return what was paid for an order."""
        return self._documents(
            'SELECT document FROM payments WHERE "order" = ? ORDER BY rowid', order
        )

    def shipments(self, order: str) -> list[dict[str, Any]]:
        """Return what was and will be sent for an order."""
        return self._documents(
            'SELECT document FROM shipments WHERE "order" = ? ORDER BY rowid', order
        )

    def refunds(self, order: str, reference: str | None) -> list[dict[str, Any]]:
        """Return the refunds of an order, those with a reference only if one is given."""
        return self._rows(
            'SELECT id, "order", cents, reason, reference FROM refunds'
            ' WHERE "order" = ?1 AND (?2 IS NULL OR reference = ?2) ORDER BY rowid',
            order,
            reference,
        )

    def emails(self, order: str | None) -> list[dict[str, Any]]:
        """Return the outbox, of one order if one is given."""
        return self._rows(
            'SELECT id, "order", "to", template, at FROM emails'
            ' WHERE ?1 IS NULL OR "order" = ?1 ORDER BY rowid',
            order,
        )

    def ledger(self) -> list[dict[str, Any]]:
        """Return every deed, the oldest first."""
        rows = self._rows("SELECT * FROM ledger ORDER BY id")
        return [{**row, "details": json.loads(row["details"])} for row in rows]

    def refund(
        self, order: str, cents: int, reason: str, reference: str | None
    ) -> tuple[int, dict[str, Any]]:
        """Refund; return the ledger id and the receipt."""
        with self._transaction():
            receipt: dict[str, Any] = {"id": self._new_id("re", "refund", order), "order": order}
            receipt |= {"cents": cents, "reason": reason, "reference": reference}
            self._db.execute(
                "INSERT INTO refunds VALUES (:id, :order, :cents, :reason, :reference)", receipt
            )
            details = {"cents": cents, "reason": reason}
            return self._enter("refund", order, details, reference=reference), receipt

    def email(self, order: str, to: str, template: str) -> tuple[int, dict[str, Any]]:
        """Put an e-mail into the outbox; return the ledger id and the receipt."""
        with self._transaction():
            email_id = self._new_id("em", "email", order)
            self._db.execute(
                "INSERT INTO emails VALUES (?, ?, ?, ?, ?)",
                (email_id, order, to, template, time.time()),
            )
            deed = self._enter("email", order, {"to": to, "template": template})
            return deed, {"id": email_id, "status": "queued"}

    def ship(self, order: str, kind: str, key: str | None) -> tuple[int | None, dict[str, Any]]:
        """Ship something, or find what the same key has shipped before.

        Returns:
            The ledger id, None when nothing was done now, and the receipt, the first one when the
            key is known.

        Raises:
            KeyReusedError: The key belongs to another order or kind.
        """
        asked = json.dumps([order, kind])
        with self._transaction():
            kept = self._db.execute(
                "SELECT asked, answer FROM answers WHERE key = ?", (key,)
            ).fetchone()
            if kept is not None and kept["asked"] != asked:
                raise KeyReusedError(
                    f"idempotency key {key!r} was sent for {kept['asked']} and now for {asked}; "
                    "expected the same request"
                )
            if kept is not None:
                return None, json.loads(kept["answer"])
            shipment_id = self._new_id("shp", kind, order)
            receipt = {"id": shipment_id, "order": order, "kind": kind, "carrier": "DHL"}
            receipt |= {"tracking": f"DH{shipment_id[4:].upper()}", "status": "created"}
            self._db.execute(
                "INSERT INTO shipments VALUES (?, ?, ?)", (shipment_id, order, _text(receipt))
            )
            if key is not None:
                self._db.execute(
                    "INSERT INTO answers VALUES (?, ?, ?)", (key, asked, _text(receipt))
                )
            return self._enter(kind, order, {}, key=key), receipt

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _stock(self, records: Mapping[str, Any]) -> None:
        order = records["order"]
        self._db.execute("INSERT OR IGNORE INTO orders VALUES (?, ?)", (order["id"], _text(order)))
        for payment in records["payments"]:
            self._db.execute(
                "INSERT OR IGNORE INTO payments VALUES (?, ?, ?)",
                (payment["id"], order["id"], _text(payment)),
            )
        for shipment in records["shipments"]:
            self._db.execute(
                "INSERT OR IGNORE INTO shipments VALUES (?, ?, ?)",
                (shipment["id"], order["id"], _text(shipment)),
            )

    def _new_id(self, prefix: str, kind: str, order: str) -> str:
        (before,) = self._db.execute(
            'SELECT count(*) FROM ledger WHERE "order" = ? AND kind = ?', (order, kind)
        ).fetchone()
        return f"{prefix}_{hashlib.sha256(f'{kind}|{order}|{before}'.encode()).hexdigest()[:12]}"

    def _enter(
        self,
        kind: str,
        order: str,
        details: Mapping[str, Any],
        *,
        reference: str | None = None,
        key: str | None = None,
    ) -> int:
        row = self._db.execute(
            'INSERT INTO ledger (kind, "order", details, reference, idempotency_key, at)'
            " VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            (kind, order, _text(details), reference, key, time.time()),
        ).fetchone()
        return int(row[0])

    def _rows(self, sql: str, *parameters: str | None) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, parameters)]

    def _documents(self, sql: str, *parameters: str | None) -> list[dict[str, Any]]:
        return [json.loads(row["document"]) for row in self._rows(sql, *parameters)]


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
