package undolog_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

func TestInstallKeepsTheIdentity(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, "")
	ctx := context.Background()
	first, err := undolog.Inspect(ctx, d.own)
	if err != nil || first.Resource == (xid.ResourceID{}) || first.SchemaVersion != undolog.SchemaVersion {
		t.Fatalf("%+v %v", first, err)
	}
	if err := undolog.Install(ctx, d.own); err != nil {
		t.Fatal(err)
	}
	if again, err := undolog.Inspect(ctx, d.own); err != nil || again != first {
		t.Fatalf("%+v %v", again, err)
	}
	bare := &database{t: t, dsn: cluster.DSN(t)}
	if _, err := undolog.Inspect(ctx, bare.connect()); !errors.Is(err, undolog.ErrNotInstalled) {
		t.Fatalf("%v", err)
	}
	if _, err := undolog.Protect(ctx, bare.connect(), "pg_class"); err == nil {
		t.Fatal("protected a table of Postgres")
	}
}

func TestProtectRefusesWhatItCouldNotKeep(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, `CREATE TABLE nokey (v int); CREATE TABLE late (id int PRIMARY KEY DEFERRABLE); CREATE VIEW vw AS SELECT 1 AS id;
		CREATE TABLE excl (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
		CREATE TABLE ok (id int PRIMARY KEY, v int)`)
	ctx := context.Background()
	for name, want := range map[string]any{
		"nokey": new(*undolog.NoKeyError), "late": new(*undolog.NoKeyError), "missing": new(*undolog.NoTableError),
		"vw": new(*undolog.NotProtectableError), "excl": new(*undolog.NotProtectableError),
		"handfast.undo": new(*undolog.NotProtectableError), "": new(*undolog.NoTableError),
	} {
		if _, err := undolog.Protect(ctx, d.own, "ok", name); err == nil || !errors.As(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 2 {
		got, err := undolog.Protect(ctx, d.own, "public.ok")
		if err != nil || len(got) != 1 || got[0].Name != "public.ok" || strings.Join(got[0].Keys, ",") != "id" {
			t.Fatalf("%+v %v", got, err)
		}
	}
	sql, err := undolog.ProtectSQL(ctx, d.own, []string{"ok"})
	if err != nil || !strings.Contains(sql, "CREATE TRIGGER") {
		t.Fatalf("%s %v", sql, err)
	}
}

func TestUnprotectIsRefusedWhileThereAreIntents(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	ctx := context.Background()
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 0 WHERE id = 1")
	if err := undolog.Unprotect(ctx, d.own, "g"); !errors.As(err, new(*undolog.NotProtectableError)) {
		t.Fatalf("%v", err)
	}
	d.mustSettle(id, false, l)
	for range 2 {
		if err := undolog.Unprotect(ctx, d.own, "g"); err != nil {
			t.Fatal(err)
		}
	}
	d.exec(d.own, "UPDATE g SET v = 0")
}

// An application needs its own rights on its tables and nothing else; it can
// neither settle nor look into our tables.
func TestApplicationRoleNeedsNoRightsOnTheSchema(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows, "g")
	ctx := context.Background()
	role := "app_" + strings.ToLower(newXID().String()[40:])
	d.exec(d.own, "CREATE ROLE "+role+" LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON g TO "+role)
	t.Cleanup(func() { d.exec(d.own, "DROP OWNED BY "+role+"; DROP ROLE "+role) })
	l := d.arm(newXID(), "READ COMMITTED")
	l.exec("ROLLBACK")
	l.exec("SET SESSION AUTHORIZATION " + role)
	l.exec("BEGIN")
	sql, args := undolog.Arm(l.id, l.branch, undolog.ArmOptions{})
	l.exec(sql, args...)
	l.exec("UPDATE g SET v = 0 WHERE id = 1")
	l.commit()
	for _, sql := range []string{
		"SELECT * FROM handfast.undo", "DELETE FROM handfast.gate", "SET session_replication_role = replica",
		"ALTER TABLE g DISABLE TRIGGER ALL", "SELECT handfast.rollback_undo('x', '{}')", "SELECT handfast.commit_batch('{}', '{}', '{}')",
		"SELECT handfast.ask_lock('x', gen_random_uuid())",
	} {
		if _, err := l.conn.Exec(ctx, sql); sqlState(err) != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if err := undolog.Grant(ctx, d.own, role); err != nil {
		t.Fatal(err)
	}
	if err := d.settle(l.conn, l.id, false, l); err != nil {
		t.Fatalf("a role with Grant: %v", err)
	}
}

func TestDoctorFindsWhatIsBroken(t *testing.T) {
	t.Parallel()
	d := newDatabase(t, rows+"; CREATE TABLE nokey (v int); CREATE TABLE open (id int PRIMARY KEY)", "g")
	ctx := context.Background()
	problems := func() string {
		t.Helper()
		found, err := undolog.Doctor(ctx, d.own)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for _, f := range found {
			if f.Fix == "" {
				t.Errorf("%+v has no fix", f)
			}
			b.WriteString(string(f.Severity) + " " + f.Object + ": " + f.Problem + "\n")
		}
		return b.String()
	}
	got := problems()
	for _, want := range []string{"nokey: has no primary key", "open: is not protected"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if strings.Contains(got, " g: ") {
		t.Errorf("a healthy table is reported:\n%s", got)
	}
	for _, c := range []struct{ sql, want string }{
		{"ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER TABLE g DISABLE TRIGGER USER; ALTER EVENT TRIGGER handfast_ddl ENABLE", "is disabled"},
		{"ALTER TABLE g ADD w int", "was altered"},
	} {
		d.exec(d.own, c.sql)
		if got = problems(); !strings.Contains(got, c.want) {
			t.Errorf("%q is missing in:\n%s", c.want, got)
		}
	}
}
