package undolog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// captureName is the name of a trigger that captures. It begins with a control
// character, which sorts before every name that a person gives, so that a
// conflict is found before the user's own triggers act. It is written so that it
// can be read, and copied from a terminal.
func captureName(suffix string) string { return `U&"\0001handfast` + suffix + `"` }

// guardTrigger sorts after those with which Postgres enforces foreign keys.
const guardTrigger = "~handfast"

// ProtectedTable is a table with capture and guard.
type ProtectedTable struct {
	ID   int
	Name string   // qualified and quoted as Postgres does it
	Keys []string // columns of the primary key, in its order
}

type protectOptions struct {
	enforce   *bool // nil: as it is; at first, on
	committed bool
}

// ProtectOption changes what ProtectTables does.
type ProtectOption func(*protectOptions)

// WithGuard sets whether sessions without an XID are kept from what an undecided
// transaction holds. The default is as it was before, and at first on. Where it
// is off, a rollback can meet rows that it must not overwrite, and stops.
func WithGuard(on bool) ProtectOption { return func(o *protectOptions) { o.enforce = &on } }

// WithCommittedView also makes a view, named as the table with _committed after
// it, of the rows as they are without any undecided transaction. Nobody but its
// owner may read it until granted; it shows all rows, whatever row-level
// security says. Postgres then refuses to change the type of the table's columns
// while the view is there.
func WithCommittedView() ProtectOption { return func(o *protectOptions) { o.committed = true } }

// Protect is ProtectTables without options.
func Protect(ctx context.Context, conn *pgx.Conn, tables ...string) ([]ProtectedTable, error) {
	return ProtectTables(ctx, conn, tables)
}

// ProtectTables puts capture and guard on tables, in one transaction. A table is
// named as "table" or "schema.table", several with * and ? in either part, or all
// of a schema by its name, where no table has it; patterns and schemas leave out
// tables that have no primary key. Without any name it renews what is protected
// and was altered since. Tables that inherit from one are
// protected with it, and tables that a foreign key joins to one get a guard. It
// may be called again, and has to be after a table was altered. It waits for open
// writers of a table. Errors, for errors.As: *NoTableError, *NoKeyError,
// *NotProtectableError.
func ProtectTables(ctx context.Context, conn *pgx.Conn, tables []string, opts ...ProtectOption) ([]ProtectedTable, error) {
	var out []ProtectedTable
	err := locked(ctx, conn, func(tx pgx.Tx) error {
		p := newProtector(tx, opts)
		if err := p.run(ctx, tables); err != nil {
			return err
		}
		out = p.done // not of a failed attempt
		return nil
	})
	if err != nil {
		return nil, explain("protect", err)
	}
	return out, nil
}

// ProtectSQL gives the SQL that ProtectTables would run. It does the same when a
// person runs it, as long as the tables and what is protected are as they were; a
// table that somebody has protected in between makes it fail.
func ProtectSQL(ctx context.Context, conn *pgx.Conn, tables []string, opts ...ProtectOption) (string, error) {
	var sql string
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		p := newProtector(tx, opts)
		if err := p.run(ctx, tables); err != nil {
			return err
		}
		sql = "BEGIN;\nSELECT pg_advisory_xact_lock(4263, 1);\n" + ownPath + ";\n" + p.script.String() + "COMMIT;\n"
		return errOnlyPrint
	})
	if !errors.Is(err, errOnlyPrint) {
		return "", explain("protect", err)
	}
	return sql, nil
}

var errOnlyPrint = errors.New("only printed")

// protector does one call of ProtectTables.
type protector struct {
	tx      pgx.Tx
	options protectOptions
	tables  map[uint32]*table // described already
	queue   []uint32          // to be given their functions
	done    []ProtectedTable
	script  strings.Builder
}

func newProtector(tx pgx.Tx, opts []ProtectOption) *protector {
	p := &protector{tx: tx, tables: map[uint32]*table{}}
	for _, o := range opts {
		o(&p.options)
	}
	return p
}

func (p *protector) run(ctx context.Context, names []string) error {
	// Queries of the catalogue look dear, and compiling one takes 40 ms.
	if _, err := p.tx.Exec(ctx, "SET LOCAL jit = off"); err != nil {
		return err
	}
	oids, err := p.resolve(ctx, names)
	if err != nil {
		return err
	}
	for _, oid := range oids {
		if err := p.capture(ctx, oid); err != nil {
			return err
		}
	}
	// Describing a table may find neighbours, which are then in the queue too.
	for i := 0; i < len(p.queue); i++ {
		if err := p.equip(ctx, p.tables[p.queue[i]]); err != nil {
			return err
		}
	}
	return p.do(ctx, "SELECT handfast.arrange()")
}

