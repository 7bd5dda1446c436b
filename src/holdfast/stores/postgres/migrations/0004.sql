-- Version 4: the log can be signed; schema.sql describes the tables.

CREATE TABLE holdfast.signer (
  n bigint PRIMARY KEY,
  key text NOT NULL,
  since bigint NOT NULL,
  statement text NOT NULL
);

CREATE TABLE holdfast.head (
  size bigint PRIMARY KEY,
  root bytea NOT NULL,
  signature bytea NOT NULL
);

CREATE TABLE holdfast.tile (
  level bigint NOT NULL,
  n bigint NOT NULL,
  root bytea NOT NULL,
  hashes bytea NOT NULL,
  PRIMARY KEY (level, n)
);
