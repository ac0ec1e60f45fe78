package undolog_test

import (
	"fmt"
	"strings"

	"pgregory.net/rapid"
)

// extent is how much of a schema is drawn.
type extent struct {
	foreignKeys, triggers bool
}

// plan is a drawn schema: tables t0, t1, ... with id, a, b, p, q and v, each
// with the rows 1 to 3.
type plan struct {
	tables []tablePlan
}

type tablePlan struct {
	unique  string // what makes values unique, as DDL with {t}; a is a key of its own where it is "plain"
	plain   bool   // a is unique without conditions, so foreign keys may refer to it
	refs    []refPlan
	trigger string // as DDL, {t} this table and {o} another one
}

type refPlan struct {
	column, target string // p or q; id or a of
	table          int
	del, upd, when string
}

var uniques = []string{
	"",
	"ALTER TABLE {t} ADD UNIQUE (a)",
	"ALTER TABLE {t} ADD UNIQUE (a); CREATE UNIQUE INDEX ON {t} (p, q)",
	"ALTER TABLE {t} ADD UNIQUE (a) DEFERRABLE INITIALLY DEFERRED",
	"ALTER TABLE {t} ADD UNIQUE (a) DEFERRABLE",
	"CREATE UNIQUE INDEX ON {t} (a) WHERE b > 1",
	"CREATE UNIQUE INDEX ON {t} (abs(a - 2), b)",
	"ALTER TABLE {t} ADD UNIQUE (a, b); CREATE UNIQUE INDEX ON {t} ((a + id)) WHERE b IS NULL",
	"ALTER TABLE {t} ADD UNIQUE NULLS NOT DISTINCT (a, b)",
}

// None writes twice to a row of the statement that fires it: that has scenes of
// its own.
var userTriggers = []string{
	"",
	"CREATE FUNCTION {t}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v := NEW.v + 100; RETURN NEW; END $$; CREATE TRIGGER \" a\" BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_f()",
	"CREATE FUNCTION {t}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE {o} SET v = v + 1 WHERE id = NEW.id; RETURN NULL; END $$; CREATE TRIGGER \" a\" AFTER INSERT OR UPDATE ON {t} FOR EACH ROW WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION {t}_f()",
	"CREATE FUNCTION {t}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE {o} SET b = OLD.b WHERE id = OLD.id; RETURN OLD; END $$; CREATE TRIGGER z BEFORE DELETE ON {t} FOR EACH ROW WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION {t}_f()",
	"CREATE FUNCTION {t}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO {o} (id) VALUES (4) ON CONFLICT DO NOTHING; RETURN NULL; END $$; CREATE TRIGGER z AFTER DELETE ON {t} FOR EACH STATEMENT WHEN (pg_trigger_depth() < 1) EXECUTE FUNCTION {t}_f()",
}

