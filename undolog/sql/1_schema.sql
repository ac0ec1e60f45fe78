-- The handfast schema of one database. These files run as a whole, in one
-- transaction, by a superuser or by the owner of the protected tables. Running
-- them again upgrades functions and keeps data.

-- An older event trigger would look at tables in between, with functions that
-- may be missing.
DO $f$ BEGIN PERFORM pg_catalog.set_config('handfast.arranging', pg_catalog.pg_current_xact_id()::text, true); END $f$;

CREATE SCHEMA IF NOT EXISTS handfast;
REVOKE ALL ON SCHEMA handfast FROM PUBLIC;
-- To call arm() and seal(); the tables stay closed.
GRANT USAGE ON SCHEMA handfast TO PUBLIC;

-- One row: the identity of this database as a resource.
CREATE TABLE IF NOT EXISTS handfast.meta (
  one      boolean PRIMARY KEY DEFAULT true CHECK (one),
  resource uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
  version  integer NOT NULL,
  max_age  interval NOT NULL DEFAULT '24 hours', -- of an XID that may still join
  -- Every table without capture refuses by a trigger, and new ones get theirs
  -- by themselves; where that could not be set up, seal() has to look at locks.
  refusing boolean NOT NULL DEFAULT false
);
INSERT INTO handfast.meta (version) VALUES (1) ON CONFLICT (one) DO UPDATE SET version = 1;

-- Tables with capture, and their neighbours: tables without it that a foreign
-- key joins to one, and that therefore have the guard of foreign keys. The id,
-- not the oid, seeds key hashes: it survives a dump.
CREATE TABLE IF NOT EXISTS handfast.protected (
  id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  rel         regclass NOT NULL UNIQUE,
  capture     boolean NOT NULL,     -- false: a neighbour
  enforce     boolean NOT NULL,     -- whether the guard holds for sessions without XID
  fingerprint text NOT NULL         -- of what the functions were made for; '': they were taken off
);

-- Key owners: whoever inserts first owns, until settled. A unique index sees
-- past every snapshot and waits for owners in progress; a SELECT does neither.
CREATE TABLE IF NOT EXISTS handfast.gate (
  k    bigint PRIMARY KEY,
  xid  text COLLATE "C" NOT NULL,
  seq  bigint NOT NULL DEFAULT 0,     -- of the first undo row, where the key is a row's
  more boolean NOT NULL DEFAULT false -- the row was changed more than once
);

-- One row per branch, and a branch is one local transaction. States:
-- L live (voted yes), T tombstone (can never join), C committed, R rolled back.
CREATE TABLE IF NOT EXISTS handfast.fence (
  xid         text COLLATE "C" NOT NULL,
  branch      uuid NOT NULL,
  state       "char" NOT NULL CHECK (state IN ('L', 'T', 'C', 'R')),
  lxid        xid8,               -- of the local transaction, for L
  who         name NOT NULL DEFAULT session_user,
  at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  store       text,               -- the witness: where the coordinator's log was
  incarnation bigint,
  "position"  bigint,
  PRIMARY KEY (xid, branch)
);
CREATE UNIQUE INDEX IF NOT EXISTS fence_lxid ON handfast.fence (lxid) WHERE state = 'L';
CREATE INDEX IF NOT EXISTS fence_done ON handfast.fence (at) WHERE state <> 'L';

-- The intents. seq is where the log stands when the change is captured, after its row
-- was locked: whoever changes the row next finds it further on. A sequence of our own
-- would be what the user's lastval() tells. Two branches may draw one number at the
-- same moment, for different rows.
CREATE TABLE IF NOT EXISTS handfast.undo (
  xid    text COLLATE "C" NOT NULL,
  seq    bigint NOT NULL DEFAULT (pg_catalog.pg_current_wal_insert_lsn() OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn)::bigint,
  branch uuid NOT NULL,
  tab    integer NOT NULL,
  op     "char" NOT NULL,      -- I, U, D; L: only holds keys
  key    text[] COLLATE "C" NOT NULL DEFAULT '{}', -- images of the primary key
  cols   smallint[] NOT NULL DEFAULT '{}', -- column numbers: all for I and D, the changed ones for U
  old    text[] COLLATE "C",   -- images, the place is the column number
  new    text[] COLLATE "C",
  gates  bigint[] NOT NULL,    -- the keys that this change needs; the row's own is the first
  PRIMARY KEY (xid, seq, branch)
);

