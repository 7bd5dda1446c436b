-- Version 3: payloads on behalf of subjects; schema.sql describes the tables.

CREATE TABLE holdfast.subject (
  id text COLLATE "C" PRIMARY KEY,
  key bytea NOT NULL,
  erased text COLLATE "C" NOT NULL
);
