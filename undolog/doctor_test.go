package undolog_test

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/internal/pgserver"
	"github.com/handfast/handfast/internal/pgtest"
	"github.com/handfast/handfast/undolog"
	"github.com/handfast/handfast/xid"
)

// wards are the tables of a database that doctor has nothing to say of.
const wards = `CREATE SCHEMA w;
	CREATE TABLE w.parent (id int PRIMARY KEY, v int); CREATE TABLE w."It's" (id int PRIMARY KEY, p int REFERENCES w.parent);
	CREATE TABLE w.part (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE w.part_1 PARTITION OF w.part FOR VALUES FROM (1) TO (100);
	CREATE TABLE w.heir (PRIMARY KEY (id)) INHERITS (w.parent);
	CREATE TABLE w.other (id int PRIMARY KEY, v int); INSERT INTO w.other VALUES (1, 1);
	CREATE TABLE w.loner (id int PRIMARY KEY REFERENCES w.parent, during int4range, EXCLUDE USING gist (during WITH &&));
	CREATE EXTENSION pg_trgm;`

// ailment is one way to break a database.
type ailment struct {
	brk    string   // {role} is a role that is no superuser
	finds  []string // the checks that find it; one by one, as the fix of one shows the next
	object string   // of the first
	fix    string   // part of the first
	old    time.Duration
	dead   int64
	bytes  int64
	global bool // breaks the whole server
}

// silently is for DDL as it is where there are no event triggers.
func silently(ddl string) string {
	return "ALTER EVENT TRIGGER handfast_ddl DISABLE; ALTER EVENT TRIGGER handfast_drop DISABLE; " + ddl +
		"; ALTER EVENT TRIGGER handfast_ddl ENABLE; ALTER EVENT TRIGGER handfast_drop ENABLE"
}

const restoreTo = `DO $$ DECLARE f regprocedure; BEGIN
	SELECT p.oid INTO f FROM pg_proc p JOIN handfast.protected t ON p.proname = 'restore_' || t.id WHERE t.rel = 'w.other'::regclass;
	EXECUTE format('ALTER FUNCTION %s OWNER TO {role}', f); END $$; `

