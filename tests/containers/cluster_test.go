package containers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tests/containers/api"
	"github.com/handfast/handfast/undolog"
)

var names = []string{"order", "stock", "account"}

// cluster is a coordinator, three services and three databases.
type cluster struct {
	e           *engine
	image       string // of the coordinator
	volume      string
	coordinator *node
	services    map[string]*node
	databases   map[string]*database
}

// newCluster starts everything and prepares the databases with the commands
// that an operator would use.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	e := newEngine(t)
	c := &cluster{e: e, services: map[string]*node{}, databases: map[string]*database{}}
	c.image = e.image(t, "../..", "./cmd/handfast", "handfast", "../../Dockerfile")
	service := e.image(t, ".", "./service", "service", "service/Dockerfile")
	c.volume = e.volume(t, "store")
	c.startCoordinator(t)

	for _, name := range names {
		c.databases[name] = e.postgres(t, name)
	}
	for _, name := range names {
		db := c.databases[name]
		db.exec(t, "create table counter (id text primary key, n int not null); insert into counter values ('a', 100), ('b', 100)")
		e.finish(t, c.image, "pg", "install", "--dsn", db.inside)
		e.finish(t, c.image, "pg", "protect", "--dsn", db.inside, "public.counter")
		c.services[name] = e.run(t, name, service,
			testcontainers.WithEnv(map[string]string{"NAME": name, "COORDINATOR": "coordinator:4263", "DATABASE_URL": db.inside}),
			testcontainers.WithExposedPorts("8080/tcp"),
			testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForLog("service is ready")))
	}
	return c
}

// startCoordinator makes a new container on the volume, under the old name.
func (c *cluster) startCoordinator(t *testing.T) {
	t.Helper()
	c.coordinator = c.e.run(t, "coordinator", c.image,
		testcontainers.WithExposedPorts("4263/tcp"),
		testcontainers.WithMounts(testcontainers.VolumeMount(c.volume, "/data")),
		testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForLog("msg=serving")))
}

// replaceCoordinator removes the container of a dead coordinator and starts a
// new one: only the volume is left of the old one.
func (c *cluster) replaceCoordinator(t *testing.T) {
	t.Helper()
	c.coordinator.remove(t)
	c.startCoordinator(t)
}

// admin connects to the coordinator that runs now; its port changes with each start.
func (c *cluster) admin(t *testing.T) handfastv1.AdminClient {
	t.Helper()
	endpoint, err := c.coordinator.PortEndpoint(t.Context(), "4263/tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return handfastv1.NewAdminClient(conn)
}

// await polls the coordinator, a process of its own, until the transaction is as wanted.
func (c *cluster) await(t *testing.T, id, what string, ok func(*handfastv1.Transaction) bool) {
	t.Helper()
	admin := c.admin(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		resp, err := admin.Show(ctx, &handfastv1.GetRequest{Xid: id})
		if err == nil && ok(resp.GetTransaction()) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("transaction %s: not %s after a minute: %v %v", id, what, resp.GetTransaction(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func allVoted(tx *handfastv1.Transaction) bool {
	for _, b := range tx.GetBranches() {
		if b.GetVote() != handfastv1.Vote_VOTE_YES {
			return false
		}
	}
	return len(tx.GetBranches()) == len(names)
}

func finished(tx *handfastv1.Transaction) bool {
	return tx.GetPhase() == handfastv1.Phase_PHASE_FINISHED
}

// order places an order at the order service: 1 is taken from counter id in
// all three databases.
func (c *cluster) order(id string, change func(*api.Order)) api.Order {
	o := api.Order{Name: "test/" + id, Own: api.Change{ID: id, Delta: -1}}
	for _, name := range names[1:] {
		o.Calls = append(o.Calls, api.Call{URL: "http://" + name + ":8080", Change: api.Change{ID: id, Delta: -1}})
	}
	if change != nil {
		change(&o)
	}
	return o
}

// place sends the order and gives how it ended.
func (c *cluster) place(ctx context.Context, o api.Order) (api.Ended, error) {
	var ended api.Ended
	body, err := json.Marshal(o)
	if err != nil {
		return ended, err
	}
	answer, err := c.request(ctx, http.MethodPost, "/order", body)
	if err == nil {
		err = json.Unmarshal(answer, &ended)
	}
	return ended, err
}

// held places an order that stops before its end, and gives its XID and a
// function that lets it go on and tells how it ended.
func (c *cluster) held(t *testing.T, o api.Order) (id string, finish func() api.Ended) {
	t.Helper()
	o.Hold = true
	type result struct {
		ended api.Ended
		err   error
	}
	results := make(chan result, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		ended, err := c.place(t.Context(), o)
		results <- result{ended, err}
	})
	t.Cleanup(wg.Wait)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := c.request(ctx, http.MethodGet, "/held", nil)
	if err != nil {
		t.Fatalf("the order did not come to its end: %v", err)
	}
	return string(answer), func() api.Ended {
		t.Helper()
		if _, err := c.request(t.Context(), http.MethodPost, "/release", nil); err != nil {
			t.Fatal(err)
		}
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		return r.ended
	}
}

// request calls the order service.
func (c *cluster) request(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	endpoint, err := c.services["order"].PortEndpoint(ctx, "8080/tcp", "http")
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, endpoint+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, err
}

// counters reads counter id in all databases, in the order of names.
func (c *cluster) counters(t *testing.T, id string) [3]int {
	t.Helper()
	var got [3]int
	for i, name := range names {
		conn := c.databases[name].connect(t)
		if err := conn.QueryRow(t.Context(), "select n from counter where id = $1", id).Scan(&got[i]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return got
}

// settled checks that the counter is what it should be everywhere, and that
// no undo row of any transaction is left.
func (c *cluster) settled(t *testing.T, id string, want [3]int) {
	t.Helper()
	if got := c.counters(t, id); got != want {
		t.Errorf("counters %s are %v, want %v", id, got, want)
	}
	for _, name := range names {
		pending, err := undolog.Pending(t.Context(), c.databases[name].connect(t), 0)
		if err != nil || len(pending) != 0 {
			t.Errorf("%s: left over: %v, %v", name, pending, err)
		}
	}
}
