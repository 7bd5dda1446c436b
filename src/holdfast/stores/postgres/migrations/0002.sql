-- Version 2: runs stand in queues, with limits; what is paused waits. schema.sql describes the tables.

ALTER TABLE holdfast.run ADD COLUMN queue text COLLATE "C" NOT NULL DEFAULT 'default';
ALTER TABLE holdfast.run ADD COLUMN priority bigint NOT NULL DEFAULT 0;
ALTER TABLE holdfast.run ADD COLUMN key text COLLATE "C" NOT NULL DEFAULT '';

DROP INDEX holdfast.run_ready;
DROP INDEX holdfast.run_wake;
CREATE INDEX run_ready ON holdfast.run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL;
CREATE INDEX run_begun ON holdfast.run (agent, queue, priority, key, ready_at, id)
  WHERE ready_at IS NOT NULL AND epoch > 0;
CREATE INDEX run_wake ON holdfast.run (agent, wake_at)
  WHERE wake_at > 0 AND worker IS NULL AND (ready_at IS NULL OR ready_at > wake_at);
CREATE INDEX run_busy ON holdfast.run (queue, key) WHERE worker IS NOT NULL;

CREATE TABLE holdfast.pause (
  kind text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  by text NOT NULL,
  at bigint NOT NULL,
  PRIMARY KEY (kind, name)
);

CREATE TABLE holdfast.queue (
  name text COLLATE "C" PRIMARY KEY,
  concurrency bigint NOT NULL,
  per_key bigint NOT NULL,
  rate bigint NOT NULL,
  period_us bigint NOT NULL,
  used bigint NOT NULL DEFAULT 0,
  claims bigint NOT NULL DEFAULT 0
);
