-- The tables of a store file, as version 7 of the format has them; PRAGMA user_version says which
-- version a file has, PRAGMA application_id ('hold') that it is one of ours. migrations/ leads from
-- each version to the next, and a test shows that both ways end in the same tables.
--
-- Times are µs since the epoch of Unix, 0 for never. `form` says how the payload beside it is kept:
-- 0 as it is, 1 deflated, 2 as the root of a tree of chunks, 3 gone (erased, or collected); NULL as
-- payload means there is none (any more). A payload on behalf of a subject is encrypted, with its salt inside.
-- A file may hold tables of its user's as well; they take no part in anything below.

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
-- Advancing a run that is held and does not sleep sets no column of any index. The one index that goes
-- by status has the few runs that wait for a person.
CREATE TABLE run (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  agent TEXT NOT NULL,
  status TEXT NOT NULL,
  seq INTEGER NOT NULL,
  head TEXT NOT NULL,
  turn INTEGER NOT NULL,
  turn_seq INTEGER NOT NULL,
  state_seq INTEGER NOT NULL,
  wake_at INTEGER NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  seed INTEGER NOT NULL,
  flags INTEGER NOT NULL,
  parent TEXT NOT NULL,
  parent_key TEXT NOT NULL,
  epoch INTEGER NOT NULL DEFAULT 0,
  worker TEXT,
  seen INTEGER NOT NULL DEFAULT 0,
  ready_at INTEGER,
  queue TEXT NOT NULL DEFAULT 'default',
  priority INTEGER NOT NULL DEFAULT 0,
  key TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX run_created ON run (created_at, id);
CREATE INDEX run_ready ON run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL;
CREATE INDEX run_begun ON run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL AND epoch > 0;
CREATE INDEX run_wake ON run (agent, wake_at)
  WHERE wake_at > 0 AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at);
CREATE INDEX run_held ON run (worker) WHERE worker IS NOT NULL;
CREATE INDEX run_stuck ON run (created_at, id) WHERE status IN ('diverged', 'in_doubt');
CREATE INDEX run_busy ON run (queue, key) WHERE worker IS NOT NULL;

-- event: the log. `pos` is the position: one writer at a time takes the next, so whoever sees a
-- position has seen all that came before it. `leaf` is the event's exact bytes; `salt` and
-- `payload` are NULL when it has no payload. Rows are only ever added.
CREATE TABLE event (
  pos INTEGER PRIMARY KEY,
  run INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  leaf BLOB NOT NULL,
  salt BLOB,
  form INTEGER NOT NULL,
  payload BLOB
) STRICT;
CREATE UNIQUE INDEX event_seq ON event (run, seq);

-- inbox: every message that ever arrived, for (run, id) is unique for ever. `run` is an id, since a
-- message may be there before its run is. `n` counts arrivals over the whole store. `cause` is
-- JSON. A message that was consumed keeps its row and loses its payload, which an event holds now;
-- `taken` is the length of the run's stream after the change that consumed it, NULL while the
-- message is unread, 0 when it was erased unread.
CREATE TABLE inbox (
  n INTEGER PRIMARY KEY,
  run TEXT NOT NULL,
  id TEXT NOT NULL,
  topic TEXT NOT NULL,
  at INTEGER NOT NULL,
  sender TEXT NOT NULL,
  cause TEXT NOT NULL,
  form INTEGER NOT NULL,
  payload BLOB,
  taken INTEGER
) STRICT;
CREATE UNIQUE INDEX inbox_id ON inbox (run, id);
CREATE INDEX inbox_unread ON inbox (run, n) WHERE taken IS NULL;

-- worker: one heartbeat for all the runs that a worker holds. `locked` is 1 when it holds a lock
-- that ends with its process (presence.py), so that its death shows before its lease runs out.
-- `since` is when it became known, `about` what it says of itself, as JSON.
CREATE TABLE worker (
  id TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL,
  locked INTEGER NOT NULL,
  since INTEGER NOT NULL DEFAULT 0,
  about TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

-- subject: on whose behalf payloads are kept, by a pseudonymous id. `erased` is the run that tells of
-- the erasure, empty while there was none; `scrubbed` is 0 from then on until no older page of the
-- file is left in the write-ahead log.
CREATE TABLE subject (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  erased TEXT NOT NULL,
  scrubbed INTEGER NOT NULL
) STRICT;

-- subject_key: a subject's data key, wrapped by a master key that is never in this file; 60 bytes,
-- all 0 once it was destroyed. Rows are of one length and in the order of their numbers, so none is
-- ever moved, and overwriting one leaves no copy.
CREATE TABLE subject_key (
  subject INTEGER PRIMARY KEY,
  key BLOB NOT NULL
) STRICT;

-- subject_run: which runs hold payloads of a subject.
CREATE TABLE subject_run (
  subject INTEGER NOT NULL,
  run INTEGER NOT NULL,
  PRIMARY KEY (subject, run)
) STRICT, WITHOUT ROWID;

-- pause: what is not claimed until it is resumed: kind 'run', 'queue' or 'agent'.
CREATE TABLE pause (
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  by TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

-- queue: the limits of those that have some; 0 is none. `used` is up to when (µs) the runs that have
-- begun use up the rate.
CREATE TABLE queue (
  name TEXT PRIMARY KEY,
  concurrency INTEGER NOT NULL,
  per_key INTEGER NOT NULL,
  rate INTEGER NOT NULL,
  period_us INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- rest: providers that have asked to be left alone, and until when (µs). A row stays behind its time
-- until somebody was answered again.
CREATE TABLE rest (
  provider TEXT PRIMARY KEY,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- chunk: the parts of large payloads, each stored once, whichever payloads share it. `hash` is the
-- first 20 bytes of the SHA-256 of its bytes; `n` is how a tree refers to it. payloads.py describes
-- the trees.
CREATE TABLE chunk (
  n INTEGER PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  form INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;

-- signer: the keys that sign the log, the first one first; none while the log is not signed. `key`
-- is a verifier key, `since` the size behind which it signs, `statement` the note by which the one
-- before it handed over, empty for the first. From the first row on every commit that adds an
-- event adds a head.
CREATE TABLE signer (
  n INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  since INTEGER NOT NULL,
  statement TEXT NOT NULL
) STRICT;

-- head: signed tree heads. The newest one covers every event, for it is written in the commit that
-- adds them: leaf `i` of the tree is the event at position `i + 1`. Of the tiles before the last,
-- the first head in each is kept, of the last one that of every commit.
CREATE TABLE head (
  size INTEGER PRIMARY KEY,
  root BLOB NOT NULL,
  signature BLOB NOT NULL
) STRICT;

-- tile: the full tiles of the tree, 256 hashes each; `root` is the hash above them. Those of
-- level 0 are leaf hashes, those of level L + 1 the roots of tiles of level L.
CREATE TABLE tile (
  level INTEGER NOT NULL,
  n INTEGER NOT NULL,
  root BLOB NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (level, n)
) STRICT;
