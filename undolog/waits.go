package undolog

import (
	"context"
	"fmt"

	"github.com/handfast/handfast/xid"
)

// blocksSQL walks from every session that works for $1, by a local transaction
// or by settling it, over those that it waits for inside Postgres, to one that
// works for $2. Each of them holds an advisory lock that tells so.
const blocksSQL = `
WITH RECURSIVE working AS MATERIALIZED (
  SELECT l.pid, (l.classid::bigint << 32 | l.objid::bigint) AS k
    FROM pg_catalog.pg_locks l
   WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
     AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
), waiting (pid) AS (
  SELECT w.pid FROM working w
   WHERE w.k IN (pg_catalog.hashtextextended($1, 4263), pg_catalog.hashtextextended($1, 4264))
  UNION
  SELECT b.pid FROM waiting x, pg_catalog.unnest(pg_catalog.pg_blocking_pids(x.pid)) AS b (pid)
)
SELECT EXISTS (SELECT FROM waiting x JOIN working w ON w.pid = x.pid WHERE w.k = pg_catalog.hashtextextended($2, 4263))`

// markSettling tells other sessions which transaction this one settles.
const markSettling = `SELECT pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtextextended($1, 4264))`

// Blocks tells whether an open local transaction of waiter holds up, inside
// Postgres and at this moment, whatever works for holder in the same database:
// its local transactions and its settling. Any role may ask.
func Blocks(ctx context.Context, db DB, waiter, holder xid.ID) (bool, error) {
	var blocks bool
	if err := db.QueryRow(ctx, blocksSQL, holder.String(), waiter.String()).Scan(&blocks); err != nil {
		return false, fmt.Errorf("look whether %s holds up %s: %w", waiter, holder, err)
	}
	return blocks, nil
}
