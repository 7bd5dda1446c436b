"""Every statement that the store runs again and again; schema.sql describes the tables.

``@NAMES`` stand for what several statements share. Values are always bound. The columns of a batch
come as arrays, one parameter each (``values.py``).

Whoever locks takes locks in this order, so that nobody waits in a circle: the one for deliveries,
workers by id, queues by name, runs by id, then rows that it inserts, runs by id. Whoever finds a
run locked while it looks for one to claim skips it.
"""

from holdfast.core.state import ENDED, RunRow

__all__ = [
    "ALIVE",
    "BUSY",
    "CLAIM_NAMED",
    "CLOCK",
    "DELIVERING",
    "EVENTS",
    "EXPECT",
    "FAMILY",
    "FORGET",
    "FREE",
    "FREE_LOST",
    "HEADS",
    "HEARTBEAT",
    "HELD",
    "HELD_BY_QUEUE",
    "INBOX",
    "INDEX",
    "KEEP",
    "KNOWN_CHUNKS",
    "LATEST",
    "LEASE",
    "LEAVES",
    "LIMIT",
    "LIMITS",
    "LOAD_CHUNKS",
    "LOCK_RUNS",
    "LOG",
    "MAIL",
    "MARK",
    "NEWS",
    "NEXT_WAKE",
    "NUMBERS",
    "PAUSE",
    "PAUSED_PLACES",
    "PAUSES",
    "PLACE",
    "PRIORITY_NOWHERE",
    "PROBE",
    "READY",
    "READY_BY_QUEUE",
    "RECEIVE",
    "REGISTER",
    "RENEW",
    "REST",
    "RESTS",
    "REST_ENDS",
    "RESUME",
    "ROW",
    "ROWS",
    "SEEN",
    "SEQUENCING",
    "SETTLE",
    "STANDING",
    "STANDING_BELOW",
    "STRAYS",
    "STUCK",
    "UNREAD",
    "VERSION",
    "WAIT",
    "WAKE_UP",
    "WORKERS",
    "write",
]

PRIORITY_NOWHERE = -(2**62)
"""Below every priority: the place in front of all lanes."""

_DELIVERING_KEY, _SEQUENCING_KEY, _CHUNKS_KEY = (0x686F6C6400 + n for n in (1, 2, 4))  # 'hold'

_FIELDS = ("id", *RunRow._fields[1:])  # the columns that make a RunRow, in order
_SHARED = {
    "@ROW_FIELDS": ", ".join(f"run.{name}" for name in _FIELDS),
    "@LEASED_FIELDS": ", ".join(f"leased.{name}" for name in _FIELDS),
    "@FIELDS": ", ".join(_FIELDS),
    "@VALUES": ", ".join(["%s"] * len(_FIELDS)),
    "@MESSAGE": "inbox.n, inbox.run, inbox.id, topic, form, payload, at, sender, cause",
    "@IS_DUE": """wake_at > 0 AND wake_at <= %s AND worker IS NULL
        AND (ready_at IS NULL OR ready_at > wake_at)""",
    "@IS_PAUSED": """EXISTS (
        SELECT FROM holdfast.pause WHERE kind = 'run' AND name = run.id)""",
    "@READY_AT": """
      CASE WHEN run.status IN @GOING THEN run.updated_at
        WHEN run.status NOT IN @OVER THEN (
          SELECT min(inbox.at) FROM holdfast.inbox
          WHERE inbox.run = run.id AND inbox.n > run.seen AND inbox.taken IS NULL) END""",
    "@GOING": "('pending', 'running')",
    "@OVER": f"({', '.join(repr(status) for status in sorted(ENDED))})",
    # Leases go by the database's clock, unless the caller gives a time of its own (tests do).
    "@NOW": "coalesce(%s::bigint, (extract(epoch FROM statement_timestamp()) * 1000000)::bigint)",
}


def _sql(statement: str) -> str:
    for name, text in _SHARED.items():
        statement = statement.replace(name, text)
    return statement


# Writing. A batch is one transaction: it takes its locks, then one statement fences the epochs,
# checks lengths and heads, and inserts for those that passed; then released and written-to runs
# learn since when they are ready.
DELIVERING = f"SELECT pg_advisory_xact_lock({_DELIVERING_KEY})"
LOCK_RUNS = """
SELECT id, epoch, seq, head FROM holdfast.run WHERE id = ANY(%s) ORDER BY id FOR UPDATE"""