func ailments() map[string]ailment {
	fences := func(n, left int) string {
		return fmt.Sprintf(`INSERT INTO handfast.fence (xid, branch, state) SELECT 'x' || i, gen_random_uuid(), 'C' FROM generate_series(1, %d) i;
			DELETE FROM handfast.fence WHERE xid <> 'x%d'; SELECT pg_stat_force_next_flush()`, n, left)
	}
	return map[string]ailment{
		"a function of the schema dropped":   {brk: "DROP FUNCTION handfast.witnesses()", finds: []string{"schema"}, object: "function handfast.witnesses", fix: "handfast pg install"},
		"an index of the schema dropped":     {brk: "DROP INDEX handfast.fence_done", finds: []string{"schema"}, object: "table or index handfast.fence_done"},
		"a trigger function dropped":         {brk: "DROP FUNCTION handfast.refuse_write() CASCADE", finds: []string{"schema"}},
		"a column added unseen":              {brk: silently("ALTER TABLE w.other ADD n int"), finds: []string{"altered"}, object: "w.other", fix: "handfast pg protect w.other"},
		"a column added":                     {brk: "ALTER TABLE w.other ADD n int", finds: []string{"altered"}, object: "w.other"},
		"a partitioned table altered":        {brk: silently("ALTER TABLE w.part ADD n int"), finds: []string{"altered"}, object: "w.part"},
		"a unique index made unseen":         {brk: silently("CREATE UNIQUE INDEX ON w.other (v)"), finds: []string{"altered"}, object: "w.other"},
		"a table dropped unseen":             {brk: silently("DROP TABLE w.other"), finds: []string{"gone"}, fix: "handfast pg protect"},
		"a generated function dropped":       {brk: dropFunction("verify", "w.other"), finds: []string{"incomplete"}, object: "w.other", fix: "handfast pg protect w.other"},
		"the capturing function dropped":     {brk: dropFunction("row", "w.other"), finds: []string{"incomplete"}, object: "w.other"},
		"the guard's function dropped":       {brk: dropFunction("fk", `w."It''s"`), finds: []string{"incomplete"}, object: `w."It's"`, fix: `handfast pg protect 'w."It'\''s"'`},
		"a trigger dropped":                  {brk: silently(`DROP TRIGGER U&"\0001handfast_u" ON w.other`), finds: []string{"incomplete"}, object: "w.other"},
		"a trigger of a parent dropped":      {brk: silently(`DROP TRIGGER "~handfast" ON w.parent`), finds: []string{"incomplete"}, object: "w.parent"},
		"a neighbour's trigger dropped":      {brk: silently(`DROP TRIGGER "~handfast" ON w.loner`), finds: []string{"incomplete"}, object: "w.loner", fix: "handfast pg protect w.parent"},
		"a neighbour altered unseen":         {brk: silently("ALTER TABLE w.loner ADD n int"), finds: []string{"altered"}, object: "w.parent"},
		"the guard off":                      {brk: "UPDATE handfast.protected SET enforce = false WHERE rel = 'w.other'::regclass", finds: []string{"guard-off"}, object: "w.other"},
		"a table without key":                {brk: "CREATE TABLE w.bare (id int, v int)", finds: []string{"no-key", "not-protected"}, object: "w.bare", fix: "ADD row_id bigint GENERATED"},
		"a table with another key":           {brk: "CREATE TABLE w.bare (a int NOT NULL, b int NOT NULL, UNIQUE (b, a))", finds: []string{"no-key", "not-protected"}, fix: "ADD PRIMARY KEY (b, a)"},
		"a partitioned table without key":    {brk: "CREATE TABLE w.bare (at date, n int) PARTITION BY RANGE (at)", finds: []string{"no-key", "not-protected"}, fix: "PRIMARY KEY (id, at)"},
		"a table without capture":            {brk: `CREATE TABLE w."New" (id int PRIMARY KEY)`, finds: []string{"not-protected"}, object: `w."New"`, fix: `handfast pg protect 'w."New"'`},
		"all triggers disabled":              {brk: silently("ALTER TABLE w.other DISABLE TRIGGER ALL"), finds: []string{"trigger-disabled"}, object: "w.other", fix: "ENABLE ALWAYS"},
		"a partition's triggers disabled":    {brk: silently("ALTER TABLE w.part_1 DISABLE TRIGGER ALL"), finds: []string{"trigger-disabled"}, object: "w.part_1"},
		"all triggers enabled again":         {brk: silently("ALTER TABLE w.other DISABLE TRIGGER ALL; ALTER TABLE w.other ENABLE TRIGGER ALL"), finds: []string{"trigger-not-always"}, object: "w.other"},
		"the refusing trigger disabled":      {brk: silently("ALTER TABLE w.loner DISABLE TRIGGER handfast_refuse"), finds: []string{"trigger-disabled"}, object: "w.loner"},
		"the refusing trigger dropped":       {brk: silently("DROP TRIGGER handfast_refuse ON w.loner"), finds: []string{"refuse-trigger"}, object: "w.loner"},
		"the trigger at TRUNCATE dropped":    {brk: silently("DROP TRIGGER handfast_truncate ON w.other"), finds: []string{"refuse-trigger"}, object: "w.other"},
		"a partition's trigger dropped":      {brk: silently("DROP TRIGGER handfast_truncate ON w.part_1"), finds: []string{"refuse-trigger"}, object: "w.part_1"},
		"an event trigger disabled":          {brk: "ALTER EVENT TRIGGER handfast_ddl DISABLE", finds: []string{"event-trigger"}, object: "event trigger handfast_ddl", fix: "ALTER EVENT TRIGGER handfast_ddl ENABLE"},
		"an event trigger dropped":           {brk: "DROP EVENT TRIGGER handfast_drop", finds: []string{"event-trigger"}, object: "event trigger handfast_drop", fix: "handfast pg install"},
		"no event triggers":                  {brk: "DROP EVENT TRIGGER handfast_drop; DROP EVENT TRIGGER handfast_ddl; UPDATE handfast.meta SET refusing = false", finds: []string{"no-event-triggers"}},
		"a user's trigger that fires always": {brk: silently("CREATE TRIGGER mine BEFORE UPDATE ON w.other FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger(); ALTER TABLE w.other ENABLE ALWAYS TRIGGER mine"), finds: []string{"acts-on-rollback"}, object: "w.other", fix: "ALTER TABLE w.other ENABLE TRIGGER mine"},
		"a user's rule that acts always":     {brk: silently("CREATE RULE mine AS ON DELETE TO w.other DO NOTHING; ALTER TABLE w.other ENABLE ALWAYS RULE mine"), finds: []string{"acts-on-rollback"}, object: "w.other"},
		"an owner without replica role":      {brk: "ALTER FUNCTION handfast.rollback_undo(text, uuid[]) OWNER TO {role}", finds: []string{"replica-role"}, object: "role {role}", fix: "GRANT SET ON PARAMETER"},
		"row-level security":                 {brk: restoreTo + "GRANT ALL ON w.other TO {role}; ALTER TABLE w.other ENABLE ROW LEVEL SECURITY", finds: []string{"row-security"}, object: "w.other", fix: "BYPASSRLS"},
		"a table of somebody else":           {brk: restoreTo, finds: []string{"table-rights"}, object: "w.other", fix: "GRANT"},
		"keys without a transaction":         {brk: "INSERT INTO handfast.gate (k, xid) VALUES (1, 'lost'), (2, 'lost')", finds: []string{"orphan"}, object: "transaction lost"},
		"undo rows without a branch":         {brk: "INSERT INTO handfast.undo (xid, branch, tab, op, gates) VALUES ('lost', gen_random_uuid(), 1, 'L', '{}'); INSERT INTO handfast.gate (k, xid) VALUES (1, 'lost')", finds: []string{"orphan"}},
		"fences that nobody drops":           {brk: "INSERT INTO handfast.fence (xid, branch, state, at) VALUES ('x', gen_random_uuid(), 'C', now() - interval '49 hours')", finds: []string{"old-fences"}, fix: "handfast pg gc"},
		"autovacuum off for a table":         {brk: "ALTER TABLE handfast.gate SET (autovacuum_enabled = off)", finds: []string{"autovacuum"}, object: "handfast.gate"},
		"dead rows":                          {brk: fences(3000, 1), finds: []string{"bloat"}, object: "handfast.fence", fix: "VACUUM handfast.fence", dead: 1000, bytes: 1 << 40},
		"a large table":                      {brk: fences(20_000, 20_000), finds: []string{"bloat", "bloat"}, object: "handfast.fence", dead: 1000, bytes: 1 << 20},
		"a large index":                      {brk: fences(20_000, 1) + "; VACUUM handfast.fence", finds: []string{"bloat"}, object: "handfast.fence_pkey", fix: "REINDEX", dead: 1000, bytes: 1 << 20},
		"no fsync":                           {brk: "ALTER SYSTEM SET fsync = off", finds: []string{"durability"}, object: "setting fsync", global: true},
		"no full pages":                      {brk: "ALTER SYSTEM SET full_page_writes = off", finds: []string{"durability"}, object: "setting full_page_writes", global: true},
		"no autovacuum":                      {brk: "ALTER SYSTEM SET autovacuum = off", finds: []string{"autovacuum"}, object: "setting autovacuum", global: true},
	}
}

