//go:build unix

package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// marks are what a transaction leaves: how often each is there. A mark is its database,
// and the journal's word or an action's name.
type marks map[string]int

func (m marks) String() string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%d x %q", m[k], k))
	}
	return strings.Join(out, ", ")
}

func each(names ...string) marks {
	m := marks{}
	for _, name := range names {
		m[name]++
	}
	return m
}

// left is what a committed transaction has left, by its name. A transfer goes either way.
var left = map[string]marks{
	"at":       each("a at", "b at"),
	"xa":       each("a xa", "b xa"),
	"atxa":     each("a at", "b xa"),
	"inner":    each("a out", "a in"),
	"tcc":      each("a try forward", "a try commit", "b try forward", "b try commit"),
	"saga":     each("a pay forward", "b receive forward", "a deliver forward"),
	"message":  each("a deliver forward", "b deliver forward"),
	"prepared": each("a deliver forward", "b deliver forward", "a sent"),
	"publish":  each("a deliver forward", "b deliver forward", "a sent"),
	"dtm saga": each("a pay forward", "b receive forward"),
	"dtm msg":  each("a deliver forward", "b deliver forward", "a sent"),
	"dtm tcc":  each("a try forward", "a try commit", "b try forward", "b try commit"),
	"workflow": each("a pay forward", "b receive forward", "a note forward"),
	"all": each("a at", "b xa", "a try forward", "a try commit", "a deliver forward", "b deliver forward",
		"b note forward", "a pay forward", "b receive forward"),
}

// undone says what is wrong with the marks of a transaction that was rolled back:
// whatever was done has to be undone, once.
func undone(m marks) string {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		done := strings.TrimSuffix(strings.TrimSuffix(k, " forward"), " rollback")
		if done == k || m[done+" forward"] != 1 || m[done+" rollback"] != 1 {
			return fmt.Sprintf("it is rolled back, and there is %s", m)
		}
	}
	return ""
}

// books are what has to add up over all rounds.
type books struct {
	sold, paid int64
	since      time.Time  // of this round
	sample     []toldText // of all rounds, a part of each
}

// toldText is an outcome that has to stay.
type toldText struct {
	id, outcome string
	at          time.Time
}

// named is what the parts know a transaction by, and its kind: with DTM its gid, which is
// also the end of its name.
func named(tx *pb.Transaction) (id, kind string) {
	if gid := tx.GetKey(); isGid(gid) {
		return gid, strings.TrimSuffix(tx.GetName(), " "+gid)
	}
	return tx.GetXid(), tx.GetName()
}

// judge looks at a world at rest.
func (w *world) judge(ctx context.Context) {
	all, err := w.list(ctx, &pb.ListRequest{BegunAfter: timestamppb.New(w.books.since)})
	if err != nil {
		w.wrongf("", "the coordinator does not list its transactions: %v", err)
		return
	}
	found := map[string]marks{}
	for i, name := range []string{"a", "b"} {
		if err := w.marks(ctx, i, name, found); err != nil {
			w.wrongf("", "database %s can't be read: %v", name, err)
			return
		}
	}
	known := map[string]*pb.Transaction{}
	for _, tx := range all {
		id, _ := named(tx)
		known[id] = tx
		w.judgeOne(tx, found[id])
	}
	w.judgeTold(ctx, known)
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if known[id] == nil {
			w.wrongf(id, "it left %s, and was not begun in this round: %s", found[id], w.ask(ctx, id))
		}
	}
	w.judgeSums(ctx)
}

func (w *world) judgeOne(tx *pb.Transaction, m marks) {
	id, name := named(tx)
	w.counts.add("transactions", 1)
	switch tx.GetOutcome() {
	case pb.Outcome_OUTCOME_COMMITTED:
		w.counts.add("committed: "+name, 1)
		want := left[name]
		if name == "atxa" && m["b at"] > 0 {
			want = each("b at", "a xa")
		}
		if !maps.Equal(m, want) {
			w.wrongf(id, "%s is committed and left %s, want %s", name, m, want)
		}
		for k := range want {
			switch {
			case strings.HasSuffix(k, " try commit"):
				w.books.sold++
			case strings.HasSuffix(k, " pay forward"):
				w.books.paid++
			}
		}
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		w.counts.add("rolled back: "+name, 1)
		if bad := undone(m); bad != "" {
			w.wrongf(id, "%s: %s", name, bad)
		}
	case pb.Outcome_OUTCOME_UNDECIDED, pb.Outcome_OUTCOME_UNSPECIFIED:
		w.wrongf(id, "%s is not decided at rest", name)
	}
}