_MOVED = """
want AS (
  SELECT * FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) AS want (
    i, id, epoch, seq, head, status, to_seq, to_head, turn, turn_seq, state_seq, wake_at,
    updated_at, release, seen)
), moved AS (
  UPDATE holdfast.run SET
    status = want.status, seq = want.to_seq, head = want.to_head, turn = want.turn,
    turn_seq = want.turn_seq, state_seq = want.state_seq, wake_at = want.wake_at,
    updated_at = want.updated_at,
    worker = CASE want.release WHEN 0 THEN run.worker END,
    seen = CASE want.release WHEN 0 THEN run.seen ELSE want.seen END
  FROM want WHERE run.id = want.id
    AND run.epoch = want.epoch AND run.seq = want.seq AND run.head = want.head
  RETURNING want.i, run.n
)"""
_NOTHING_MOVED = "moved AS (SELECT NULL::bigint AS i, NULL::bigint AS n WHERE false)"
_BORN = _sql("""
newborn AS (
  SELECT * FROM unnest(%s, @VALUES) AS newborn (i, @FIELDS)
), born AS (
  INSERT INTO holdfast.run (@FIELDS, ready_at)
  SELECT @FIELDS, CASE WHEN status IN @GOING THEN updated_at END
  FROM newborn LEFT JOIN moved USING (i)
  WHERE i = 0 OR moved.n IS NOT NULL
  ORDER BY id
  ON CONFLICT (id) DO NOTHING
  RETURNING id, n
)""")
_NOTHING_BORN = "born AS (SELECT NULL::text AS id, NULL::bigint AS n WHERE false)"
_ADDED = """
added AS (
  INSERT INTO holdfast.event (run, seq, leaf, salt, form, payload)
  SELECT coalesce(moved.n, born.n), fresh.seq, leaf, salt, form, payload
  FROM unnest(%s, %s, %s, %s, %s, %s, %s) AS fresh (i, id, seq, leaf, salt, form, payload)
  LEFT JOIN moved ON moved.i = fresh.i LEFT JOIN born ON born.id = fresh.id
  WHERE moved.n IS NOT NULL OR born.n IS NOT NULL
), noted AS (
  INSERT INTO holdfast.unplaced (run, seq, count)
  SELECT coalesce(moved.n, born.n), fresh.seq, fresh.count
  FROM unnest(%s, %s, %s, %s) WITH ORDINALITY AS fresh (i, id, seq, count, place)
  LEFT JOIN moved ON moved.i = fresh.i LEFT JOIN born ON born.id = fresh.id
  WHERE moved.n IS NOT NULL OR born.n IS NOT NULL
  ORDER BY place
)"""
_TAKEN = """
taken AS (
  UPDATE holdfast.inbox SET taken = fresh.seq, form = 0, payload = NULL
  FROM unnest(%s, %s, %s, %s) AS fresh (i, id, n, seq) JOIN moved USING (i)
  WHERE inbox.n = fresh.n AND inbox.run = fresh.id AND inbox.taken IS NULL
)"""
_SENT = """
sent AS (
  INSERT INTO holdfast.inbox (run, id, topic, at, sender, cause, form, payload)
  SELECT fresh.run, fresh.id, topic, at, sender, cause, form, payload
  FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s) WITH ORDINALITY
    AS fresh (i, run, id, topic, at, sender, cause, form, payload, place)
  LEFT JOIN moved USING (i)
  WHERE i = 0 OR moved.n IS NOT NULL
  ORDER BY place
  ON CONFLICT (run, id) DO NOTHING
  RETURNING run, id
)"""
_NOTHING_SENT = "sent AS (SELECT NULL::text AS run, NULL::text AS id WHERE false)"

_DONE = """
SELECT 0::bigint, i, '', '' FROM moved
UNION ALL SELECT 1, 0, id, '' FROM born UNION ALL SELECT 2, 0, run, id FROM sent"""


def write(*, moves: bool, births: bool, adds: bool, takes: bool, sends: bool) -> str:
    """Return the statement of a batch that holds these things.

    Its values are the columns of each, in this order. Its rows say what was done:
    ``(0, i, '', '')`` a run moved, ``(1, 0, run, '')`` one was created, ``(2, 0, run, id)`` a
    message arrived.
    """
    parts = [
        _MOVED if moves else _NOTHING_MOVED,
        _BORN if births else _NOTHING_BORN,
        *([_ADDED] if adds else []),
        *([_TAKEN] if takes else []),
        _SENT if sends else _NOTHING_SENT,
    ]
    return "WITH " + ", ".join(parts) + _DONE