func dropFunction(kind, rel string) string {
	return fmt.Sprintf(`DO $$ DECLARE f regprocedure; BEGIN
		SELECT p.oid INTO f FROM pg_proc p JOIN handfast.protected t ON p.proname = '%s_' || t.id WHERE t.rel = '%s'::regclass;
		EXECUTE format('DROP FUNCTION %%s CASCADE', f); END $$`, kind, rel)
}

// Doctor says nothing of a healthy database, finds what is broken and nothing
// else, and what it tells to do mends it.
func TestDoctorFindsAndMends(t *testing.T) {
	t.Parallel()
	c := newClinic()
	t.Cleanup(func() { _ = c.Server(t).Stop(context.Background()) })
	for _, global := range []bool{false, true} {
		t.Run(fmt.Sprintf("global=%t", global), func(t *testing.T) {
			all := ailments()
			for i, name := range slices.Sorted(maps.Keys(all)) {
				a := all[name]
				if a.global != global || !some(i) {
					continue
				}
				t.Run(name, func(t *testing.T) {
					if !global {
						t.Parallel()
					}
					newWard(t, c).treat(a)
				})
			}
		})
	}
}

// newClinic is a server whose autovacuum, although it is on, clears away nothing that
// doctor is to find.
func newClinic() *pgtest.Cluster {
	return pgtest.New(pgserver.Options{Durable: true, Scratch: true, Settings: map[string]string{"autovacuum_naptime": "1d"}})
}

type ward struct {
	*database
	role string
}

