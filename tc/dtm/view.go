package dtm

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/handfast/handfast/tc/core"
)

// status is how far something is, in DTM's words.
type status string

const (
	prepared  status = "prepared"
	submitted status = "submitted"
	aborting  status = "aborting"
	succeed   status = "succeed"
	failed    status = "failed"
)

// status is that of the global transaction.
func (g *global) status() status {
	switch {
	case g.Phase == core.Finished && g.Outcome == core.Committed && !g.abandoned():
		return succeed
	case g.Phase == core.Finished:
		return failed
	case g.Outcome == core.Committed:
		return submitted
	case g.Outcome == core.RolledBack:
		return aborting
	case g.note.Type == saga:
		return submitted
	default:
		return prepared // a message, too, for as long as its sender is asked
	}
}

func (g *global) abandoned() bool {
	return slices.ContainsFunc(g.Settlements, func(s core.Settlement) bool { return s.Abandoned })
}

// reason is why it was rolled back, as DTM words it.
func (g *global) reason() string {
	switch g.Reason {
	case core.ReasonTimeout:
		return fmt.Sprintf("Timeout after %d seconds", int64(g.timeout()/time.Second))
	case core.ReasonVotedNo:
		for i := range g.Branches {
			if b := &g.Branches[i]; b.Vote == core.VoteNo {
				return b.VoteReason
			}
		}
		return fmt.Sprintf("RetryCount is greater than RetryLimit, RetryLimit: %d", g.note.Options.RetryLimit)
	case core.ReasonNone, core.ReasonRequested, core.ReasonOperator, core.ReasonDeadlock:
	}
	return g.Cause
}

func (g *global) timeout() time.Duration {
	if g.note.Type == saga {
		return seconds(g.note.Options.TimeoutToFail)
	}
	return g.note.Options.timeout()
}

// base is what DTM's objects begin with. All times are in UTC.
type base struct {
	ID         uint64    `json:"id"`
	CreateTime time.Time `json:"create_time,omitzero"`
	UpdateTime time.Time `json:"update_time,omitzero"`
}

// transactionView is a global transaction as DTM shows it.
type transactionView struct {
	base
	Gid              string    `json:"gid"`
	TransType        transType `json:"trans_type"`
	Status           status    `json:"status"`
	QueryPrepared    string    `json:"query_prepared,omitempty"`
	Protocol         string    `json:"protocol,omitempty"`
	FinishTime       time.Time `json:"finish_time,omitzero"`
	RollbackTime     time.Time `json:"rollback_time,omitzero"`
	Result           string    `json:"result,omitempty"`
	RollbackReason   string    `json:"rollback_reason,omitempty"`
	Options          string    `json:"options,omitempty"`
	CustomData       string    `json:"custom_data,omitempty"`
	NextCronInterval int64     `json:"next_cron_interval,omitempty"`
	NextCronTime     time.Time `json:"next_cron_time,omitzero"`
	XID              string    `json:"xid"`
	options
}

// branchView is one call of a branch as DTM shows it.
type branchView struct {
	base
	Gid        string    `json:"gid"`
	URL        string    `json:"url,omitempty"`
	BinData    []byte    `json:"bin_data,omitempty"`
	BranchID   string    `json:"branch_id"`
	Op         string    `json:"op"`
	Status     status    `json:"status"`
	FinishTime time.Time `json:"finish_time,omitzero"`
}

// number makes an id that stays the same and fits into the numbers of JavaScript.
func number(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p + "\x00")) // never fails
	}
	return h.Sum64() >> 11
}

func (g *global) view() *transactionView {
	v := &transactionView{
		base:      base{ID: number(g.Key), CreateTime: g.XID.Begin().UTC()},
		Gid:       g.Key,
		TransType: g.note.Type, Status: g.status(), QueryPrepared: g.note.Query, Protocol: g.note.Protocol,
		Result: g.result(), CustomData: g.note.Custom, XID: g.XID.String(), options: g.note.Options,
	}
	if g.Outcome == core.RolledBack {
		v.RollbackReason = g.reason()
	}
	v.UpdateTime = g.updated()
	switch v.Status {
	case succeed:
		v.FinishTime = g.Finished.UTC()
	case failed:
		v.RollbackTime = g.Finished.UTC()
	case prepared, submitted, aborting:
	}
	if b, err := json.Marshal(g.note.Options); err == nil {
		v.Options = string(b)
	}
	if p := nextCall(&g.Transaction); p != nil {
		v.NextCronTime = p.Next.UTC()
		if !p.Last.IsZero() {
			v.NextCronInterval = max(1, int64(p.Next.Sub(p.Last).Round(time.Second)/time.Second))
		}
	}
	return v
}

