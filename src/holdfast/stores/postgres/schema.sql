-- The tables of a store in a PostgreSQL database, as version 5 of the schema has them. They stand in
-- a schema of their own, `holdfast`; meta says which version it has. migrations/ leads from each
-- version to the next, and a test shows that both ways end in the same tables.
--
-- Times are µs since the epoch of Unix, 0 for never. `form` says how the payload beside it is kept:
-- 0 as it is, 1 deflated, 2 as the root of a tree of chunks, 3 gone (erased, or collected); NULL as
-- payload means there is none (any more). A payload on behalf of a subject is encrypted, with its salt inside.
-- Names are compared byte by byte, hence COLLATE "C".
CREATE SCHEMA holdfast;

-- meta: one row that says whose the schema is, and its version.
CREATE TABLE holdfast.meta (
  program text PRIMARY KEY CHECK (program = 'holdfast'),
  version bigint NOT NULL
);
INSERT INTO holdfast.meta (program, version) VALUES ('holdfast', 5);

-- run: the row of each run (what its stream folds to), and its lease.
--
-- `n` is what other tables call the run: small, and never given to another. `id` to `parent_key`
-- and `queue` to `key` are the fields of RunRow, in order. Whoever sends another `epoch` than this one writes nothing.
-- `worker` is who holds the lease, NULL for nobody.
--
-- `seen` is the largest inbox number that the run had looked at when it was last released.
-- `ready_at` is since when the run could go on (its last event's time while it is pending or
-- running, else the time of the oldest unread message newer than `seen`), NULL while a worker holds
-- it or while it cannot. A run whose `wake_at` is due is ready too, which is a matter of what time
-- it is: the next claim that comes by writes it down.
--
-- Advancing a run that is held and does not sleep changes no column of any index, unless its status
-- changes, so the new version of the row fits beside the old one (HOT); room is left for that.
CREATE TABLE holdfast.run (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  id text COLLATE "C" NOT NULL UNIQUE,
  agent text COLLATE "C" NOT NULL,
  status text COLLATE "C" NOT NULL,
  seq bigint NOT NULL,
  head text COLLATE "C" NOT NULL,
  turn bigint NOT NULL,
  turn_seq bigint NOT NULL,
  state_seq bigint NOT NULL,
  wake_at bigint NOT NULL,
  created_at bigint NOT NULL,
  updated_at bigint NOT NULL,
  seed bigint NOT NULL,
  flags bigint NOT NULL,
  parent text COLLATE "C" NOT NULL,
  parent_key text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  worker text COLLATE "C",
  seen bigint NOT NULL DEFAULT 0,
  ready_at bigint,
  queue text COLLATE "C" NOT NULL DEFAULT 'default',
  priority bigint NOT NULL DEFAULT 0,
  key text COLLATE "C" NOT NULL DEFAULT ''
) WITH (fillfactor = 70);
CREATE INDEX run_created ON holdfast.run (created_at, id);
CREATE INDEX run_held ON holdfast.run (worker) WHERE worker IS NOT NULL;
CREATE INDEX run_stuck ON holdfast.run (created_at, id) WHERE status IN ('diverged', 'in_doubt');
CREATE INDEX run_ready ON holdfast.run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL;
CREATE INDEX run_begun ON holdfast.run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL AND epoch > 0;
CREATE INDEX run_wake ON holdfast.run (agent, wake_at)
  WHERE wake_at > 0 AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at);
CREATE INDEX run_busy ON holdfast.run (queue, key) WHERE worker IS NOT NULL;

-- event: the streams. `leaf` is the event's exact bytes; `salt` and `payload` are NULL when it has no
-- payload. Rows are only ever added. Where an event stands in the log is said by placed.
CREATE TABLE holdfast.event (
  run bigint NOT NULL,
  seq bigint NOT NULL,
  leaf bytea NOT NULL,
  salt bytea,
  form smallint NOT NULL,
  payload bytea,
  PRIMARY KEY (run, seq)
);

-- unplaced, placed: the order of the log. Whoever appends notes in unplaced which `count` events of
-- which run these are, from `seq` on; `n` follows what the writer could have seen, for it is drawn
-- while the run's row is locked. One at a time (an advisory lock), whoever sequences takes the notes
-- that are committed by then and gives them the next positions: events `seq` … stand at `pos` … .
-- So positions have no gaps, and nothing ever appears in front of what a reader has seen.
CREATE TABLE holdfast.unplaced (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run bigint NOT NULL,
  seq bigint NOT NULL,
  count bigint NOT NULL
);
CREATE TABLE holdfast.placed (
  pos bigint PRIMARY KEY,
  run bigint NOT NULL,
  seq bigint NOT NULL,
  count bigint NOT NULL
);
CREATE UNIQUE INDEX placed_seq ON holdfast.placed (run, seq);