// marks reads what is in a database.
func (w *world) marks(ctx context.Context, i int, name string, into map[string]marks) error {
	conn, err := pgx.Connect(ctx, w.db[i].dsn())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(ctx, `SELECT xid, mark, count(*) FROM journal GROUP BY 1, 2
		UNION ALL SELECT xid, name || ' ' || action, count(*) FROM effect GROUP BY 1, 2 UNION ALL SELECT id, 'sent', 1 FROM sent WHERE really`)
	if err != nil {
		return err
	}
	var id, mark string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&id, &mark, &n}, func() error {
		if into[id] == nil {
			into[id] = marks{}
		}
		into[id][name+" "+mark] += n
		return nil
	})
	return err
}

// judgeTold compares what the callers were told with what is on record.
func (w *world) judgeTold(ctx context.Context, known map[string]*pb.Transaction) {
	lines, err := os.ReadFile(w.told)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.wrongf("", "%v", err)
		return
	}
	s := bufio.NewScanner(strings.NewReader(string(lines)))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) != 3 {
			w.wrongf("", "the caller said %q", s.Text())
			continue
		}
		name, id, said := f[0], f[1], f[2]
		switch {
		case id == "-":
			w.counts.add(name+" "+said, 1)
			continue
		case name == "asked":
			w.counts.add("outcomes asked for again", 1)
		default:
			w.counts.add("told: "+said, 1)
		}
		if said == unknown {
			continue
		}
		is := rolledBack // what never had a branch may be forgotten, and can't have been committed
		if tx := known[id]; tx != nil {
			is = outcomeOf(tx.GetOutcome())
		} else if said == committed {
			is = w.ask(ctx, id)
		}
		if is != said {
			w.wrongf(id, "%s: told %s, and it is %s", name, said, is)
		}
	}
	kept := 0
	for _, tx := range known {
		// What was told to nobody and had no branch may be forgotten.
		if kept < 50 && len(w.books.sample) < 20000 && len(tx.GetBranches()) > 0 {
			w.keep(tx.GetXid(), tx)
			kept++
		}
	}
}

func outcomeOf(o pb.Outcome) string {
	switch o {
	case pb.Outcome_OUTCOME_COMMITTED:
		return committed
	case pb.Outcome_OUTCOME_ROLLED_BACK:
		return rolledBack
	case pb.Outcome_OUTCOME_UNDECIDED, pb.Outcome_OUTCOME_UNSPECIFIED:
	}
	return "undecided"
}

// ask asks the coordinator for one outcome.
func (w *world) ask(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req := &pb.GetRequest{Xid: id}
	if isGid(id) {
		req = &pb.GetRequest{Key: id}
	}
	r, err := w.admin.Show(ctx, req)
	if client.ReasonOf(err) == pb.ErrorReason_ERROR_REASON_EXPIRED_XID {
		return expired
	}
	if err != nil {
		return err.Error()
	}
	return outcomeOf(r.GetTransaction().GetOutcome())
}

const expired = "expired"

// judgeSums looks at what has to add up, whatever happened.
func (w *world) judgeSums(ctx context.Context) {
	type sums struct{ money, inner, stock, held, sold, purse, drained, till, negative int64 }
	var s [2]sums
	for i := range s {
		conn, err := pgx.Connect(ctx, w.db[i].dsn())
		if err != nil {
			w.wrongf("", "%v", err)
			return
		}
		err = conn.QueryRow(ctx, fmt.Sprintf(`SELECT (SELECT sum(balance) FROM account), (SELECT sum(balance) FROM account WHERE id >= %d),
			(SELECT sum(onhand + held + sold) FROM stock), (SELECT sum(held) FROM stock), (SELECT sum(sold) FROM stock),
			(SELECT sum(balance) FROM purse), (SELECT 100000000 - balance FROM purse WHERE id = %d), (SELECT balance - 100000000 FROM purse WHERE id = %d),
			(SELECT count(*) FROM account WHERE balance < 0)`, firstInner, purse, till)).
			Scan(&s[i].money, &s[i].inner, &s[i].stock, &s[i].held, &s[i].sold, &s[i].purse, &s[i].drained, &s[i].till, &s[i].negative)
		_ = conn.Close(ctx)
		if err != nil {
			w.wrongf("", "%v", err)
			return
		}
	}
	for _, c := range []struct {
		what      string
		got, want int64
	}{
		{"the money in all accounts", s[0].money + s[1].money, 2 * (crossAccounts + innerAccounts) * opening},
		{"the money in inner accounts of a", s[0].inner, innerAccounts * opening},
		{"the money in inner accounts of b", s[1].inner, innerAccounts * opening},
		{"the stock of both", s[0].stock + s[1].stock, 2 * 400_000_000},
		{"the stock held", s[0].held + s[1].held, 0},
		{"the stock sold", s[0].sold + s[1].sold, w.books.sold},
		{"the money in all purses", s[0].purse + s[1].purse, 2 * 400_000_000},
		{"what was paid at a", s[0].drained, w.books.paid},
		{"what was received at b", s[1].till, w.books.paid},
		{"accounts below zero", s[0].negative + s[1].negative, 0},
	} {
		if c.got != c.want {
			w.wrongf("", "%s: %d, want %d", c.what, c.got, c.want)
		}
	}
}

