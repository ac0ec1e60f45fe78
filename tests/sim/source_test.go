package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

var sourceFlag = flag.Bool("sim.source", false, "plant faults in the source of the coordinator, too: it is built anew for each, which takes minutes")

// mutant is a fault in the source of real code. No switch for it exists there: the test
// builds the simulation with another text in place of the file (go build -overlay).
type mutant struct {
	name, text string
	edits      []edit
}

type edit struct{ file, old, new string }

// mutants are faults of the real core, of its store's encoding, and of what says who
// waits for whom.
var mutants = []mutant{
	{"core-commit-without-votes", "commit does not wait for votes", []edit{
		{"tc/core/phase1.go", "case tx.t.allIn():\n\t\t\tm.decide(", "case true:\n\t\t\tm.decide("},
		{"tc/core/fold.go", "r.Outcome == Committed && !tx.allIn()", "false"},
	}},
	{"core-registration-unforced", "a registration is acknowledged before it is durable", []edit{
		{"tc/core/phase1.go", "a fence row in a database implies a registration that survives.\n\tm.send(tx.lsn,", "a fence row\n\tm.send(0,"},
	}},
	{"core-decision-unforced", "a decision is told before it is durable", []edit{
		{"tc/core/wait.go", "m.send(tx.lsn, Reply{\n\t\tRef: w.ref", "m.send(0, Reply{\n\t\tRef: w.ref"},
	}},
	{"core-settle-unforced", "settling begins before the decision is durable", []edit{
		{"tc/core/phase2.go", "m.send(l.tx.lsn, Settle{", "m.send(0, Settle{"},
	}},
	{"core-call-unforced", "calls are made before what they rest on is durable", []edit{
		{"tc/core/call.go", "m.send(l.tx.lsn, c)", "m.send(0, c)"},
	}},
	{"core-waiter-unforced", "a waiter hears of its rollback before that is durable", []edit{
		{"tc/core/phase1.go", "m.send(tx.lsn, WaiterDone{", "m.send(0, WaiterDone{"},
	}},
	{"core-vote-unforced", "a vote that nobody can be asked for is acknowledged before it is durable", []edit{
		{"tc/core/phase1.go", "if tx.t.Outcome == Undecided && !onlyTold(b) && vote.NotBefore.IsZero() {", "{"},
	}},
	{"core-get-unforced", "a question is answered with what a crash may take", []edit{
		{"tc/core/wait.go", "m.send(tx.lsn, Reply{Ref: in.Ref, Tx: m.snapshot(tx)})", "m.send(0, Reply{Ref: in.Ref, Tx: m.snapshot(tx)})"},
	}},
	{"core-no-vote-ignored", "a vote no does not decide", []edit{
		{"tc/core/phase1.go", "if vote.Vote == VoteNo {\n\t\tm.decideNo(tx, b)\n\t\treturn\n\t}", ""},
		{"tc/core/fold.go", "if v := t.Branches[i].Vote; v != VoteYes && v != VoteWithdrawn {", "if v := t.Branches[i].Vote; v == VoteNone {"},
	}},
	{"core-refusal-is-proof", "what was refused is not compensated", []edit{
		{"tc/core/plan.go", "case op == OpCommit, b.Vote != VoteNone,", "case op == OpCommit, b.Vote == VoteYes,"},
		{"tc/core/plan.go", "return t.Submitted && t.callable(b)", "return b.Vote == VoteNone && t.Submitted && t.callable(b)"},
	}},
	{"core-withdrawn-is-proof", "what withdrew is not undone where the rest is committed", []edit{
		{"tc/core/plan.go", "case b.action(op).Kind == TargetNone:", "case b.action(op).Kind == TargetNone, o == Committed && op == OpRollback:"},
	}},
	{"core-steps-at-once", "steps do not wait for those that they come after", []edit{
		{"tc/core/plan.go", "if a := t.branch(id); a == nil || (a.Vote != VoteYes && a.Vote != VoteWithdrawn) {", "if t.branch(id) == nil {"},
	}},
	{"core-undo-order", "compensations are called in any order", []edit{
		{"tc/core/plan.go", "return a.op() == OpRollback || a.plan.LastFirst", "return a.plan.LastFirst"},
	}},
	{"core-calls-before-settling", "calls do not wait for databases", []edit{
		{"tc/core/plan.go", "case a.plan == nil:\n\t\treturn true", "case a.plan == nil:\n\t\treturn false"},
	}},
	{"core-compensation-early", "a compensation does not wait for the end of its action", []edit{
		{"tc/core/phase2.go", "o.behind++ // what undoes it has to come after it", "_ = o"},
		{"tc/core/call.go", "if o.state == legBlocked {\n\t\t\to.behind--", "if false {\n\t\t\to.behind--"},
	}},
	{"core-nothing-owed", "what has no vote is not compensated", []edit{
		{"tc/core/plan.go", "return t.Submitted && t.callable(b)", "return false"},
	}},
	{"core-settled-at-once", "a database counts as settled when the decision is made", []edit{
		{"tc/core/fold.go", "if b.Vote != VoteWithdrawn {\n\t\t\ts.Done = false", "if false {\n\t\t\ts.Done = false"},
	}},
	{"core-half-settled", "only the first branch of a database is settled", []edit{
		{"tc/core/phase2.go", "branches = append(branches, *b)\n", "return append(branches, *b)\n"},
	}},
	{"core-no-second-attempt", "an attempt that failed is not made again", []edit{
		{"tc/core/phase2.go", "l.progress().Next = m.now.Add(d)", "l.progress().Next = m.now.Add(d * 1e6)"},
	}},
	{"core-submission-forgotten", "a restart does not go on with what was submitted", []edit{
		{"tc/core/machine.go", "if t.Phase == Collecting && !t.Submitted {", "if t.Phase == Collecting {"},
	}},
	{"core-late-registration", "a branch of a decided transaction is acknowledged", []edit{
		{"tc/core/phase1.go", "m.refuse(in.Ref, tx.lsn, decidedError(tx))\n\t\treturn\n\t}\n\tnews, e := m.admit", "m.send(tx.lsn, Reply{Ref: in.Ref})\n\t\treturn\n\t}\n\tnews, e := m.admit"},
	}},
	{"core-failed-is-done", "an attempt to settle that failed counts", []edit{
		{"tc/core/phase2.go", "case in.Done:\n\t\tm.done(l, Record{Kind: RecordDone, Resource: in.Resource})\n\tdefault:", "default:\n\t\tm.done(l, Record{Kind: RecordDone, Resource: in.Resource})\n\tcase false:"},
	}},
	{"core-no-deadline", "transactions have no deadline", []edit{
		{"tc/core/phase1.go", "Deadline: in.Deadline.Truncate(time.Millisecond), Key: in.Key", "Key: in.Key"},
	}},
	{"core-registration-not-repeatable", "a registration that is sent again is refused", []edit{
		{"tc/core/phase1.go", "if in.Fresh {\n\t\t\treturn fail(ErrBranchConflict, \"%s of %s is registered already\"", "if true {\n\t\t\treturn fail(ErrBranchConflict, \"%s of %s is registered already\""},
	}},
	{"core-never-asks", "missing votes are not asked for", []edit{
		{"tc/core/phase1.go", "m.send(tx.lsn, AskVote{", "_ = (AskVote{"},
	}},
	{"store-forgets-results", "the results of steps are not written", []edit{
		{"tc/store/codec.go", "e.blob(recordResult, r.Result)", "e.blob(recordResult, nil)"},
	}},
	{"store-forgets-submission-deadline", "a submission keeps the deadline of its transaction", []edit{
		{"tc/core/fold.go", "tx.Submitted, tx.Phase, tx.Deadline = true, Collecting, r.Deadline", "tx.Submitted, tx.Phase = true, Collecting"},
	}},
}

