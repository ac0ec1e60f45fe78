package dtm

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// count is how often an endpoint has answered.
type count struct{ ok, failed atomic.Uint64 }

func (c *count) add(ok bool) {
	if ok {
		c.ok.Add(1)
	} else {
		c.failed.Add(1)
	}
}

// counts are those of all endpoints, by protocol and name: as many as there are.
type counts struct {
	mu  sync.Mutex
	all map[[2]string]*count
}

func (c *counts) of(protocol, name string) *count {
	name = strings.TrimSuffix(name, "/{name}")
	name = name[strings.LastIndexByte(name, '/')+1:]
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]string{protocol, name}
	if c.all[key] == nil {
		if c.all == nil {
			c.all = make(map[[2]string]*count)
		}
		c.all[key] = &count{}
	}
	return c.all[key]
}

// metrics are in the text form of Prometheus, under the names that DTM has for them.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	var b strings.Builder
	b.WriteString("# HELP dtm_server_process_total Requests over DTM's API.\n# TYPE dtm_server_process_total counter\n")
	s.counts.mu.Lock()
	for _, key := range slices.SortedFunc(maps.Keys(s.counts.all), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }) {
		c := s.counts.all[key]
		for status, n := range map[string]uint64{"ok": c.ok.Load(), "fail": c.failed.Load()} {
			fmt.Fprintf(&b, "dtm_server_process_total{type=%q,api=%q,status=%q} %d\n", key[0], strings.ToLower(key[1]), status, n)
		}
	}
	s.counts.mu.Unlock()
	fmt.Fprintf(&b, "# HELP handfast_open_transactions Transactions that are not finished, over every API.\n"+
		"# TYPE handfast_open_transactions gauge\nhandfast_open_transactions %d\n", s.svc.eng.Open())
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(b.String())) // whoever asked may have gone
}