SETTLE = _sql("""
UPDATE holdfast.run SET ready_at = @READY_AT
WHERE n = ANY(ARRAY(SELECT n FROM holdfast.run WHERE id = ANY(%s) AND worker IS NULL))
  AND worker IS NULL AND ready_at IS DISTINCT FROM @READY_AT""")

# After an answer that was lost: write something that waits for the standbys, then look for one's
# own events.
MARK = "SELECT pg_logical_emit_message(true, 'holdfast', '')"
SEEN = """
SELECT run.id, event.seq, event.leaf
FROM unnest(%s, %s) AS asked (id, seq) JOIN holdfast.run ON run.id = asked.id
JOIN holdfast.event ON event.run = run.n AND event.seq = asked.seq"""

# A run that comes from another store, part by part, held by nobody real until the last.
EXPECT = _sql("""
INSERT INTO holdfast.run (@FIELDS, worker)
VALUES (@VALUES, %s)
ON CONFLICT (id) DO NOTHING""")
RECEIVE = """
WITH moved AS (
  UPDATE holdfast.run SET status = %s, seq = %s, head = %s, turn = %s, turn_seq = %s,
    state_seq = %s, updated_at = %s, wake_at = %s, epoch = greatest(epoch, %s), worker = %s
  WHERE id = %s AND seq = %s AND head = %s AND (worker IS NULL OR worker = %s)
  RETURNING 1::bigint AS i, n
), @NOTHING_BORN, @ADDED, arrived AS (
  INSERT INTO holdfast.inbox (run, id, topic, at, sender, cause, form, payload, taken)
  SELECT run, id, topic, at, sender, cause, form, payload, nullif(taken, 0)
  FROM moved, unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s) WITH ORDINALITY
    AS fresh (run, id, topic, at, sender, cause, form, payload, taken, place)
  ORDER BY place
  ON CONFLICT (run, id) DO UPDATE SET taken = excluded.taken, form = 0, payload = NULL
  WHERE inbox.taken IS NULL AND excluded.taken IS NOT NULL
)
SELECT n FROM moved"""
RECEIVE = RECEIVE.replace("@NOTHING_BORN", _NOTHING_BORN).replace("@ADDED", _ADDED)

# Payloads.
KNOWN_CHUNKS = "SELECT hash, n FROM holdfast.chunk WHERE hash = ANY(%s)"
NUMBERS = "SELECT nextval('holdfast.chunk_n') FROM generate_series(1, %s)"
KEEP = """
INSERT INTO holdfast.chunk (n, hash, form, data)
SELECT n, hash, form, data FROM unnest(%s, %s, %s, %s) AS fresh (n, hash, form, data)"""
USING_CHUNKS = f"SELECT pg_advisory_xact_lock_shared({_CHUNKS_KEY})"
SWEEPING = f"SELECT pg_advisory_xact_lock({_CHUNKS_KEY})"
ARE_THERE = "SELECT 1 / (count(*) = %s)::int FROM holdfast.chunk WHERE n = ANY(%s)"
LOAD_CHUNKS = "SELECT n, form, data FROM holdfast.chunk WHERE n = ANY(%s)"

# The order of the log.
WAIT = "SELECT set_config('lock_timeout', %s, true)"
SEQUENCING = f"SELECT pg_advisory_xact_lock({_SEQUENCING_KEY})"
# The table of notes is mostly empty, and what was counted then must not make this a join of each
# note with each: a range is read once, by whatever plan.
PLACE = """
WITH noted AS (
  DELETE FROM holdfast.unplaced WHERE n <= (
    SELECT max(n) FROM (SELECT n FROM holdfast.unplaced ORDER BY n LIMIT %s) AS first)
  RETURNING n, run, seq, count
)
INSERT INTO holdfast.placed (pos, run, seq, count)
SELECT
  coalesce((SELECT pos + count FROM holdfast.placed ORDER BY pos DESC LIMIT 1), 1)
    + (sum(count) OVER (ORDER BY n))::bigint - count,
  run, seq, count
FROM noted
RETURNING pos, count"""
_LOG = """
SELECT @WHAT
FROM holdfast.placed
JOIN holdfast.event ON event.run = placed.run
  AND event.seq >= placed.seq AND event.seq < placed.seq + placed.count
WHERE placed.pos >= coalesce(
    (SELECT pos FROM holdfast.placed WHERE pos <= %s + 1 ORDER BY pos DESC LIMIT 1), 0)
  AND placed.pos <= %s + %s
  AND placed.pos + event.seq - placed.seq > %s
ORDER BY placed.pos + event.seq - placed.seq LIMIT %s"""
LOG = _LOG.replace("@WHAT", "placed.pos + event.seq - placed.seq, leaf, salt, form, payload")
LEAVES = _LOG.replace("@WHAT", "leaf")
INDEX = """
SELECT placed.pos + asked.seq - placed.seq - 1
FROM (SELECT n, %s::bigint AS seq FROM holdfast.run WHERE id = %s) AS asked, LATERAL (
  SELECT pos, seq, count FROM holdfast.placed
  WHERE run = asked.n AND placed.seq <= asked.seq ORDER BY placed.seq DESC LIMIT 1) AS placed
WHERE asked.seq < placed.seq + placed.count"""

