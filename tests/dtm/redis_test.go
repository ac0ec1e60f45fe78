package dtm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/dtm-labs/client/dtmcli"
	"github.com/dtm-labs/client/dtmcli/dtmimp"
	"github.com/go-redis/redis/v8"

	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tests/dtm/server"
)

// expiry is how many seconds the barriers live in Redis.
const expiry = 3600

// vault is a Redis with the accounts "out" and "in", with 100 each.
type vault struct {
	t *testing.T
	c *redis.Client
}

func newVault(t *testing.T) *vault {
	t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("HANDFAST_REQUIRE_REDIS") != "" {
			t.Fatal(err)
		}
		t.Skip("no redis-server on this machine (HANDFAST_REQUIRE_REDIS=1 makes that an error)")
	}
	addr := server.Address(t)
	cmd := exec.Command(bin, "--bind", "127.0.0.1", "--port", addr[strings.LastIndex(addr, ":")+1:], "--save", "", "--dir", t.TempDir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := child.Start(cmd, syscall.SIGKILL)
	check(t, err)
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of Redis:\n%s", out.String())
		}
	})
	v := &vault{t: t, c: redis.NewClient(&redis.Options{Addr: addr})}
	t.Cleanup(func() { _ = v.c.Close() })
	eventually(t, func() error { return v.c.Ping(t.Context()).Err() })
	check(t, v.c.MSet(t.Context(), "out", 100, "in", 100).Err())
	return v
}

func (v *vault) holds(out, in int) {
	v.t.Helper()
	got, err := v.c.MGet(v.t.Context(), "out", "in").Result()
	check(v.t, err)
	equal(v.t, "balances", fmt.Sprint(got), fmt.Sprintf("[%d %d]", out, in))
}

// guarded changes an account in a call, behind a barrier.
func (v *vault) guarded(c call, name string, n int) error {
	bb, err := barrier(c)
	if err != nil {
		return err
	}
	return bb.RedisCheckAdjustAmount(v.c, name, n, expiry)
}

func (v *vault) moves(w *world, n int) {
	w.on("out action", func(c call) error { return v.guarded(c, "out", -n) })
	w.on("out compensate", func(c call) error { return v.guarded(c, "out", n) })
	w.on("in action", func(c call) error { return v.guarded(c, "in", n) })
	w.on("in compensate", func(c call) error { return v.guarded(c, "in", -n) })
}

func TestRedisBarrierMovesMoneyOnce(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, v := w.t, newVault(w.t)
		v.moves(w, 30)
		lost := answer(errDown) // the change is made, its answer lost
		w.on("out action", func(c call) error { return errors.Join(v.guarded(c, "out", -30), lost(c)) })
		gid := w.gid(p)
		check(t, w.saga(p, gid, func(s *dtmcli.Saga) { s.RetryInterval = 1 }, "out", "in"))
		w.reaches(gid, "succeed")
		v.holds(70, 130)
	})
}

func TestRedisBarrierGivesMoneyBack(t *testing.T) {
	t.Parallel()
	each(t, func(w *world, p protocol) {
		t, v := w.t, newVault(w.t)
		v.moves(w, 30)
		w.on("in action", always(dtmcli.ErrFailure)) // its compensation finds that nothing was done
		gid := w.gid(p)
		check(t, w.saga(p, gid, nil, "out", "in"))
		w.reaches(gid, "failed")
		v.holds(100, 100)
	})
}

func TestRedisMessageFollowsItsSender(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		amount  int
		crash   bool // after the change
		status  string
		out, in int
	}{
		"success":                  {30, false, "succeed", 70, 130},
		"refused":                  {300, false, "failed", 100, 100},
		"crashes after its change": {30, true, "succeed", 70, 130},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(w *world, p protocol) {
				v := newVault(w.t)
				v.moves(w, c.amount)
				w.on("sent msg", func(c call) error {
					bb, err := barrier(c)
					if err != nil {
						return err
					}
					return bb.RedisQueryPrepared(v.c, expiry)
				})
				gid := w.gid(p)
				m := w.msg(p, gid, func(m *dtmcli.Msg) { m.TimeoutToFail, m.RetryInterval = inTime, 1 }, "in")
				_ = dtmimp.CatchP(func() {
					_ = m.DoAndSubmit(w.sent(p), func(bb *dtmcli.BranchBarrier) error {
						err := bb.RedisCheckAdjustAmount(v.c, "out", -c.amount, expiry)
						if c.crash {
							panic(err)
						}
						return err
					})
				})
				w.reaches(gid, c.status)
				v.holds(c.out, c.in)
			})
		})
	}
}
