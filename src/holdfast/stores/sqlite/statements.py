"""Every statement that the store runs again and again; schema.sql describes the tables.

``@NAMES`` stand for what several statements share. Values are always bound.
"""

from holdfast.core.state import ENDED, RunRow

__all__ = [
    "ADVANCE",
    "BUSY",
    "BUSY_KEY",
    "CHUNK",
    "EVENTS",
    "FAMILY",
    "FORGET",
    "FREE",
    "HAS_UNREAD",
    "HEAD",
    "HEADS",
    "HEADS_BEGUN",
    "HEADS_OVER",
    "HEARTBEAT",
    "HELD",
    "HELD_BY_QUEUE",
    "INBOX",
    "INDEX",
    "IS_DUE",
    "KNOWN",
    "LANE",
    "LAST_POSITION",
    "LATEST",
    "LEASE",
    "LET_GO",
    "LIMIT",
    "LIMITS",
    "LOG",
    "MAIL",
    "MOVE",
    "NAMED",
    "NEW_EVENT",
    "NEW_HEAD",
    "NEW_MESSAGE",
    "NEW_RUN",
    "NEW_SIGNER",
    "NEW_TILE",
    "NUMBER",
    "PAUSE",
    "PAUSED_PLACES",
    "PAUSES",
    "PLACE",
    "PLACE_OF_RUN",
    "READY_BY_QUEUE",
    "RECEIVE",
    "REGISTER",
    "RENEW",
    "RESUME",
    "ROW",
    "ROWS",
    "SEALED",
    "SETTLE",
    "SIGNERS",
    "STANDING",
    "STANDING_BELOW",
    "STRAYS",
    "STUCK",
    "TAIL",
    "TAKE",
    "TAKE_KNOWN",
    "TILE",
    "TILE_ROOTS",
    "UNREAD",
    "USE",
    "WAKE",
    "WAKES",
    "WAKE_UP",
    "WORKERS",
    "WORKERS_KNOWN",
]

_SHARED = {
    "@FIELDS": ", ".join(("id", *RunRow._fields[1:])),  # the columns that make a RunRow, in order
    "@VALUES": ", ".join("?" * len(RunRow._fields)),
    "@READY_AT": """
        CASE WHEN status IN @GOING THEN updated_at WHEN status IN @OVER THEN NULL ELSE (
          SELECT min(at) FROM inbox
          WHERE inbox.run = run.id AND inbox.n > run.seen AND inbox.taken IS NULL) END""",
    "@GOING": "('pending', 'running')",
    "@STUCK": "('diverged', 'in_doubt')",  # to the letter what the index run_stuck says
    "@OVER": f"({', '.join(repr(status) for status in sorted(ENDED))})",
}


def _sql(statement: str) -> str:
    for name, text in _SHARED.items():
        statement = statement.replace(name, text)
    return statement


# A change of a run: the epoch is fenced and length and head are checked by matching a row or not.
# The first is the common case, a run that is held and does not sleep: it touches no index.
ADVANCE = """
UPDATE run SET status = ?, seq = ?, head = ?, turn = ?, turn_seq = ?, state_seq = ?, updated_at = ?
WHERE n = ? AND epoch = ? AND seq = ? AND head = ? AND worker IS NOT NULL AND wake_at = 0"""
MOVE = """
UPDATE run SET status = ?, seq = ?, head = ?, turn = ?, turn_seq = ?, state_seq = ?, updated_at = ?,
  wake_at = ?
WHERE n = ? AND epoch = ? AND seq = ? AND head = ?"""
LET_GO = "UPDATE run SET worker = NULL, seen = ? WHERE n = ?"
SETTLE = _sql("UPDATE run SET ready_at = @READY_AT WHERE n = ? AND worker IS NULL")
NUMBER = "SELECT n FROM run WHERE id = ?"
PLACE = "SELECT epoch, seq FROM run WHERE id = ?"

NEW_RUN = _sql("INSERT INTO run (@FIELDS) VALUES (@VALUES) ON CONFLICT (id) DO NOTHING")
NEW_EVENT = "INSERT INTO event (run, seq, leaf, salt, form, payload) VALUES (?, ?, ?, ?, ?, ?)"

