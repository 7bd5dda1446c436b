-- Version 5: payloads on behalf of subjects; schema.sql describes the tables.

CREATE TABLE subject (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  erased TEXT NOT NULL,
  scrubbed INTEGER NOT NULL
) STRICT;

CREATE TABLE subject_key (
  subject INTEGER PRIMARY KEY,
  key BLOB NOT NULL
) STRICT;

CREATE TABLE subject_run (
  subject INTEGER NOT NULL,
  run INTEGER NOT NULL,
  PRIMARY KEY (subject, run)
) STRICT, WITHOUT ROWID;
