-- Version 4: runs that wait for a person have an index; schema.sql describes the tables.

CREATE INDEX run_stuck ON run (created_at, id) WHERE status IN ('diverged', 'in_doubt');