KNOWN = "SELECT 1 FROM inbox WHERE run = ? AND id = ?"
NEW_MESSAGE = """
INSERT INTO inbox (run, id, topic, at, sender, cause, form, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
WAKE = _sql("""
UPDATE run SET ready_at = min(coalesce(ready_at, ?1), ?1)
WHERE id = ?2 AND worker IS NULL AND status NOT IN @GOING AND status NOT IN @OVER""")
TAKE = """
UPDATE inbox SET taken = ?, form = 0, payload = NULL WHERE n = ? AND run = ? AND taken IS NULL"""

# A run that comes from another store, part by part, held by INCOMING until the last.
PLACE_OF_RUN = "SELECT n, seq, head, worker FROM run WHERE id = ?"
RECEIVE = """
UPDATE run SET status = ?, seq = ?, head = ?, turn = ?, turn_seq = ?, state_seq = ?, updated_at = ?,
  wake_at = ?, epoch = max(epoch, ?), worker = ?
WHERE n = ?"""
TAKE_KNOWN = """
UPDATE inbox SET taken = ?, form = 0, payload = NULL WHERE run = ? AND id = ? AND taken IS NULL"""

# Leases. There are two ways to be ready, each with its index: since `ready_at`, or since `wake_at`
# when that is due.
WORKERS = "SELECT id, expires_at, locked FROM worker"
FREE = _sql("UPDATE run SET worker = NULL, ready_at = @READY_AT WHERE worker = ?")
FORGET = "DELETE FROM worker WHERE id = ?"
HEARTBEAT = """
INSERT INTO worker (id, expires_at, locked, since) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (id) DO UPDATE SET expires_at = ?2, locked = ?3"""
REGISTER = "UPDATE worker SET about = ? WHERE id = ?"
WORKERS_KNOWN = """
SELECT id, since, expires_at, (SELECT count(*) FROM run WHERE worker = worker.id), about FROM worker
ORDER BY id"""
RENEW = "UPDATE worker SET expires_at = ? WHERE id = ? AND expires_at > ?"
LANE = """
SELECT queue, priority, key FROM run
WHERE agent = ?1 AND ready_at IS NOT NULL AND (queue, priority, key) > (?2, ?3, ?4)
ORDER BY queue, priority, key LIMIT 1"""
_HEADS = """
SELECT ready_at, id, epoch > 0, n FROM run
WHERE agent = ?1 AND queue = ?2 AND priority = ?3 AND key = ?4 AND ready_at IS NOT NULL@BEGUN
  AND (ready_at, id) > (?5, ?6)
  AND NOT EXISTS (SELECT 1 FROM pause WHERE kind = 'run' AND name = run.id)
ORDER BY ready_at, id LIMIT ?7"""
HEADS, HEADS_BEGUN = _HEADS.replace("@BEGUN", ""), _HEADS.replace("@BEGUN", " AND epoch > 0")
FAMILY = """
SELECT queue, priority, key, ready_at, id, epoch > 0, n FROM run
WHERE agent = ?1 AND ready_at IS NOT NULL
  AND (id = ?2 OR (id > ?2 || '/' AND id < ?2 || '0'))
  AND NOT EXISTS (SELECT 1 FROM pause WHERE kind = 'run' AND name = run.id)
ORDER BY ready_at, id"""  # 0 comes after the slash
_DUE = """
FROM run
WHERE agent = ?1 AND wake_at > 0 AND wake_at <= ?2
  AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at)"""
IS_DUE = f"SELECT 1 {_DUE} LIMIT 1"
WAKE_UP = f"""
UPDATE run SET ready_at = wake_at
WHERE n IN (SELECT n {_DUE} ORDER BY wake_at LIMIT ?3)"""  # noqa: S608 - constants
NAMED = _sql("""
SELECT agent, queue, n FROM run WHERE id = ? AND worker IS NULL AND status NOT IN @OVER
  AND NOT EXISTS (SELECT 1 FROM pause WHERE kind = 'run' AND name = run.id)""")
BUSY = "SELECT count(*) FROM run WHERE worker IS NOT NULL AND queue = ?"
BUSY_KEY = "SELECT count(*) FROM run WHERE worker IS NOT NULL AND queue = ? AND key = ?"
LEASE = _sql("""
UPDATE run SET worker = ?, epoch = epoch + 1, ready_at = NULL WHERE n = ?
RETURNING epoch, @FIELDS""")

# Reads. ROWS gets its conditions where it is used, STUCK among them.
ROW = _sql("SELECT @FIELDS FROM run WHERE id = ?")
ROWS = _sql("SELECT @FIELDS FROM run WHERE @CONDITIONS ORDER BY created_at DESC, id DESC LIMIT ?")
STUCK = _sql("status IN @STUCK")
HELD = _sql("SELECT epoch, @FIELDS FROM run WHERE worker = ? ORDER BY id")
EVENTS = """
SELECT leaf, salt, form, payload FROM event
WHERE run = (SELECT n FROM run WHERE id = ?) AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"""
LOG = "SELECT leaf, salt, form, payload, pos FROM event WHERE pos > ? ORDER BY pos LIMIT ?"
MAIL = """
SELECT inbox.n, inbox.id, topic, form, payload, at, sender, cause, inbox.run
FROM inbox CROSS JOIN run ON run.id = inbox.run
WHERE inbox.n > ?1 AND taken IS NULL AND worker = ?2 ORDER BY inbox.n"""  # few are new; so first
LATEST = "SELECT coalesce(max(n), 0) FROM inbox"
HAS_UNREAD = "SELECT 1 FROM inbox WHERE run = ? AND n > ? AND taken IS NULL LIMIT 1"
UNREAD = """
SELECT n, id, topic, form, payload, at, sender, cause FROM inbox
WHERE run = ? AND n > ? AND taken IS NULL ORDER BY n LIMIT ?"""
STANDING = _sql("""
SELECT epoch, worker, @FIELDS FROM run WHERE id >= ?1 AND id > ?2 ORDER BY id LIMIT ?3""")
STANDING_BELOW = STANDING.replace("ORDER", "AND id < ?4 ORDER")
INBOX = """
SELECT taken, n, id, topic, form, payload, at, sender, cause FROM inbox
WHERE run = ? AND n > ? AND form <> 3 ORDER BY n LIMIT ?"""
STRAYS = """
SELECT DISTINCT run FROM inbox
WHERE run > ? AND form <> 3 AND NOT EXISTS (SELECT 1 FROM run AS known WHERE known.id = inbox.run)
ORDER BY run LIMIT ?"""
WAKES = """
SELECT wake_at FROM run
WHERE agent = ? AND wake_at > 0 AND wake_at > ?
  AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at)