-- inbox: every message that ever arrived, for (run, id) is unique for ever. `run` is an id, since a
-- message may be there before its run is. `n` counts arrivals over the whole store, in the order in
-- which they became visible: deliveries are made one after the other (an advisory lock). `cause` is
-- JSON. A message that was consumed keeps its row and loses its payload, which an event holds now;
-- `taken` is the length of the run's stream after the change that consumed it, NULL while the
-- message is unread, 0 when it was erased unread.
CREATE TABLE holdfast.inbox (
  n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run text COLLATE "C" NOT NULL,
  id text COLLATE "C" NOT NULL,
  topic text NOT NULL,
  at bigint NOT NULL,
  sender text NOT NULL,
  cause text NOT NULL,
  form smallint NOT NULL,
  payload bytea,
  taken bigint
);
CREATE UNIQUE INDEX inbox_id ON holdfast.inbox (run, id);
CREATE INDEX inbox_unread ON holdfast.inbox (run, n) WHERE taken IS NULL;

-- worker: one heartbeat for all the runs that a worker holds, by the database's clock. `since` is
-- when it became known, `about` what it says of itself, as JSON.
CREATE TABLE holdfast.worker (
  id text COLLATE "C" PRIMARY KEY,
  expires_at bigint NOT NULL,
  since bigint NOT NULL,
  about text NOT NULL DEFAULT ''
) WITH (fillfactor = 50);

-- pause: what is not claimed until it is resumed: kind 'run', 'queue' or 'agent'.
CREATE TABLE holdfast.pause (
  kind text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  by text NOT NULL,
  at bigint NOT NULL,
  PRIMARY KEY (kind, name)
);

-- queue: the limits of those that have some; 0 is none. `used` is up to when (µs) the runs that have
-- begun use up the rate. `claims` counts claims from the queue: who chooses runs and then finds
-- another number has not seen what somebody else has taken, and chooses anew.
CREATE TABLE holdfast.queue (
  name text COLLATE "C" PRIMARY KEY,
  concurrency bigint NOT NULL,
  per_key bigint NOT NULL,
  rate bigint NOT NULL,
  period_us bigint NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  claims bigint NOT NULL DEFAULT 0
);

-- subject: on whose behalf payloads are kept, by a pseudonymous id. `key` is the subject's data key,
-- wrapped by a master key that is never in the database; 60 bytes, all 0 once it was destroyed.
-- `erased` is the run that tells of the erasure, empty while there was none.
CREATE TABLE holdfast.subject (
  id text COLLATE "C" PRIMARY KEY,
  key bytea NOT NULL,
  erased text COLLATE "C" NOT NULL
);

-- rest: providers that have asked to be left alone, and until when (µs), by the database's clock. A
-- row stays behind its time until somebody was answered again.
CREATE TABLE holdfast.rest (
  provider text COLLATE "C" PRIMARY KEY,
  until bigint NOT NULL
);

-- chunk: the parts of large payloads, each stored once, whichever payloads share it. `hash` is the
-- first 20 bytes of the SHA-256 of its bytes; `n`, below 2^32, is how a tree refers to it. Two writers
-- that have the same new part at the same moment store it twice, rather than wait for each other.
CREATE SEQUENCE holdfast.chunk_n AS bigint MAXVALUE 4294967295;
CREATE TABLE holdfast.chunk (
  n bigint PRIMARY KEY,
  hash bytea NOT NULL,
  form smallint NOT NULL,
  data bytea NOT NULL
);
CREATE INDEX chunk_hash ON holdfast.chunk (hash);

-- signer: the keys that sign the log, the first one first; none while the log is not signed. `key`
-- is a verifier key, `since` the size behind which it signs, `statement` the note by which the one
-- before it handed over, empty for the first.
CREATE TABLE holdfast.signer (
  n bigint PRIMARY KEY,
  key text NOT NULL,
  since bigint NOT NULL,
  statement text NOT NULL
);

-- head: signed tree heads, from the first signer on. The newest one covers every event that has a
-- position, for whoever gives positions signs in the same transaction: leaf `i` of the tree is the
-- event at position `i + 1`. Of the tiles before the last, the first head in each is kept.
CREATE TABLE holdfast.head (
  size bigint PRIMARY KEY,
  root bytea NOT NULL,
  signature bytea NOT NULL
);

-- tile: the full tiles of the tree, 256 hashes each; `root` is the hash above them. Those of
-- level 0 are leaf hashes, those of level L + 1 the roots of tiles of level L.
CREATE TABLE holdfast.tile (
  level bigint NOT NULL,
  n bigint NOT NULL,
  root bytea NOT NULL,
  hashes bytea NOT NULL,
  PRIMARY KEY (level, n)
);