# Leases.
VERSION = "SELECT version FROM holdfast.meta"
CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_FREE = _sql("""
UPDATE holdfast.run SET worker = NULL, ready_at = @READY_AT
WHERE n = ANY(ARRAY(
  SELECT n FROM holdfast.run WHERE worker @WHOSE ORDER BY id FOR UPDATE))""")
FREE = _FREE.replace("@WHOSE", "= %s")
FREE_LOST = _sql("""
WITH lost AS (
  DELETE FROM holdfast.worker WHERE id = ANY(ARRAY(
    SELECT id FROM holdfast.worker WHERE expires_at <= @NOW ORDER BY id FOR UPDATE))
  RETURNING id
)""") + _FREE.replace("@WHOSE", "IN (SELECT id FROM lost)")
FORGET = "DELETE FROM holdfast.worker WHERE id = %s"
HEARTBEAT = _sql("""
INSERT INTO holdfast.worker (id, since, expires_at) VALUES (%s, @NOW, @NOW + %s)
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at""")
REGISTER = "UPDATE holdfast.worker SET about = %s WHERE id = %s"
RENEW = _sql("""
UPDATE holdfast.worker SET expires_at = @NOW + %s WHERE id = %s AND expires_at > @NOW
RETURNING id""")

# The line of ready runs. Whose time has come is noted first; then the heads of the lanes are read;
# then what was chosen of them is leased, unless somebody was faster. From a queue with limits
# nothing is leased if anybody has claimed from it in between: its limits let others through then.
# More is read than is taken, since others may be about to take some.
WAKE_UP = _sql("""
UPDATE holdfast.run SET ready_at = wake_at
WHERE n = ANY(ARRAY(
  SELECT due.n FROM unnest(%s) AS asked (agent), LATERAL (
    SELECT n FROM holdfast.run WHERE run.agent = asked.agent AND @IS_DUE
    ORDER BY wake_at LIMIT %s FOR UPDATE SKIP LOCKED) AS due))""")
