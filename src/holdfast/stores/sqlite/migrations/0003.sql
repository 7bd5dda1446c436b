-- Version 3: workers say since when they are known, and what they are.

ALTER TABLE worker ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE worker ADD COLUMN about TEXT NOT NULL DEFAULT '';
