package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

func TestPendingShowsWhatIsPrepared(t *testing.T) {
	t.Parallel()
	env, conn := newDatabase(t, "create table stock (item text primary key, n int)")
	if code, _, errOut := run(t, env, "pg", "install"); code != ExitOK {
		t.Fatal(errOut)
	}
	id, branch := xid.New(xid.Parts{Begin: time.Now(), Incarnation: 1, Store: xid.StoreID{1}, Counter: 1}), xid.BranchID{7}
	gid := undolog.GID(id, branch)
	for _, name := range []string{gid, "handfast:else", "of another program"} {
		runSQL(t, conn, "begin; insert into stock values ('"+name+"', 1); prepare transaction '"+name+"'")
		t.Cleanup(func() { runSQL(t, conn, "rollback prepared '"+name+"'") })
	}
	code, out, errOut := run(t, env, "pg", "pending")
	if code != ExitOK || !strings.Contains(out, gid) || !strings.Contains(out, "handfast tx show "+id.String()) ||
		!strings.Contains(out, "handfast:else") || strings.Contains(out, "another program") {
		t.Errorf("%d, %s%s", code, out, errOut)
	}
	code, out, _ = run(t, env, "pg", "pending", "--json")
	var got struct{ Prepared []preparedRow }
	if err := json.Unmarshal([]byte(out), &got); code != ExitOK || err != nil || len(got.Prepared) != 2 {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	if p := got.Prepared[0]; p.XID != id.String() || p.Branch != branch.String() || p.Owner == "" || p.Since.IsZero() {
		t.Errorf("%+v", p)
	}
	if p := got.Prepared[1]; p.XID != "" || !strings.Contains(p.Advice, "not made by Handfast") {
		t.Errorf("%+v", p)
	}
	if code, out, _ := run(t, env, "pg", "pending", "--older-than", "1h"); code != ExitOK || !strings.Contains(out, "nothing is pending") {
		t.Errorf("%d, %s", code, out)
	}
}

func runSQL(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Error(err)
	}
}