// updated is when something was last heard of the transaction.
func (g *global) updated() time.Time {
	last := cmp.Or(g.Finished, g.Decided, g.XID.Begin())
	heard := func(t time.Time) {
		if t.After(last) {
			last = t
		}
	}
	for i := range g.Branches {
		heard(g.Branches[i].Registered)
		heard(g.Branches[i].Forward.Last)
	}
	for i := range g.Settlements {
		heard(g.Settlements[i].Last)
	}
	return last.UTC()
}

// nextCall is the call that is due next; nil where there is none.
func nextCall(t *core.Transaction) (first *core.Progress) {
	sooner := func(p *core.Progress) {
		if !p.Next.IsZero() && (first == nil || p.Next.Before(first.Next)) {
			first = p
		}
	}
	for i := range t.Branches {
		sooner(&t.Branches[i].Forward)
	}
	for i := range t.Settlements {
		if s := &t.Settlements[i]; !s.Done {
			sooner(&s.Progress)
		}
	}
	return first
}

// result is what the client of a workflow has submitted.
func (g *global) result() string {
	if b := g.named(zero); b != nil && g.note.Type == workflow {
		return string(b.Result)
	}
	return ""
}

func (g *global) named(name string) *core.Branch {
	for i := range g.Branches {
		if g.Branches[i].Name == name {
			return &g.Branches[i]
		}
	}
	return nil
}

// rows are the calls of all branches, in the order in which DTM makes them.
func (g *global) rows() []branchView {
	out := []branchView{}
	branches := slices.Clone(g.Branches)
	if g.note.Type == saga { // whatever the order was in which they depend on each other
		slices.SortFunc(branches, func(a, b core.Branch) int { // 100 comes after 99
			return cmp.Or(cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name))
		})
	}
	for i := range branches {
		b := &branches[i]
		if b.Plan == nil || b.Name == zero && (g.note.Type == msg || g.note.Type == workflow) {
			continue // it stands for whoever is asked, or called back
		}
		switch g.note.Type {
		case saga:
			out = append(out, g.row(b, "compensate", &b.Plan.Rollback, g.owed(b, core.RolledBack)))
			forward := map[core.Vote]status{core.VoteYes: succeed, core.VoteNo: failed}[b.Vote]
			out = append(out, g.row(b, "action", &b.Plan.Forward, cmp.Or(forward, prepared)))
		case msg:
			out = append(out, g.row(b, "action", &b.Plan.Commit, g.owed(b, core.Committed)))
		case tcc:
			out = append(out, g.row(b, "cancel", &b.Plan.Rollback, g.owed(b, core.RolledBack)))
			out = append(out, g.row(b, "confirm", &b.Plan.Commit, g.owed(b, core.Committed)))
		case xa:
			out = append(out, g.row(b, "rollback", &b.Plan.Rollback, g.owed(b, core.RolledBack)))
			out = append(out, g.row(b, "commit", &b.Plan.Commit, g.owed(b, core.Committed)))
		case workflow:
			out = append(out, g.step(b))
		}
	}
	return out
}

func (g *global) row(b *core.Branch, op string, a *core.Action, st status) branchView {
	v := branchView{
		base: base{ID: number(g.Key, b.Name, op), CreateTime: b.Registered.UTC(), UpdateTime: b.Registered.UTC()},
		Gid:  g.Key, URL: a.Address, BinData: a.Payload, BranchID: b.Name, Op: op, Status: st,
	}
	if st != prepared && !g.Finished.IsZero() {
		v.FinishTime, v.UpdateTime = g.Finished.UTC(), g.Finished.UTC()
	}
	return v
}

// owed tells how far the call is that an outcome asks for.
func (g *global) owed(b *core.Branch, o core.Outcome) status {
	if g.Outcome != o {
		return prepared
	}
	for i := range g.Settlements {
		if s := &g.Settlements[i]; s.Branch == b.ID {
			if s.Done && !s.Abandoned {
				return succeed
			}
			return prepared
		}
	}
	// Nothing was to be called. DTM takes what has no URL for done, if its turn came.
	if a := b.Plan.Commit.Kind; o == core.Committed && a == core.TargetNone {
		return succeed
	}
	if a := b.Plan.Rollback.Kind; o == core.RolledBack && a == core.TargetNone && b.Vote != core.VoteNone {
		return succeed
	}
	return prepared
}

// step is the result of a step of a workflow.
func (g *global) step(b *core.Branch) branchView {
	id, op := b.Name, ""
	if i := strings.LastIndexByte(b.Name, '-'); i >= 0 {
		id, op = b.Name[:i], b.Name[i+1:]
	}
	v := g.row(b, op, &core.Action{}, succeed)
	v.BranchID, v.FinishTime = id, v.CreateTime
	if len(b.Result) > 0 {
		v.BinData = b.Result[1:]
		if b.Result[0] == stepFailed {
			v.Status = failed
		}
	}
	return v
}