-- What a rollback is about to write, one row for each row of the user. It lives
-- for the length of one settle, and before that only in the eyes of people.
CREATE UNLOGGED TABLE IF NOT EXISTS handfast.step (
  xid     text COLLATE "C" NOT NULL,
  tab     integer NOT NULL,
  key     text[] COLLATE "C" NOT NULL,
  was     boolean NOT NULL,  -- the row was there before the transaction
  is_now  boolean NOT NULL,  -- it is there now
  fits    boolean NOT NULL,  -- and is what the transaction left
  cols    smallint[] NOT NULL, -- touched columns, ascending; the arrays below run in parallel
  before  text[] COLLATE "C",
  after   text[] COLLATE "C",  -- what the transaction left
  current text[] COLLATE "C",
  rewrite boolean NOT NULL   -- take the row out and put it back
);
-- Not the key: its images may be longer than an index takes, where the values of
-- the key itself are not.
ALTER TABLE handfast.step DROP CONSTRAINT IF EXISTS step_pkey;
CREATE INDEX IF NOT EXISTS step_key ON handfast.step (xid, tab, pg_catalog.hash_array(key));

-- Local transactions that restore: no session can forge a row here.
CREATE UNLOGGED TABLE IF NOT EXISTS handfast.settling (lxid xid8 PRIMARY KEY);

-- What a person decided about a row, with all that was known when it was
-- decided. Rows are only added, so that nobody's choice is lost.
DO $f$
BEGIN
  -- Of an early version, which had nothing that wrote it.
  IF to_regclass('handfast.resolution') IS NOT NULL
     AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass('handfast.resolution') AND a.attname = 'seen') THEN
    DROP TABLE handfast.resolution;
  END IF;
END $f$;
CREATE TABLE IF NOT EXISTS handfast.resolution (
  id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  xid      text COLLATE "C" NOT NULL,
  tab      integer NOT NULL,
  rel      text NOT NULL,
  key      text[] COLLATE "C" NOT NULL,
  choice   text NOT NULL CHECK (choice IN ('restore', 'keep', 'edit')),
  who      text NOT NULL,
  why      text NOT NULL DEFAULT '',
  at       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  -- What the person saw: the row before, after and now, as in handfast.step.
  was      boolean NOT NULL,
  is_now   boolean NOT NULL,
  touched  smallint[] NOT NULL,
  before   text[] COLLATE "C" NOT NULL,
  after    text[] COLLATE "C" NOT NULL,
  current  text[] COLLATE "C" NOT NULL,
  seen     text NOT NULL,    -- short for what is there now: a choice holds for nothing else
  -- What comes of it: whether the row is there, and with which values.
  there    boolean NOT NULL,
  cols     smallint[] NOT NULL,
  vals     text[] COLLATE "C" NOT NULL,
  replaced timestamptz,      -- when it was given up for another, or the row had become what it should be
  done     timestamptz       -- when it was carried out
);
CREATE UNIQUE INDEX IF NOT EXISTS resolution_open ON handfast.resolution (xid, tab, key) WHERE done IS NULL AND replaced IS NULL;

-- They live for milliseconds and must not wait for the global thresholds.
ALTER TABLE handfast.undo SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE handfast.gate SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
ALTER TABLE handfast.step SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

REVOKE ALL ON ALL TABLES IN SCHEMA handfast FROM PUBLIC;