func newWard(t *testing.T, c *pgtest.Cluster) *ward {
	t.Helper()
	w := &ward{database: &database{t: t, dsn: c.DSN(t)}, role: "role_" + strings.ToLower(newXID().String()[40:])}
	w.own = w.connect()
	w.exec(w.own, "CREATE ROLE "+w.role)
	t.Cleanup(func() { w.exec(w.own, "DROP OWNED BY "+w.role+" CASCADE; DROP ROLE "+w.role) })
	w.exec(w.own, wards)
	if err := undolog.Install(context.Background(), w.own); err != nil {
		t.Fatal(err)
	}
	if _, err := undolog.Protect(context.Background(), w.own, "w.parent", `w."It's"`, "w.part", "w.other"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *ward) doctor(a ailment) []undolog.Finding {
	w.t.Helper()
	look := func() ([]undolog.Finding, error) { return undolog.Doctor(context.Background(), w.own) }
	if a.dead > 0 || a.old > 0 {
		look = func() ([]undolog.Finding, error) {
			return undolog.DoctorWith(context.Background(), w.own, max(a.old, time.Minute), a.dead, a.bytes)
		}
	}
	found, err := look()
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

func (w *ward) treat(a ailment) {
	w.t.Helper()
	if found := w.doctor(a); len(found) > 0 {
		w.t.Fatalf("a healthy database: %+v", found)
	}
	w.run(strings.ReplaceAll(a.brk, "{role}", w.role))
	w.await(a, true)
	for i, want := range a.finds {
		found := w.doctor(a)
		if len(found) == 0 || slices.ContainsFunc(found, func(f undolog.Finding) bool { return f.Check != want }) {
			w.t.Fatalf("found %+v; want %s", found, want)
		}
		f := found[0]
		if i == 0 && (a.object != "" && f.Object != strings.ReplaceAll(a.object, "{role}", w.role) || !strings.Contains(f.Fix, a.fix) || len(found) > 1) {
			w.t.Fatalf("found %+v; want only %s with %s", found, a.object, a.fix)
		}
		if f.Severity == "" || f.Problem == "" {
			w.t.Errorf("incomplete: %+v", f)
		}
		w.t.Logf("%s: %s: %s\n    %s", f.Severity, f.Object, f.Problem, f.Fix)
		for _, f := range found {
			w.mend(f.Fix)
		}
	}
	w.await(a, false)
	if found := w.doctor(a); len(found) > 0 {
		w.t.Fatalf("after the fix: %+v", found)
	}
}

// await waits until a setting of the server is in force.
func (w *ward) await(a ailment, found bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); a.global && (len(w.doctor(a)) > 0) != found; time.Sleep(5 * time.Millisecond) {
		if found {
			w.run("SELECT pg_reload_conf()")
		}
		if time.Now().After(end) {
			w.t.Fatal("the setting is not in force")
		}
	}
}

// run runs statements one by one, as psql does.
func (w *ward) run(sql string) {
	w.t.Helper()
	if strings.HasPrefix(sql, "DO ") {
		body := strings.LastIndex(sql, "$$") + len("$$")
		w.exec(w.own, sql[:body])
		sql = strings.TrimLeft(sql[body:], "; ")
	}
	for s := range strings.SplitSeq(sql, "; ") {
		if s != "" {
			w.exec(w.own, s)
		}
	}
}

// mend does what a finding says.
func (w *ward) mend(fix string) {
	w.t.Helper()
	if !strings.HasPrefix(fix, "handfast ") {
		w.run(fix)
		return
	}
	ctx := context.Background()
	out, err := exec.CommandContext(ctx, "sh", "-c", `handfast() { printf '%s\n' "$@"; }; `+fix).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s: %v: %s", fix, err, out)
	}
	args := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	switch what := strings.Join(args[:2], " "); what {
	case "pg install":
		err = undolog.Install(ctx, w.own)
	case "pg gc":
		_, err = undolog.GC(ctx, w.own, 1000)
	case "pg protect":
		var opts []undolog.ProtectOption
		if args = args[2:]; len(args) > 2 && args[0] == "--guard" {
			opts, args = append(opts, undolog.WithGuard(args[1] == "enforce")), args[2:]
		}
		_, err = undolog.ProtectTables(ctx, w.own, args, opts...)
	case "tx retry":
		var id xid.ID
		if id, err = xid.Parse(args[2]); err == nil {
			var list []undolog.PendingXID
			list, err = undolog.Pending(ctx, w.own, 0)
			for _, p := range list {
				if p.XID == id {
					err = w.settle(w.own, id, true, &local{branch: p.Branches[0]})
				}
			}
		}
	default:
		w.t.Fatalf("no such command: %s", fix)
	}
	if err != nil {
		w.t.Fatalf("%s: %v", fix, err)
	}
}

