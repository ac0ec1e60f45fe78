package containers

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tests/containers/api"
)

// The scenarios share one cluster and run one after the other; each uses the
// state that the one before left, and checks that it is whole.
func TestContainers(t *testing.T) {
	t.Parallel()
	requireEngine(t)
	c := newCluster(t)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"commit changes all three databases", commits},
		{"rollback leaves no trace in any of them", rollsBack},
		{"a plain session cannot overwrite an undecided row", plainSession},
		{"a coordinator killed after its decision keeps it", coordinatorKilledAfterDecision},
		{"a coordinator killed before its decision aborts nobody", coordinatorKilledBeforeDecision},
		{"a service killed after its local commit is rolled back", serviceKilled},
		{"the coordinator drains on SIGTERM", drains},
	} {
		if !t.Run(s.name, func(t *testing.T) { s.run(t, c) }) {
			t.Fatal("the scenarios after it would start from a broken state")
		}
	}
}

func commits(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "a")
	ended, err := c.place(t.Context(), c.order("a", nil))
	if err != nil || ended.Outcome != api.Committed {
		t.Fatalf("%+v, %v", ended, err)
	}
	c.await(t, ended.XID, "finished", finished)
	c.settled(t, "a", [3]int{before[0] - 1, before[1] - 1, before[2] - 1})
}

func rollsBack(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "a")
	ended, err := c.place(t.Context(), c.order("a", func(o *api.Order) { o.Calls[1].Change.Refuse = true }))
	if err != nil || ended.Outcome != api.RolledBack || !strings.Contains(ended.Error, "told to refuse") {
		t.Fatalf("%+v, %v", ended, err)
	}
	c.await(t, ended.XID, "finished", finished)
	c.settled(t, "a", before)
}

func plainSession(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "a")
	id, finish := c.held(t, c.order("a", func(o *api.Order) { o.Fail = true }))
	_, err := c.databases["stock"].connect(t).Exec(t.Context(), "update counter set n = 0 where id = 'a'")
	if err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("an undecided row was overwritten, or the error does not name its holder %s: %v", id, err)
	}
	if ended := finish(); ended.Outcome != api.RolledBack {
		t.Fatalf("%+v", ended)
	}
	c.await(t, id, "finished", finished)
	c.settled(t, "a", before)
	c.databases["stock"].exec(t, "update counter set n = n where id = 'a'")
}

// The participants are paused when the decision is made, so that it cannot be
// delivered; then the coordinator dies. Only its volume knows the decision.
func coordinatorKilledAfterDecision(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "b")
	id, finish := c.held(t, c.order("b", nil))
	c.await(t, id, "voted", allVoted)
	for _, name := range names[1:] {
		c.services[name].pause(t)
	}
	ended := finish()
	c.coordinator.kill(t)
	_, err := c.databases["stock"].connect(t).Exec(t.Context(), "update counter set n = 0 where id = 'b'")
	if err == nil || !strings.Contains(err.Error(), id) {
		t.Errorf("the row was not held by %s any more when the coordinator died: %v", id, err)
	}
	c.replaceCoordinator(t)
	for _, name := range names[1:] {
		c.services[name].resume(t)
	}
	if ended.Outcome != api.Committed {
		t.Fatalf("%+v", ended)
	}
	c.await(t, id, "finished", finished)
	c.settled(t, "b", [3]int{before[0] - 1, before[1] - 1, before[2] - 1})
}

func coordinatorKilledBeforeDecision(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "b")
	id, finish := c.held(t, c.order("b", nil))
	c.coordinator.kill(t)
	c.replaceCoordinator(t)
	if ended := finish(); ended.Outcome != api.Committed || ended.XID != id {
		t.Fatalf("%+v", ended)
	}
	c.await(t, id, "finished", finished)
	c.settled(t, "b", [3]int{before[0] - 1, before[1] - 1, before[2] - 1})
}

func serviceKilled(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	before := c.counters(t, "b")
	id, finish := c.held(t, c.order("b", func(o *api.Order) { o.Fail = true }))
	c.services["stock"].kill(t)
	if ended := finish(); ended.Outcome != api.RolledBack {
		t.Fatalf("%+v", ended)
	}
	// Nobody can put the row back; it stays as it is, and stays protected.
	if got := c.counters(t, "b"); got[1] != before[1]-1 {
		t.Errorf("counters are %v before the service is back", got)
	}
	c.services["stock"].start(t)
	c.await(t, id, "finished", finished)
	c.settled(t, "b", before)
}

func drains(t *testing.T, c *cluster) { //nolint:thelper // a subtest
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop := 20 * time.Second
	if err := c.coordinator.Stop(ctx, &stop); err != nil {
		t.Fatal(err)
	}
	st, err := c.coordinator.State(ctx)
	if err != nil || st.ExitCode != 0 {
		t.Errorf("exit code %d after SIGTERM, %v", st.ExitCode, err)
	}
}
