package undolog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/internal/pgtest"
)

// plantedEnvironment names the fault that the property is run with; "all" asks
// for TestPropertyFindsPlantedFaults.
const plantedEnvironment = "HANDFAST_PLANTED"

// fault is a change to the text of installed functions.
type fault struct {
	in    string // names of functions, as a regular expression
	find  string
	nth   int // occurrence in each function; -1: all
	put   string
	ddl   string // instead: what is done to the schema {s}
	under string // the property that has to find it
}

var faults = map[string]fault{
	"no key is taken": {in: `^row_`, find: `handfast\.take\(hf_me, hf_takes, hf_seqs\)`, nth: -1, put: "(SELECT NULL::bigint AS k, NULL::text AS holder)", under: "TestPropertyOfUniqueKeys"},
	"a unique value that is given up stays free":               {in: `^row_`, find: `unnest\(ins\.gates\)`, nth: -1, put: "unnest(ins.gates[1:1])", under: "TestPropertyOfUniqueKeys"},
	"rows that were deleted are not put back":                  {in: `^restore_`, find: `AND \(x\.rewrite OR NOT x\.is_now\)`, nth: -1, put: "AND x.rewrite", under: "TestPropertyOfUniqueKeys"},
	"values after the changes count as those before":           {in: `^plan_`, find: `u\.old\[c\.n\] END AS v`, nth: -1, put: "coalesce(u.new[c.n], u.old[c.n]) END AS v", under: "TestPropertyOfUniqueKeys"},
	"old snapshots only look where they have to ask the index": {in: `^look$`, find: `IF p_strict THEN`, nth: -1, put: "IF false THEN", under: "TestPropertyOfUniqueKeys"},
	// Triggers of ours that sort after those of Postgres for foreign keys.
	"references are not guarded": {ddl: `DO $$ DECLARE t record; BEGIN PERFORM set_config('handfast.arranging', pg_current_xact_id()::text, true); FOR t IN SELECT tgrelid::regclass AS rel, tgname FROM pg_trigger
		WHERE tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = '{s}'::regnamespace) AND tgname LIKE '~%handfast%' LOOP EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.rel, t.tgname); END LOOP; END $$`, under: "TestPropertyOfForeignKeys"},
	"the gate opens for everybody": {in: `^take$`, find: `IF FOUND THEN\s+RETURN;`, nth: 0, put: "IF FOUND THEN holder := NULL; RETURN;", under: "TestPropertyOfUniqueKeys"},
}

// plant changes what is installed. A fault that fits nowhere has to be rewritten.
func (f fault) plant(conn *pgx.Conn, schema string) error {
	ctx := context.Background()
	if f.ddl != "" {
		_, err := conn.Exec(ctx, strings.ReplaceAll(f.ddl, "{s}", schema))
		return err
	}
	rows, err := conn.Query(ctx, `SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.pronamespace = 'handfast'::regnamespace AND p.prokind = 'f' AND p.proname ~ $1
		AND (p.proname !~ '^row_' OR EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgfoid = p.oid AND c.relnamespace = $2::text::regnamespace))`, f.in, schema)
	if err != nil {
		return err
	}
	definitions, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	find, changed := regexp.MustCompile(f.find), false
	for _, definition := range definitions {
		n := -1
		altered := find.ReplaceAllStringFunc(definition, func(s string) string {
			if n++; f.nth >= 0 && n != f.nth {
				return s
			}
			return f.put
		})
		if altered == definition {
			continue
		}
		changed = true
		if _, err := conn.Exec(ctx, altered); err != nil {
			return fmt.Errorf("plant: %w", err)
		}
	}
	// The functions of the whole database are changed once; those of a table
	// may lack what is looked for, if it has no such index.
	if !changed && len(definitions) == 0 {
		return errors.New("this fault fits nowhere: rewrite it")
	}
	return nil
}

// search bounds how long a fault is looked for: by the number of cases, so that a slow
// machine is slow and not wrong. The time is there so that one which hangs ends.
const (
	casesOfASearch = 200
	searchAtMost   = 10 * time.Minute
)

var (
	failedAs = regexp.MustCompile(`.*\[rapid\] (failed after|flaky test).*`)
	triedSo  = regexp.MustCompile(`tried (\d+) cases, (\d+) rounds, (\d+) deeds`)
	// A full disk or a server that goes away fails a run, too, and finds nothing.
	machine = regexp.MustCompile(`SQLSTATE (08|53|57|58)|connection refused|no space left|unexpected EOF`)
)

// The property is worth something only if it finds faults. Each is planted in a
// process of its own, which has to fail within so many cases.
//
//nolint:paralleltest // each has the machine for itself
func TestPropertyFindsPlantedFaults(t *testing.T) {
	if os.Getenv(plantedEnvironment) != "all" {
		t.Skipf("set %s=all", plantedEnvironment)
	}
	begun, found, all := time.Now(), 0, tally{}
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			tried, how := faults[name].search(t, name)
			t.Logf("found in %s, %s: %.300s", time.Since(start).Round(time.Millisecond), &tried, how)
			found++
			all.cases += tried.cases
			all.rounds += tried.rounds
			all.deeds += tried.deeds
		})
	}
	keepPlanted(t, begun, found, all)
}

// search fails the test unless the property fails, and for no other reason.
func (f fault) search(t *testing.T, name string) (tried tally, how string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), searchAtMost)
	defer cancel()
	// It is made no smaller: nobody looks at it.
	cmd := exec.CommandContext(ctx, self, "-test.run=^"+f.under+"$", "-test.v", "-rapid.checks="+strconv.Itoa(casesOfASearch), "-rapid.nofailfile", "-rapid.shrinktime=1ms")
	cmd.Env = append(os.Environ(), plantedEnvironment+"="+name, pgtest.Environment+"="+cluster.Server(t).DSN("postgres"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	text := out.String()
	if at := triedSo.FindStringSubmatch(text); at != nil {
		for i, n := range []*int{&tried.cases, &tried.rounds, &tried.deeds} {
			*n, _ = strconv.Atoi(at[i+1])
		}
	}
	// Timing may not let a failure come twice, but what it found, it found.
	how = strings.TrimSpace(failedAs.FindString(text))
	switch {
	case ctx.Err() != nil:
		t.Fatalf("not found in %s", searchAtMost)
	case err == nil:
		t.Fatalf("not found: %s", &tried)
	case how == "" || tried.cases == 0 || strings.Contains(text, "fits nowhere") || machine.MatchString(text):
		t.Fatalf("%v: %.3000s", err, text)
	}
	return tried, how
}
