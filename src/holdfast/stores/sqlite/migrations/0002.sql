-- Version 2: a log may be signed; schema.sql describes the tables.

CREATE TABLE signer (
  n INTEGER PRIMARY KEY,
  key TEXT NOT NULL,
  since INTEGER NOT NULL,
  statement TEXT NOT NULL
) STRICT;

CREATE TABLE head (
  size INTEGER PRIMARY KEY,
  root BLOB NOT NULL,
  signature BLOB NOT NULL
) STRICT;

CREATE TABLE tile (
  level INTEGER NOT NULL,
  n INTEGER NOT NULL,
  root BLOB NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (level, n)
) STRICT;
