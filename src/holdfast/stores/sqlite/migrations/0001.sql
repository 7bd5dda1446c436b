-- Version 1, from nothing; schema.sql describes the tables.

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
  ready_at INTEGER
) STRICT;
CREATE INDEX run_created ON run (created_at, id);
CREATE INDEX run_ready ON run (agent, ready_at) WHERE ready_at IS NOT NULL;
CREATE INDEX run_wake ON run (agent, wake_at) WHERE wake_at > 0;
CREATE INDEX run_held ON run (worker) WHERE worker IS NOT NULL;

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

CREATE TABLE worker (
  id TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL,
  locked INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE chunk (
  n INTEGER PRIMARY KEY,
  hash BLOB NOT NULL UNIQUE,
  form INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;
