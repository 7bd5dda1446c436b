-- Version 6: runs stand in queues, with limits; what is paused waits. schema.sql describes the tables.

ALTER TABLE run ADD COLUMN queue TEXT NOT NULL DEFAULT 'default';
ALTER TABLE run ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE run ADD COLUMN key TEXT NOT NULL DEFAULT '';

DROP INDEX run_ready;
DROP INDEX run_wake;
CREATE INDEX run_ready ON run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL;
CREATE INDEX run_begun ON run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL AND epoch > 0;
CREATE INDEX run_wake ON run (agent, wake_at)
  WHERE wake_at > 0 AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at);
CREATE INDEX run_busy ON run (queue, key) WHERE worker IS NOT NULL;

CREATE TABLE pause (
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  by TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
  name TEXT PRIMARY KEY,
  concurrency INTEGER NOT NULL,
  per_key INTEGER NOT NULL,
  rate INTEGER NOT NULL,
  period_us INTEGER NOT NULL,
  used INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
