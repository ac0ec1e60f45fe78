package rm_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/rm"
)

// What passes as SQL that neither begins nor ends a transaction does neither, as Postgres
// itself reads it.
func FuzzControl(f *testing.F) {
	for _, sql := range []string{
		"select 1", "select 1; commit", "select E'\\''; commit; --'", "/* /* */ */ commit", "-- x\rcommit", "-- x\ncommit", "select ';commit'", "select $a$;commit$a$", "select E'\\';commit'", "select e'\\'';commit;'", "select '\\'; commit; select '",
		`select ";commit" from t`, "rollback to savepoint s", "rollback work to s", "rollback and chain", "end", "abort work", "start/**/transaction", "prepare transaction 'x'", "prepare p as select 1",
		"select U&'\\0027; commit --'", "select $$;$$; begin", "select 1$a$;commit;$a$", "select a$b$;commit;$b$", "do $$ begin commit; end $$", "select B'1';COMMIT", "select x'\n'';commit'", "select E'a'\n'\\';commit;--'",
		"\ufeffcommit", "\u00a0commit", "select 1 /*;*/; /*--*/ commit", "select 1--;\n;commit", ";;commit", "(commit)", "create procedure p() begin atomic; select 1; end; commit", "\vcommit", "select '';commit;''", "explain commit", "select 1;\\;commit",
	} {
		f.Add(sql)
	}
	dsn := cluster.DSN(f)
	exec(f, connect(f, dsn), "DROP ROLE IF EXISTS stranger; CREATE ROLE stranger NOLOGIN; CREATE TABLE t (id int)")
	var conn *pgx.Conn
	f.Cleanup(func() {
		if conn != nil {
			_ = conn.Close(context.Background())
		}
	})
	f.Fuzz(func(t *testing.T, sql string) {
		if strings.ContainsRune(sql, 0) || rm.Control(sql) != "" {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = stranger(ctx, dsn); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Exec(ctx, "BEGIN; SAVEPOINT ours_it_is; SET LOCAL statement_timeout = '200ms'"); err != nil {
			t.Fatal(err)
		}
		// All of it is parsed before any of it runs.
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		if conn.IsClosed() {
			return // it asked for it
		}
		if status := conn.PgConn().TxStatus(); status != 'T' && status != 'E' {
			t.Fatalf("%q ended the transaction (%c): %v", sql, status, err)
		}
		if _, again := conn.Exec(ctx, "ROLLBACK TO ours_it_is"); again != nil && !hasState(again, "57014") {
			t.Fatalf("%q began another transaction: %v, %v", sql, err, again)
		}
		if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	})
}

// stranger connects as a role that may do nothing to anybody.
func stranger(ctx context.Context, dsn string) (*pgx.Conn, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err == nil {
		_, err = conn.Exec(ctx, "SET SESSION AUTHORIZATION stranger")
	}
	return conn, err
}