// mostMutantSeeds is how many seeds may be needed to find a mutant.
const mostMutantSeeds = 10_000

var atSeed = regexp.MustCompile(`(?m)seed (\d+): (.*)$`)

// TestFaultsInTheSourceAreFound changes real code, one place at a time.
func TestFaultsInTheSourceAreFound(t *testing.T) {
	t.Parallel()
	if !*sourceFlag {
		t.Skip("it builds the simulation anew for each fault; -sim.source")
	}
	begun, count := time.Now(), finds{}
	for _, m := range mutants {
		if *plantedFlag != "" && m.name != *plantedFlag {
			continue
		}
		seeds, err := searchMutant(t, m)
		n, _ := strconv.Atoi(seeds)
		count.add(n)
		switch {
		case err != nil:
			t.Errorf("%s: %v", m.name, err)
		case seeds == "":
			t.Errorf("%s: %s: not found in %d seeds", m.name, m.text, mostMutantSeeds)
		default:
			t.Logf("%-34s after %4s seeds", m.name, seeds)
		}
	}
	if *plantedFlag == "" {
		count.keep(t, begun, "sim-source", "go test ./tests/sim -run Source -sim.source -v")
	}
}

// searchMutant builds the simulation with a fault and plays seeds until it is found. It
// gives how many that took; empty: it was not.
func searchMutant(t *testing.T, m mutant) (found string, err error) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	dir := t.TempDir()
	replaced := map[string]string{}
	for i, e := range m.edits {
		name := filepath.Join(root, filepath.FromSlash(e.file))
		from := name
		if replaced[name] != "" {
			from = replaced[name]
		}
		text, err := os.ReadFile(from)
		if err != nil {
			return "", err
		}
		if strings.Count(string(text), e.old) != 1 {
			return "", fmt.Errorf("%s has %d places with %q; want one", e.file, strings.Count(string(text), e.old), e.old)
		}
		replaced[name] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		if err := os.WriteFile(replaced[name], []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sim.test")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "test", "-c", "-overlay", list, "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	out, err := exec.Command(binary, "-test.run", "^TestSimulation$", "-seeds", strconv.Itoa(mostMutantSeeds), "-sim.short").CombinedOutput()
	if err == nil {
		return "", nil
	}
	at := atSeed.FindStringSubmatch(string(out))
	if at == nil {
		return "", fmt.Errorf("run: %w\n%.2000s", err, out)
	}
	return at[1], nil
}