LIMITS = """
SELECT name, concurrency, per_key, rate, period_us, used, claims
FROM holdfast.queue ORDER BY name"""
PAUSED_PLACES = "SELECT kind, name FROM holdfast.pause WHERE kind IN ('agent', 'queue')"
_LANES = """
WITH RECURSIVE asked AS (
  SELECT agent, queue COLLATE "C" AS queue, priority, key COLLATE "C" AS key
  FROM unnest(%s, %s, %s, %s) AS asked (agent, queue, priority, key)
), lane AS (
  SELECT agent, queue, priority, key, 0 AS turn, 0 AS n FROM asked
  UNION ALL
  SELECT agent, '', NOWHERE, '', 1, 0 FROM asked WHERE priority > NOWHERE
  UNION ALL
  SELECT lane.agent, next.*, lane.turn, lane.n + 1 FROM lane JOIN asked USING (agent), LATERAL (
    SELECT queue, priority, key FROM holdfast.run
    WHERE run.agent = lane.agent AND ready_at IS NOT NULL
      AND (queue, priority, key) > (lane.queue, lane.priority, lane.key)
      AND (lane.turn = 0 OR (queue, priority, key) <= (asked.queue, asked.priority, asked.key))
    ORDER BY queue, priority, key LIMIT 1) AS next
  WHERE lane.n < %s
), compared AS (
  SELECT agent, queue, priority, key FROM lane WHERE n > 0 ORDER BY turn, n, agent LIMIT %s
)""".replace("NOWHERE", str(PRIORITY_NOWHERE))
_HEADS = _sql("""
SELECT @MORE AS begun, compared.*, head.* FROM compared LEFT JOIN LATERAL (
  SELECT ready_at, id, epoch > 0, n FROM holdfast.run
  WHERE run.agent = compared.agent AND run.queue = compared.queue
    AND run.priority = compared.priority AND run.key = compared.key
    AND ready_at IS NOT NULL AND (NOT @MORE OR epoch > 0) AND NOT @IS_PAUSED
  ORDER BY ready_at, id LIMIT %s) AS head ON true
WHERE @WHICH""")
HEADS = _LANES + "UNION ALL".join(
    _HEADS.replace("@MORE", more).replace("@WHICH", which)
    for more, which in (
        ("false", "compared.key = ''"),
        ("false", "compared.key <> ''"),
        ("true", "compared.queue IN (SELECT name FROM holdfast.queue WHERE rate > 0)"),
    )
)
FAMILY = _sql("""
SELECT false, agent, queue, priority, key, ready_at, id, epoch > 0, n FROM holdfast.run
WHERE agent = ANY(%s) AND ready_at IS NOT NULL AND NOT @IS_PAUSED
  AND (id = %s OR (id > %s || '/' AND id < %s || '0'))
ORDER BY ready_at, id""")  # 0 comes after the slash
BUSY = """
SELECT queue, key, count(*) FROM holdfast.run
WHERE worker IS NOT NULL AND (key <> '' OR queue IN (SELECT name FROM holdfast.queue))
GROUP BY queue, key"""
LEASE = _sql("""
WITH wanted AS (
  SELECT * FROM unnest(%s) WITH ORDINALITY AS wanted (n, place)
), limited AS (
  SELECT queue.name FROM unnest(%s, %s) AS seen (name, claims) JOIN holdfast.queue USING (name)
  WHERE queue.claims = seen.claims ORDER BY name FOR UPDATE OF queue
), leased AS (
  UPDATE holdfast.run SET worker = %s, epoch = epoch + 1, ready_at = NULL
  WHERE n = ANY(ARRAY(
    SELECT run.n FROM wanted JOIN holdfast.run ON run.n = wanted.n
    WHERE run.ready_at IS NOT NULL AND NOT @IS_PAUSED
      AND (run.queue <> ALL(%s) OR run.queue IN (SELECT name FROM limited))
    ORDER BY wanted.place LIMIT %s FOR UPDATE OF run SKIP LOCKED))
  RETURNING n, epoch, @ROW_FIELDS
), counted AS (
  UPDATE holdfast.queue SET claims = claims + 1, used = CASE
      WHEN rate = 0 OR begun.count = 0 THEN used
      ELSE greatest(used, %s) + begun.count * (period_us / rate) END
  FROM (
    SELECT queue AS name, count(*) FILTER (WHERE epoch = 1) AS count FROM leased GROUP BY queue
  ) AS begun
  WHERE queue.name = begun.name AND queue.name IN (SELECT name FROM limited)
)
SELECT leased.epoch, @LEASED_FIELDS FROM leased JOIN wanted USING (n) ORDER BY wanted.place""")
CLAIM_NAMED = _sql("""
UPDATE holdfast.run SET worker = %s, epoch = epoch + 1, ready_at = NULL
WHERE n = ANY(ARRAY(
  SELECT n FROM holdfast.run
  WHERE id = %s AND agent = ANY(%s) AND worker IS NULL AND status NOT IN @OVER
    AND NOT EXISTS (SELECT FROM holdfast.pause
      WHERE (kind, name) IN (('run', run.id), ('queue', run.queue), ('agent', run.agent)))
  FOR UPDATE))
RETURNING epoch, @ROW_FIELDS""")
PAUSE = """
INSERT INTO holdfast.pause (kind, name, by, at) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING 1"""
RESUME = "DELETE FROM holdfast.pause WHERE kind = %s AND name = %s RETURNING 1"
PAUSES = "SELECT kind, name, by, at FROM holdfast.pause ORDER BY kind, name"
REST = _sql("""
INSERT INTO holdfast.rest (provider, until) VALUES (%s, @NOW + %s)
ON CONFLICT (provider) DO UPDATE SET until = excluded.until""")
REST_ENDS = "DELETE FROM holdfast.rest WHERE provider = %s"
RESTS = _sql("SELECT provider, until - @NOW FROM holdfast.rest ORDER BY provider")
PROBE = _sql("""
UPDATE holdfast.rest SET until = @NOW + %s WHERE provider = %s AND until <= @NOW RETURNING 1""")
LIMIT = """
INSERT INTO holdfast.queue (name, concurrency, per_key, rate, period_us)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (name) DO UPDATE SET concurrency = excluded.concurrency, per_key = excluded.per_key,
  rate = excluded.rate, period_us = excluded.period_us"""
