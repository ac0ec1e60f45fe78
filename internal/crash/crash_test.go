package crash

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handfast/handfast/internal/child"
	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/engine"
	"github.com/handfast/handfast/undolog"
)

// patience bounds one run.
const patience = 30 * time.Second

// scene is one scenario over and over, with one who dies.
type scene struct {
	*testing.T
	part
	victim string
	lis    []*os.File // the victim's addresses
	proc   *child.Process
	db     [2]*pgx.Conn
	admin  pb.AdminClient
	late   bool // the machine was too slow, just now
}

// mostDelays bounds how often a scene may be too slow for its deadline.
const mostDelays = 5

func newScene(t *testing.T, victim, name string, refuse bool) *scene {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process can't inherit a listener here")
	}
	s := &scene{T: t, victim: victim, part: part{Scenario: name, Refuse: refuse, StoreDir: t.TempDir(), Timeout: 3000}}
	for i := range s.DSN {
		s.DSN[i] = cluster.DSN(t)
		s.db[i] = s.prepare(s.DSN[i])
	}
	coordinator, forDTM, participant := s.listen(), s.listen(), s.listen()
	s.Coordinator = coordinator.Addr().String()
	s.DTM = "http://" + forDTM.Addr().String() + "/api/dtmsvr/"
	s.Participant = "http://" + participant.Addr().String()
	cc, err := grpc.NewClient("passthrough:///"+s.Coordinator, grpc.WithTransportCredentials(insecure.NewCredentials()),
		// It dies again and again; by default the pauses grow to two minutes.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}, MinConnectTimeout: time.Second}))
	s.check(err)
	t.Cleanup(func() { _ = cc.Close() })
	s.admin = pb.NewAdminClient(cc)
	// The participant stops first, and may say goodbye.
	s.run("coordinator", s.coordinate, coordinator, forDTM)
	s.run("participant", s.takePart, participant)
	return s
}

func (s *scene) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scene) prepare(dsn string) *pgx.Conn {
	s.Helper()
	ctx := s.Context()
	conn, err := pgx.Connect(ctx, dsn)
	s.check(err)
	s.Cleanup(func() { _ = conn.Close(context.Background()) })
	s.check(undolog.Install(ctx, conn))
	_, err = conn.Exec(ctx, schema)
	s.check(err)
	_, err = undolog.Protect(ctx, conn, "at")
	s.check(err)
	return conn
}

func (s *scene) listen() *net.TCPListener {
	s.Helper()
	lis, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	s.check(err)
	return lis
}

// run starts a part: as a process if it is the one who dies, here otherwise.
func (s *scene) run(role string, here func(context.Context, []net.Listener) error, addresses ...*net.TCPListener) {
	s.Helper()
	if role == s.victim {
		for _, lis := range addresses {
			file, err := lis.File()
			s.check(errors.Join(err, lis.Close()))
			s.lis = append(s.lis, file)
			s.Cleanup(func() { _ = file.Close() })
		}
		s.start(func(*part) {})
		s.Cleanup(func() { s.proc.Kill() })
		return
	}
	var lis []net.Listener
	for _, l := range addresses {
		lis = append(lis, l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- here(ctx, lis) }()
	s.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Errorf("%s: %v", role, err)
		}
	})
}

func (s *scene) start(change func(*part)) {
	s.Helper()
	p := s.part
	p.Role = s.victim
	change(&p)
	var err error
	s.proc, err = p.start(s.lis, nil)
	s.check(err)
}

// once runs the scenario with somebody who dies at a point, and tells whether the
// transaction came so far.
func (s *scene) once(point string, n int64) (died bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for _, conn := range s.db {
		_, err := conn.Exec(ctx, "UPDATE at SET v = 0; UPDATE xa SET v = 0; TRUNCATE effect, sent")
		s.check(err)
	}
	begun := time.Now()
	s.Gid = rand.Text()
	var told string
	if s.victim == "caller" {
		told, died = s.callElsewhere(ctx, n)
	} else {
		if s.victim == "coordinator" {
			s.proc.Kill()
			s.start(func(p *part) { p.Crash = fmt.Sprintf("%s:%d", point, n) })
		} else {
			// It may die before it can answer: what goes on in its background counts, too.
			_, _ = s.ask(ctx, fmt.Sprintf("/arm/%d", n))
		}
		called := make(chan error, 1)
		go func() { called <- s.call(ctx, func(text string) { told = text }) }()
		select {
		case <-s.proc.Done(): // while it is called, or soon after
			s.start(func(*part) {})
			s.check(<-called)
			died = true
		case err := <-called:
			s.check(err)
		}
	}
	left, diedLate := s.end(ctx, begun)
	died = died || diedLate
	if s.judge(left, told, died); s.late {
		s.late = false
		return s.once(point, n)
	}
	s.count(died)
	return died
}

// callElsewhere has the caller be a process, which nobody starts again.
func (s *scene) callElsewhere(ctx context.Context, n int64) (told string, died bool) {
	s.Helper()
	p := s.part
	p.Role, p.At, p.Timeout = "caller", n, 700
	var out bytes.Buffer
	proc, err := p.start(nil, &out)
	s.check(err)
	select {
	case <-proc.Done():
	case <-ctx.Done():
		proc.Kill()
		s.Fatal("the caller does not come to an end")
	}
	return strings.TrimSpace(out.String()), proc.Err() != nil
}