// clear removes the marks that were judged.
func (w *world) clear(ctx context.Context) {
	for i := range w.db {
		conn, err := pgx.Connect(ctx, w.db[i].dsn())
		if err == nil {
			// The barrier stays for those who come late.
			_, err = conn.Exec(ctx, "TRUNCATE effect, sent, journal; DELETE FROM barrier WHERE at < now() - interval '5 minutes'")
			_ = conn.Close(ctx)
		}
		if err != nil {
			w.wrongf("", "clear: %v", err)
		}
	}
	if err := os.Remove(w.told); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.wrongf("", "clear: %v", err)
	}
}

// list gives all transactions of a kind, page by page.
func (w *world) list(ctx context.Context, r *pb.ListRequest) (all []*pb.Transaction, err error) {
	r.PageSize = 1000
	for {
		page, err := w.admin.List(ctx, r)
		if err != nil {
			return nil, err
		}
		all = append(all, page.GetTransactions()...)
		if r.PageToken = page.GetNextPageToken(); r.PageToken == "" {
			return all, nil
		}
	}
}

// unrest is what is still under way; empty at rest.
func (w *world) unrest(ctx context.Context) (ids []string, why string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	open, err := w.admin.List(ctx, &pb.ListRequest{Phases: []pb.Phase{pb.Phase_PHASE_ACTIVE, pb.Phase_PHASE_COLLECTING, pb.Phase_PHASE_SETTLING}})
	if err != nil {
		return nil, err.Error()
	}
	for _, tx := range open.GetTransactions() {
		ids = append(ids, tx.GetXid())
	}
	if len(ids) > 0 {
		return ids, fmt.Sprintf("%d transactions are open", len(ids))
	}
	for i, name := range []string{"a", "b"} {
		if n, err := w.busy(ctx, i); err != nil || n != "0" {
			return nil, fmt.Sprintf("service %s is busy: %s %v", name, n, err)
		}
		n, err := remains(ctx, w.db[i].dsn())
		if err != nil || n != "" {
			return nil, fmt.Sprintf("database %s: %s %v", name, n, err)
		}
	}
	return nil, ""
}

// remains is what is undecided in a database.
func remains(ctx context.Context, dsn string) (string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var undo, gate, live, prepared int
	err = conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM handfast.undo), (SELECT count(*) FROM handfast.gate),
		(SELECT count(*) FROM handfast.fence WHERE state = 'L'), (SELECT count(*) FROM pg_prepared_xacts)`).Scan(&undo, &gate, &live, &prepared)
	if err != nil || undo+gate+live+prepared == 0 {
		return "", err
	}
	return fmt.Sprintf("%d undo rows, %d gate rows, %d live fences, %d prepared transactions", undo, gate, live, prepared), nil
}

// settle waits until nothing is under way, by itself. It looks twice: what is asked one
// after the other is of no single moment, and a request may still be on its way.
func (w *world) settle(ctx context.Context) bool {
	begun, calm := time.Now(), 0
	for {
		ids, why := w.unrest(ctx)
		took := time.Since(begun)
		if calm++; why != "" {
			calm = 0
		}
		switch {
		case calm > 1:
			w.counts.most("longest recovery, ms", took.Milliseconds())
			w.events.add("at rest after %s", took.Round(time.Millisecond))
			return true
		case why != "" && (took > w.s.rest || ctx.Err() != nil):
			w.wrongf("", "not at rest after %s: %s", took.Round(time.Second), why)
			for _, id := range ids[:min(5, len(ids))] {
				w.wrongf(id, "is open")
			}
			return false
		}
		wait(ctx, 100*time.Millisecond) // there is no signal for "all is over"
	}
}

// show is what an operator would see.
func (w *world) show(id string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	args := []string{"tx", "show", "--server", w.at, id}
	if isGid(id) {
		args = slices.Insert(args, 4, "--key")
	}
	out, err := exec.CommandContext(ctx, w.bin, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s%v", out, err)
	}
	return string(out)
}