HELD_BY_QUEUE = "SELECT queue, count(*) FROM holdfast.run WHERE worker IS NOT NULL GROUP BY queue"
READY_BY_QUEUE = """
SELECT queue, count(*) FROM (
  SELECT queue FROM holdfast.run WHERE ready_at IS NOT NULL
  UNION ALL
  SELECT queue FROM holdfast.run
  WHERE ready_at IS NULL AND wake_at > 0 AND wake_at <= %s AND worker IS NULL) AS waiting
GROUP BY queue"""
HELD = _sql("SELECT epoch, @FIELDS FROM holdfast.run WHERE worker = %s ORDER BY id")

# Reads. ROWS gets its conditions where it is used.
READY = _sql("""
SELECT EXISTS (SELECT FROM holdfast.worker WHERE expires_at <= @NOW)
    OR EXISTS (SELECT FROM holdfast.run WHERE agent = ANY(%s) AND @IS_DUE),
  EXISTS (SELECT FROM holdfast.run WHERE agent = ANY(%s) AND ready_at IS NOT NULL)""")
NEXT_WAKE = """
SELECT coalesce(min(wake_at), 0) FROM unnest(%s) AS asked (agent), LATERAL (
  SELECT wake_at FROM holdfast.run
  WHERE run.agent = asked.agent AND wake_at > 0 AND wake_at > %s AND worker IS NULL
    AND (ready_at IS NULL OR ready_at > wake_at)
  ORDER BY wake_at LIMIT 1) AS next"""
ROW = _sql("SELECT @FIELDS FROM holdfast.run WHERE id = %s")
ROWS = _sql("""
SELECT @FIELDS FROM holdfast.run WHERE @CONDITIONS ORDER BY created_at DESC, id DESC LIMIT %s""")
STUCK = "status IN ('diverged', 'in_doubt')"  # to the letter what the index run_stuck says
EVENTS = """
SELECT leaf, salt, form, payload FROM holdfast.event
WHERE run = (SELECT n FROM holdfast.run WHERE id = %s) AND seq > %s AND seq <= %s
ORDER BY seq LIMIT %s"""
ALIVE = _sql("SELECT id FROM holdfast.worker WHERE expires_at > @NOW")
WORKERS = _sql("""
SELECT id, since, expires_at,
  (SELECT count(*) FROM holdfast.run WHERE run.worker = known.id), about
FROM holdfast.worker AS known WHERE expires_at > @NOW ORDER BY id""")
STANDING = _sql("""
SELECT epoch, worker, @FIELDS FROM holdfast.run
WHERE id >= %s AND id > %s AND starts_with(id, %s) ORDER BY id LIMIT %s""")
STANDING_BELOW = STANDING.replace("ORDER", "AND id < %s ORDER")
INBOX = _sql("""
SELECT @MESSAGE, taken FROM holdfast.inbox
WHERE run = %s AND n > %s AND form <> 3 ORDER BY n LIMIT %s""")
STRAYS = """
SELECT DISTINCT run FROM holdfast.inbox
WHERE run > %s AND form <> 3
  AND NOT EXISTS (SELECT FROM holdfast.run AS known WHERE known.id = inbox.run)
ORDER BY run LIMIT %s"""
UNREAD = _sql("""
SELECT @MESSAGE FROM holdfast.inbox WHERE run = %s AND n > %s AND taken IS NULL ORDER BY n""")
MAIL = _sql("""
SELECT @MESSAGE FROM holdfast.inbox JOIN holdfast.run ON run.id = inbox.run
WHERE inbox.n > %s AND taken IS NULL AND worker = %s ORDER BY inbox.n""")
LATEST = "SELECT coalesce(max(n), 0) FROM holdfast.inbox"

# Hints. Telling is a transaction of its own and waits for no disk.
NEWS = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('holdfast', %s)"