// ask says something to the participant.
func (s *scene) ask(ctx context.Context, path string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Participant+path, http.NoBody)
	if err != nil {
		return "", err
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// quiet waits until nothing is under way any more, and starts anew who dies on the
// way there.
func (s *scene) quiet(ctx context.Context) (died bool) {
	s.Helper()
	open := &pb.ListRequest{Phases: []pb.Phase{pb.Phase_PHASE_ACTIVE, pb.Phase_PHASE_COLLECTING, pb.Phase_PHASE_SETTLING}}
	var last []*pb.Transaction
	for {
		if s.proc != nil {
			select {
			case <-s.proc.Done():
				died = true
				s.start(func(*part) {})
			default:
			}
		}
		r, err := s.look(ctx, open)
		if ctx.Err() != nil {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			r, err := s.admin.List(ctx, &pb.ListRequest{PageSize: 3})
			s.Fatalf("it does not come to an end: %v, %v", err, r.GetTransactions())
		}
		last = slices.DeleteFunc(r.GetTransactions(), s.orphan)
		if err != nil || len(last) > 0 {
			time.Sleep(10 * time.Millisecond) // there is no signal for "all is over"
			continue
		}
		if s.idle(ctx) {
			return died
		}
	}
}

// alive gives a context that also ends with the one who dies: whoever asks a dead
// process waits for the next one, which nobody has started yet.
func (s *scene) alive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if s.proc != nil {
		proc := s.proc
		go func() { // ends with ctx
			select {
			case <-proc.Done():
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

// look asks again where nobody answers: to have gRPC wait for a connection can be
// for ever, if that is lost at the wrong moment.
func (s *scene) look(ctx context.Context, r *pb.ListRequest) (*pb.ListResponse, error) {
	ctx, cancel := s.alive(ctx)
	defer cancel()
	return s.admin.List(ctx, r)
}

// idle tells whether the participant has nothing to do. From here on it lives.
func (s *scene) idle(ctx context.Context) bool {
	ctx, cancel := s.alive(ctx)
	defer cancel()
	if s.victim == "participant" {
		if _, err := s.ask(ctx, "/arm/0"); err != nil {
			return false
		}
	}
	busy, err := s.ask(ctx, "/busy")
	return err == nil && busy == "0"
}

// state is what is there, and what should not be.
func (s *scene) state(ctx context.Context) (lines []string, left int) {
	s.Helper()
	for i, conn := range s.db {
		rows, err := conn.Query(ctx, `SELECT $1::text || ' at ' || v FROM at WHERE v <> 0 UNION ALL SELECT $1::text || ' xa ' || v FROM xa WHERE v <> 0
			UNION ALL SELECT name || ' ' || action FROM effect UNION ALL SELECT 'sent' FROM sent WHERE really`, string(rune('a'+i)))
		s.check(err)
		some, err := pgx.CollectRows(rows, pgx.RowTo[string])
		s.check(err)
		lines = append(lines, some...)
		var n int
		s.check(conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM handfast.undo) + (SELECT count(*) FROM handfast.gate)
			+ (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database())`).Scan(&n))
		left += n
	}
	slices.Sort(lines)
	return lines, left
}

// undone tells whether whatever was done was undone, once.
func undone(lines []string) bool {
	count := map[string]int{}
	for _, line := range lines {
		name, action, _ := strings.Cut(line, " ")
		switch action {
		case "forward":
			count[name]++
		case "rollback":
			count[name] += 100
		default:
			return false
		}
	}
	for _, n := range count {
		if n != 101 {
			return false
		}
	}
	return true
}

// remains is what there is when all is over.
type remains struct {
	lines []string
	rows  int // of undo and gates, and prepared transactions
	// On the coordinator's record.
	outcome string
	text    string
	n       int
	open    bool
	query   string // what DTM's clients are told
}

// end waits until all is over, and gives what remains. A request of somebody who is dead
// already may be on its way then: it is the end once nothing happens while it is looked at.
func (s *scene) end(ctx context.Context, begun time.Time) (r remains, died bool) {
	s.Helper()
	for {
		died = s.quiet(ctx) || died
		s.decided(ctx, begun, &r)
		r.lines, r.rows = s.state(ctx)
		if _, ok := dtmScenarios[s.Scenario]; ok {
			var err error
			r.query, err = newDTMClient(s.part, http.DefaultTransport).status(ctx)
			s.check(err)
		}
		before := r.text
		if s.decided(ctx, begun, &r); r.text == before && !r.open {
			return r, died
		}
	}
}

// decided reads what the coordinator has on record.
func (s *scene) decided(ctx context.Context, begun time.Time, to *remains) {
	s.Helper()
	r, err := s.admin.List(ctx, &pb.ListRequest{BegunAfter: timestamppb.New(begun.Add(-time.Millisecond))})
	s.check(err)
	to.outcome, to.open = rolledBack, false
	for _, tx := range r.GetTransactions() {
		if len(tx.GetBranches()) > 0 && tx.GetOutcome() == pb.Outcome_OUTCOME_COMMITTED {
			to.outcome = committed
		}
		to.open = to.open || tx.GetPhase() != pb.Phase_PHASE_FINISHED && !s.orphan(tx)
	}
	to.text, to.n = fmt.Sprint(r.GetTransactions()), len(r.GetTransactions())
}

// orphan: a message whose sender died before it was handed over is no branch of anything;
// it ends with its deadline.
func (s *scene) orphan(tx *pb.Transaction) bool {
	return s.Scenario == "publish" && len(tx.GetBranches()) == 0
}

func (s *scene) judge(r remains, told string, died bool) {
	s.Helper()
	got, outcome, text := r.lines, r.outcome, r.text
	_, overDTM := dtmScenarios[s.Scenario]
	scenario := scenarioOf(s.Scenario)
	want := slices.Sorted(slices.Values(scenario.committed))
	switch {
	case r.rows > 0:
		s.Errorf("%d rows or prepared transactions are left", r.rows)
	case outcome == committed && !slices.Equal(got, want), outcome == rolledBack && !undone(got):
		s.Errorf("it is %s, and there is %q", outcome, got)
	case told != "" && told != unknown && told != outcome:
		s.Errorf("it is %s, and the caller was told %s", outcome, told)
	case s.Refuse && outcome == committed:
		s.Error("it is committed although somebody refused")
	case !s.Refuse && !scenario.open && !died && outcome != committed && s.Delays < mostDelays && (scenario.asked || strings.Contains(text, pb.RollbackReason_ROLLBACK_REASON_TIMEOUT.String())):
		// The deadline is short for the sake of those whose caller dies, and so is the time
		// after which a sender is asked. A busy machine may be slower than that, and this is
		// no test of speed.
		s.Delays++
		s.late = true
		s.Logf("nobody died, and the deadline has passed: once more, with more time; %s", text)
	case !s.Refuse && !scenario.open && !died && outcome != committed:
		s.Error("it is rolled back although nobody refused or died")
	case overDTM && r.n > 1:
		s.Errorf("there are %d transactions for one gid", r.n)
	case overDTM && map[string]string{"succeed": committed, "failed": rolledBack, "": rolledBack}[r.query] != outcome:
		s.Errorf("it is %s, and DTM's clients are told %q", outcome, r.query)
	}
	if s.Failed() {
		s.Fatalf("somebody died: %t; %s", died, text)
	}
}

// Whoever dies, and wherever, the transaction ends as it was decided.
func TestWhoeverDiesTheTransactionEndsAsDecided(t *testing.T) {
	t.Parallel()
	for i, name := range slices.Sorted(maps.Keys(scenarios)) {
		for _, refuse := range []bool{false, true} {
			for j, victim := range victims {
				if *everything || (name == "mixed" || !refuse) && (name == "mixed" && !refuse || j == i%len(victims)) {
					tryEverywhere(t, victim, name, refuse)
				}
			}
		}
	}
}

// The same holds for the clients of DTM.
func TestWhoeverDiesATransactionOfDTMEndsAsDecided(t *testing.T) {
	t.Parallel()
	for i, name := range slices.Sorted(maps.Keys(dtmScenarios)) {
		s := dtmScenarios[name]
		for k, refuse := range []bool{false, true} {
			for j, victim := range victims {
				if refuse && s.open || !refuse && s.refused {
					continue
				}
				if *everything || j == (i+k)%len(victims) {
					tryEverywhere(t, victim, name, refuse)
				}
			}
		}
	}
}

var victims = []string{"coordinator", "participant", "caller"}

func tryEverywhere(t *testing.T, victim, name string, refuse bool) {
	t.Helper()
	title := name + "/" + victim
	if refuse {
		title += "/refused"
	}
	t.Run(title, func(t *testing.T) {
		t.Parallel()
		s := newScene(t, victim, name, refuse)
		points := []string{""}
		if victim == "coordinator" {
			points = []string{engine.BeforeWrite, engine.AfterWrite, engine.AfterForce}
			if _, ok := dtmScenarios[name]; ok { // with peeks at what is not durable
				points = append(points, beforeForce)
			}
		}
		for _, point := range points {
			s.everywhere(point)
		}
	})
}

// everywhere lets n grow until nobody dies. Not to be here all day, it jumps, and
// begins where the names of the scene say.
func (s *scene) everywhere(point string) {
	s.Helper()
	n, step, times := int64(1), int64(1), 0
	if !*everything {
		if step = 9; dtmScenarios[s.Scenario].call != nil {
			step = 5 // they are shorter
		}
		n += int64(len(s.Name())+len(point)) % step
	}
	defer func() {
		if s.Failed() {
			s.Logf("at %s %d", point, n)
		}
	}()
	for s.once(point, n) {
		n, times = n+step, times+1
		if n > 1000 {
			s.Fatal("there is no end to it")
		}
	}
	s.Logf("%s: %d times, until %d", point, times, n)
}