// do runs what changes something, and keeps it for ProtectSQL.
func (p *protector) do(ctx context.Context, sql string) error {
	sql = strings.TrimSuffix(sql, ";\n") + ";\n"
	p.script.WriteString(sql)
	_, err := p.tx.Exec(ctx, sql)
	return err
}

// capture describes a table and registers it.
func (p *protector) capture(ctx context.Context, oid uint32) error {
	t, err := p.describe(ctx, oid)
	if err != nil {
		return err
	}
	t.Capture = true
	if err := p.protectable(ctx, t); err != nil {
		return err
	}
	if err := p.register(ctx, t); err != nil {
		return err
	}
	if !slices.Contains(p.queue, oid) {
		p.queue = append(p.queue, oid)
	}
	return nil
}

// other is the table at the other end of a foreign key. One that was taken off
// is renewed: a foreign key is guarded at both ends or not at all.
func (p *protector) other(ctx context.Context, t *table, oid uint32) (*table, error) {
	if oid == t.oid {
		return t, nil
	}
	if o := p.tables[oid]; o != nil && o.ID != 0 {
		return o, nil
	}
	o, err := p.describe(ctx, oid)
	if err != nil {
		return nil, err
	}
	var capture, stale bool
	err = p.tx.QueryRow(ctx, "SELECT r.capture, r.fingerprint <> handfast.fingerprint(r.rel) FROM handfast.protected r WHERE r.rel = $1", oid).Scan(&capture, &stale)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		stale = true
	case err != nil:
		return nil, err
	}
	if capture && stale {
		return o, p.capture(ctx, oid)
	}
	o.Capture = capture
	if err := p.register(ctx, o); err != nil {
		return nil, err
	}
	// What has capture was given all guards with it. A table that is no end of
	// one with capture, but of a neighbour, needs nothing.
	if t.Capture && !capture && !slices.Contains(p.queue, oid) {
		p.queue = append(p.queue, oid)
	}
	return o, nil
}