func planGen(e extent) *rapid.Generator[plan] {
	return rapid.Custom(func(t *rapid.T) plan {
		var p plan
		n := rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "tables")
		for range n {
			var tp tablePlan
			u := rapid.IntRange(0, len(uniques)-1).Draw(t, "unique")
			tp.unique, tp.plain = uniques[u], u == 1 || u == 2
			if e.triggers && n > 1 {
				tp.trigger = rapid.SampledFrom(userTriggers).Draw(t, "trigger")
			}
			p.tables = append(p.tables, tp)
		}
		if !e.foreignKeys {
			return p
		}
		actions := rapid.SampledFrom([]string{"NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"})
		for i := range p.tables {
			for _, column := range []string{"p", "q"}[:rapid.IntRange(1, 2).Draw(t, "foreign keys")] {
				r := refPlan{column: column, target: "id", table: rapid.IntRange(0, n-1).Draw(t, "to"), del: actions.Draw(t, "delete"), upd: actions.Draw(t, "update"),
					when: rapid.SampledFrom([]string{"", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"}).Draw(t, "when")}
				if p.tables[r.table].plain && rapid.Bool().Draw(t, "to a") {
					r.target = "a"
				}
				p.tables[i].refs = append(p.tables[i].refs, r)
			}
		}
		return p
	})
}

// ddl makes the tables and their first rows. The trigger audit notes the keys
// of what a session writes in a temporary table of the session's own.
func (p plan) ddl(schema string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE SCHEMA %[1]s; SET LOCAL search_path = %[1]s, pg_temp;\n", schema)
	for i := range p.tables {
		fmt.Fprintf(&b, "CREATE TABLE t%d (id int PRIMARY KEY, a int, b int, p int DEFAULT 1, q int DEFAULT 2, v int DEFAULT 0);\n", i)
		b.WriteString(firstRows(fmt.Sprintf("t%d", i)))
	}
	for i, t := range p.tables {
		names := strings.NewReplacer("{t}", fmt.Sprintf("%s.t%d", schema, i), "{o}", fmt.Sprintf("%s.t%d", schema, (i+1)%len(p.tables)))
		fmt.Fprintf(&b, "%s;\n%s;\n", names.Replace(t.unique), names.Replace(t.trigger))
	}
	b.WriteString(`CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF TG_OP <> 'INSERT' THEN INSERT INTO pg_temp.audit VALUES (TG_TABLE_NAME, OLD.id); END IF;
		IF TG_OP <> 'DELETE' THEN INSERT INTO pg_temp.audit VALUES (TG_TABLE_NAME, NEW.id); END IF; RETURN NULL; END $$;` + "\n")
	for i, t := range p.tables {
		for _, r := range t.refs {
			fmt.Fprintf(&b, "ALTER TABLE t%d ADD FOREIGN KEY (%s) REFERENCES t%d (%s) ON DELETE %s ON UPDATE %s %s;\n", i, r.column, r.table, r.target, r.del, r.upd, r.when)
		}
		fmt.Fprintf(&b, "CREATE TRIGGER zz_audit AFTER INSERT OR UPDATE OR DELETE ON t%d FOR EACH ROW EXECUTE FUNCTION audit();\n", i)
	}
	return b.String()
}

func firstRows(table string) string {
	return fmt.Sprintf("INSERT INTO %s SELECT i, i, i, i, 1 + i %% 3, 0 FROM generate_series(1, 3) i;\n", table)
}

// anew gives the tables the rows they began with. No trigger but ours sees it.
func (p plan) anew(schema string) string {
	var b strings.Builder
	b.WriteString("BEGIN; SET LOCAL session_replication_role = replica;\n")
	for _, name := range p.names(schema) {
		fmt.Fprintf(&b, "DELETE FROM %s; %s", name, firstRows(name))
	}
	b.WriteString("COMMIT")
	return b.String()
}

// names of the tables, qualified.
func (p plan) names(schema string) []string {
	var out []string
	for i := range p.tables {
		out = append(out, fmt.Sprintf("%s.t%d", schema, i))
	}
	return out
}

// recheck makes Postgres look at every constraint again, and leaves nothing.
func recheck(schema string) string {
	return fmt.Sprintf(`BEGIN; DO $$ DECLARE c record; BEGIN
		FOR c IN SELECT conrelid::regclass AS t, conname, pg_get_constraintdef(oid) AS def FROM pg_constraint WHERE contype = 'f' AND connamespace = '%[1]s'::regnamespace LOOP
			EXECUTE format('ALTER TABLE %%s DROP CONSTRAINT %%I, ADD CONSTRAINT %%I %%s', c.t, c.conname, c.conname, c.def);
		END LOOP;
		FOR c IN SELECT oid::regclass AS t FROM pg_class WHERE relnamespace = '%[1]s'::regnamespace AND relkind = 'r' LOOP EXECUTE format('REINDEX TABLE %%s', c.t); END LOOP;
		END $$; ROLLBACK`, schema)
}
