-- Version 5: providers ask to be left alone; schema.sql describes the tables.

CREATE TABLE holdfast.rest (
  provider text COLLATE "C" PRIMARY KEY,
  until bigint NOT NULL
);