// equip gives a table its functions and triggers.
func (p *protector) equip(ctx context.Context, t *table) error {
	if err := p.foreignKeys(ctx, t); err != nil {
		return err
	}
	var parts []string
	if t.Capture {
		parts = append(parts, "capture", "restore", "settled")
	}
	if t.guardEvents() != "" {
		parts = append(parts, "guard")
	}
	committed, err := p.viewWanted(ctx, t)
	if err != nil {
		return err
	}
	if committed {
		parts = append(parts, "committed")
	}
	sql := fmt.Sprintf("SELECT handfast.take_off(%d);\n", t.ID)
	for _, name := range parts {
		s, err := t.generate(name)
		if err != nil {
			return err
		}
		sql += s
	}
	sql += t.triggers() + fmt.Sprintf("SELECT handfast.always(%d);\n", t.ID) + fmt.Sprintf("UPDATE handfast.protected SET fingerprint = handfast.fingerprint(rel) WHERE id = %d;\n", t.ID)
	if err := p.do(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	if committed {
		err := try(ctx, p.tx, t.keyIndex())
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42P17" {
			err = nil // not IMMUTABLE: the view is then slower while many rows are deleted
		} else {
			p.script.WriteString(t.keyIndex() + ";\n")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	if t.Capture {
		p.done = append(p.done, ProtectedTable{ID: t.ID, Name: t.Name, Keys: t.keyNames()})
	}
	return nil
}

// viewWanted tells whether the table gets its view: one that it has is kept as
// the table is. Another relation of that name is somebody else's.
func (p *protector) viewWanted(ctx context.Context, t *table) (bool, error) {
	if !t.Capture {
		return false, nil
	}
	taken, ours, err := p.view(ctx, t)
	if err == nil && p.options.committed && taken && !ours {
		err = &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("can't have its view: there is another %s", t.ViewName())}
	}
	return p.options.committed || ours, err
}

// view tells whether the name of the view is taken, and by the view itself.
func (p *protector) view(ctx context.Context, t *table) (taken, ours bool, err error) {
	err = p.tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, EXISTS (
			SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
			 WHERE w.ev_class = to_regclass($1) AND d.refobjid = 'handfast.gate'::regclass)`, t.ViewName()).Scan(&taken, &ours)
	return taken, ours, err
}

// register gives the table its id. What the functions rest on must not change
// under open intents: their images are made for the old columns.
func (p *protector) register(ctx context.Context, t *table) error {
	if err := p.do(ctx, "LOCK TABLE "+t.Name+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	var intents int64
	var changed bool
	err := p.tx.QueryRow(ctx, `SELECT p.id, p.enforce, p.fingerprint NOT IN ('', handfast.fingerprint(p.rel)), (SELECT count(*) FROM handfast.undo u WHERE u.tab = p.id)
		FROM handfast.protected p WHERE p.rel = $1`, t.oid).Scan(&t.ID, &t.Enforce, &changed, &intents)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		t.Enforce = p.options.enforce == nil || *p.options.enforce
		// The functions have it in them, also those that are only printed.
		if err := p.tx.QueryRow(ctx, "SELECT nextval(pg_get_serial_sequence('handfast.protected', 'id'))").Scan(&t.ID); err != nil {
			return err
		}
		return p.do(ctx, fmt.Sprintf(`INSERT INTO handfast.protected (id, rel, capture, enforce, fingerprint) OVERRIDING SYSTEM VALUE
  VALUES (%d, %s, %t, %t, '')`, t.ID, literal(t.Name), t.Capture, t.Enforce))
	case err != nil:
		return err
	case changed && intents > 0:
		return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("was altered and has %d intents made before; wait until they are settled", intents)}
	}
	if t.Capture && p.options.enforce != nil {
		t.Enforce = *p.options.enforce
	}
	return p.do(ctx, fmt.Sprintf("UPDATE handfast.protected SET capture = %t, enforce = %t WHERE id = %d", t.Capture, t.Enforce, t.ID))
}

// Unprotect takes capture and guard off tables. It is refused while a table has
// intents: without them nothing would keep their rows as they are.
func Unprotect(ctx context.Context, conn *pgx.Conn, tables ...string) error {
	return explain("unprotect", locked(ctx, conn, func(tx pgx.Tx) error {
		p := newProtector(tx, nil)
		oids, err := p.resolve(ctx, tables)
		if err != nil || len(tables) == 0 {
			return err
		}
		for _, oid := range oids {
			if err := p.release(ctx, oid); err != nil {
				return err
			}
		}
		// Those that a foreign key joins to what is still protected stay guarded.
		rows, err := tx.Query(ctx, `SELECT t.rel::oid FROM handfast.protected t WHERE NOT t.capture AND EXISTS (
			SELECT FROM pg_constraint c JOIN handfast.protected o ON o.capture AND o.rel IN (handfast.root(c.conrelid), handfast.root(c.confrelid))
			 WHERE c.contype = 'f' AND t.rel IN (handfast.root(c.conrelid), handfast.root(c.confrelid)))`)
		if err != nil {
			return err
		}
		neighbours, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
		if err != nil {
			return err
		}
		for _, oid := range neighbours {
			t, err := p.describe(ctx, oid)
			if err != nil {
				return err
			}
			if err := p.register(ctx, t); err != nil {
				return err
			}
			if err := p.equip(ctx, t); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `SELECT handfast.take_off(t.id), handfast.drop_functions(t.id) FROM handfast.protected t WHERE NOT t.capture AND t.rel <> ALL ($1)`, neighbours)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM handfast.protected t WHERE NOT t.capture AND t.rel <> ALL ($1)", neighbours)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "SELECT handfast.arrange()")
		return err
	}))
}

// release makes a table a neighbour.
func (p *protector) release(ctx context.Context, oid uint32) error {
	t, err := p.describe(ctx, oid)
	if err != nil {
		return err
	}
	if _, err := p.tx.Exec(ctx, "LOCK TABLE "+t.Name+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
		return err
	}
	var intents int64
	err = p.tx.QueryRow(ctx, `SELECT p.id, (SELECT count(*) FROM handfast.undo u WHERE u.tab = p.id) FROM handfast.protected p WHERE p.rel = $1`, oid).Scan(&t.ID, &intents)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return err
	case intents > 0:
		return &NotProtectableError{Table: t.Name, Reason: fmt.Sprintf("has %d intents of undecided transactions; wait until they are settled", intents)}
	}
	_, ours, err := p.view(ctx, t)
	if err == nil && ours {
		_, err = p.tx.Exec(ctx, "DROP VIEW "+t.ViewName())
	}
	if err != nil {
		return err
	}
	_, err = p.tx.Exec(ctx, "SELECT handfast.take_off($1), handfast.drop_functions($1)", t.ID)
	if err != nil {
		return err
	}
	_, err = p.tx.Exec(ctx, "UPDATE handfast.protected SET capture = false WHERE id = $1", t.ID)
	return err
}