// What is undecided for more than a minute is shown, with its command.
func TestDoctorShowsLeftovers(t *testing.T) {
	t.Parallel()
	c := newClinic()
	t.Cleanup(func() { _ = c.Server(t).Stop(context.Background()) })
	w := newWard(t, c)
	id := newXID()
	w.work(id, "UPDATE w.other SET v = 2")
	if found := w.doctor(ailment{}); len(found) > 0 {
		t.Fatalf("a fresh transaction: %+v", found)
	}
	w.exec(w.own, "UPDATE handfast.fence SET at = at - interval '61 seconds'")
	found := w.doctor(ailment{})
	if len(found) != 1 || found[0].Check != "leftover" || !strings.HasPrefix(found[0].Fix, "handfast tx retry "+id.String()) {
		t.Fatalf("%+v", found)
	}
	w.mend(found[0].Fix)
	if found := w.doctor(ailment{}); len(found) > 0 {
		t.Fatalf("after the fix: %+v", found)
	}

	// So is a session that holds all VACUUMs up.
	idle := w.connect()
	w.exec(idle, "BEGIN")
	w.exec(idle, "SELECT pg_current_xact_id()")
	found, err := undolog.DoctorWith(context.Background(), w.own, time.Microsecond, 1<<40, 1<<40)
	if err != nil || len(found) != 1 || found[0].Check != "held-back" {
		t.Fatalf("%+v, %v", found, err)
	}
	w.mend(found[0].Fix)
	// One that is locked out says so, and hangs nobody.
	locked := w.connect()
	w.exec(locked, "BEGIN")
	w.exec(locked, "LOCK TABLE handfast.gate")
	found = w.doctor(ailment{})
	if !slices.ContainsFunc(found, func(f undolog.Finding) bool {
		return f.Check == "orphan" && strings.HasPrefix(f.Problem, "could not be made")
	}) {
		t.Fatalf("%+v", found)
	}
}

// Where no superuser installs there are no event triggers, so altered and dropped
// tables are for doctor to find.
func TestDoctorOfAnOwnerWhoIsNoSuperuser(t *testing.T) {
	t.Parallel()
	c := newClinic()
	t.Cleanup(func() { _ = c.Server(t).Stop(context.Background()) })
	ctx := context.Background()
	w := &ward{database: &database{t: t, dsn: c.DSN(t)}, role: "owner"}
	w.own = w.connect()
	w.exec(w.own, `CREATE ROLE owner; GRANT SET ON PARAMETER session_replication_role TO owner; CREATE SCHEMA w AUTHORIZATION owner;
		DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO owner', current_database()); END $$`)
	t.Cleanup(func() { w.exec(w.connect(), "DROP OWNED BY owner CASCADE; DROP ROLE owner") })
	w.exec(w.own, "SET SESSION AUTHORIZATION owner")
	w.exec(w.own, "CREATE TABLE w.parent (id int PRIMARY KEY, v int); CREATE TABLE w.child (id int PRIMARY KEY, p int REFERENCES w.parent)")
	if err := undolog.Install(ctx, w.own); err != nil {
		t.Fatal(err)
	}
	if _, err := undolog.Protect(ctx, w.own, "w"); err != nil {
		t.Fatal(err)
	}
	looks := func(want string) {
		t.Helper()
		var got []string
		for _, f := range w.doctor(ailment{}) {
			if got = append(got, f.Check+" "+f.Object); f.Check != "no-event-triggers" {
				w.mend(f.Fix)
			}
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("found %q, want %q", got, want)
		}
	}
	const always = "no-event-triggers event triggers"
	looks(always)
	w.exec(w.own, "ALTER TABLE w.child ADD n int")
	looks("altered w.child, " + always)
	looks(always)
	w.exec(w.own, "DROP TABLE w.child")
	looks(strings.Join([]string{"gone " + w.gone(), "altered w.parent", always}, ", "))
	looks(always)
	w.exec(w.own, "CREATE TABLE w.more (id int PRIMARY KEY)")
	looks("not-protected w.more, " + always)
	looks(always)
	if err := undolog.Unprotect(ctx, w.own, "w"); err != nil {
		t.Fatal(err)
	}
	if left := w.lines("SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'handfast'::regnamespace AND p.proname ~ '_[0-9]+$'"); left != "" {
		t.Errorf("functions are left: %s", left)
	}
}

// gone names the table that was dropped as doctor does.
func (w *ward) gone() string {
	return "table " + w.lines("SELECT p.rel::oid::text FROM handfast.protected p WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.rel)")
}
