package undolog_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/handfast/handfast/undolog"
)

// A database in SQL_ASCII takes any bytes but zero, and so do choices for its rows.
func TestRowsOfADatabaseWithoutAnEncodingCanBeChosenFor(t *testing.T) {
	t.Parallel()
	outer := newDatabase(t, "")
	name := outer.own.Config().Database
	odd := pgx.Identifier{name + "_odd"}.Sanitize()
	outer.exec(outer.own, "CREATE DATABASE "+odd+" ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
	t.Cleanup(func() { outer.exec(outer.own, "DROP DATABASE "+odd+" WITH (FORCE)") })
	d := &database{t: t, dsn: strings.Replace(outer.dsn, name, name+"_odd", 1)}
	d.own = d.connect()
	if err := undolog.Install(context.Background(), d.own); err != nil {
		t.Fatal(err)
	}
	d.exec(d.own, `CREATE TABLE g (k text PRIMARY KEY, v text); INSERT INTO g VALUES (E'\xe4', 'a')`)
	if _, err := undolog.Protect(context.Background(), d.own, "g"); err != nil {
		t.Fatal(err)
	}
	id := newXID()
	l := d.work(id, "UPDATE g SET v = 'b'")
	d.behind("g", "UPDATE g SET v = 'c'")
	key := d.diff(id).Rows[0].Key
	d.mustChoose(id, undolog.Resolution{Key: key, Choice: undolog.ChoiceEdit, Values: []undolog.Edit{{"v", text("\xff")}}, Why: "\xfc"})
	d.mustSettle(id, false, l)
	if got := d.value("SELECT k || v FROM g"); got != "\xe4\xff" {
		t.Errorf("got %q", got)
	}
}