ORDER BY wake_at LIMIT 1"""

# What is held back.
PAUSE = "INSERT INTO pause (kind, name, by, at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
RESUME = "DELETE FROM pause WHERE kind = ? AND name = ?"
PAUSES = "SELECT kind, name, by, at FROM pause ORDER BY kind, name"
REST = """
INSERT INTO rest (provider, until) VALUES (?, ?)
ON CONFLICT (provider) DO UPDATE SET until = excluded.until"""
REST_ENDS = "DELETE FROM rest WHERE provider = ?"
RESTS = "SELECT provider, until - ? FROM rest ORDER BY provider"
PROBE = "UPDATE rest SET until = ? WHERE provider = ? AND until <= ?"
PAUSED_PLACES = "SELECT kind, name FROM pause WHERE kind IN ('agent', 'queue')"
LIMIT = """
INSERT INTO queue (name, concurrency, per_key, rate, period_us) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT (name) DO UPDATE SET concurrency = ?2, per_key = ?3, rate = ?4, period_us = ?5"""
LIMITS = "SELECT name, concurrency, per_key, rate, period_us, used FROM queue ORDER BY name"
USE = "UPDATE queue SET used = ? WHERE name = ?"
HELD_BY_QUEUE = "SELECT queue, count(*) FROM run WHERE worker IS NOT NULL GROUP BY queue"
READY_BY_QUEUE = """
SELECT queue, count(*) FROM run
WHERE ready_at IS NOT NULL OR (wake_at > 0 AND wake_at <= ? AND worker IS NULL)
GROUP BY queue"""

# Payloads.
CHUNK = "SELECT form, data FROM chunk WHERE n = ?"

# The signed tree. SEALED is asked at each commit: who signs by now, and how far the tree has grown.
SEALED = "SELECT (SELECT max(n) FROM signer), (SELECT max(size) FROM head)"
SIGNERS = "SELECT key, since, statement FROM signer ORDER BY n"
NEW_SIGNER = "INSERT INTO signer (key, since, statement) VALUES (?, ?, ?)"
HEAD = "SELECT size, root, signature FROM head WHERE size = (SELECT max(size) FROM head)"
NEW_HEAD = "INSERT INTO head (size, root, signature) VALUES (?, ?, ?)"
HEADS_OVER = """
DELETE FROM head WHERE size > (SELECT min(size) FROM head WHERE size >= ?) AND size < ?"""
NEW_TILE = "INSERT INTO tile (level, n, root, hashes) VALUES (?, ?, ?, ?)"
TILE = "SELECT hashes FROM tile WHERE level = ? AND n = ?"
TILE_ROOTS = "SELECT root FROM tile WHERE level = ? AND n >= ? ORDER BY n LIMIT ?"
TAIL = "SELECT leaf FROM event WHERE pos > ? ORDER BY pos LIMIT ?"
LAST_POSITION = "SELECT coalesce(max(pos), 0) FROM event"
INDEX = "SELECT pos - 1 FROM event WHERE run = (SELECT n FROM run WHERE id = ?) AND seq = ?"
