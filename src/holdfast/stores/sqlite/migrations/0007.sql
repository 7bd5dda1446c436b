-- Version 7: providers ask to be left alone; schema.sql describes the tables.

CREATE TABLE rest (
  provider TEXT PRIMARY KEY,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
