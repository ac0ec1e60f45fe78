package undolog

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/xid"
)

// blocksSQL walks from every session that works for one of $1, by a local
// transaction or by settling it, over those that it waits for inside Postgres,
// to one that works for $2. Each of them holds an advisory lock that tells so.
const blocksSQL = `
WITH RECURSIVE working AS MATERIALIZED (
  SELECT l.pid, (l.classid::bigint << 32 | l.objid::bigint) AS k
    FROM pg_catalog.pg_locks l
   WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
     AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
), waiting (pid, n) AS (
  SELECT w.pid, h.n FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS h (xid, n)
    JOIN working w ON w.k IN (pg_catalog.hashtextextended(h.xid, 4263), pg_catalog.hashtextextended(h.xid, 4264))
  UNION
  SELECT b.pid, x.n FROM waiting x, pg_catalog.unnest(pg_catalog.pg_blocking_pids(x.pid)) AS b (pid)
)
SELECT coalesce(min(x.n), 0)::int FROM waiting x JOIN working w ON w.pid = x.pid WHERE w.k = pg_catalog.hashtextextended($2, 4263)`

// markSettling tells other sessions which transaction this one settles.
const markSettling = `SELECT pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended($1, 4264))`

// Blocks finds the first of several transactions that an open local transaction
// of waiter holds up, inside Postgres, in this database and at this moment: a
// local transaction of it, or its settling. Zero: none. Any role may ask.
func Blocks(ctx context.Context, db DB, waiter xid.ID, holders []xid.ID) (xid.ID, error) {
	texts := make([]string, len(holders))
	for i, h := range holders {
		texts[i] = h.String()
	}
	var n int
	if err := db.QueryRow(ctx, blocksSQL, texts, waiter.String()).Scan(&n); err != nil {
		return xid.ID{}, fmt.Errorf("look whom %s holds up: %w", waiter, err)
	}
	if n < 1 || n > len(holders) {
		return xid.ID{}, nil
	}
	return holders[n-1], nil
}
