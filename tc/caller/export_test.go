package caller

import "reflect"

// SetMaxDials is for calls that are made afterwards.
func (c *Caller) SetMaxDials(n int64) { c.http.maxDials = n }

// Remembered counts everything that is kept by host. known tells whether that of
// net/http could be counted: it is not ours.
func (c *Caller) Remembered() (n int, known bool) {
	c.http.mu.Lock()
	defer c.http.mu.Unlock()
	known = true
	for _, name := range []string{"idleConn", "idleConnWait", "connsPerHost", "connsPerHostWait"} {
		if f := reflect.ValueOf(c.http.current.Transport).Elem().FieldByName(name); f.IsValid() {
			n += f.Len()
		} else {
			known = false
		}
	}
	c.lines.mu.Lock()
	n += len(c.lines.hosts)
	c.lines.mu.Unlock()
	c.grpc.mu.Lock()
	n += len(c.grpc.conns)
	c.grpc.mu.Unlock()
	return n, known
}
