package core_test

import (
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// beginAs begins a transaction that has a name of its caller's.
func (s *shell) beginAs(key, note string) (xid.ID, core.Reply) {
	s.t.Helper()
	s.counter++
	id := xid.New(xid.Parts{Begin: s.now, Incarnation: s.cfg.Incarnation, Store: testStore, Counter: s.counter})
	return id, s.reply(core.Begin{Ref: "begin", XID: id, Deadline: s.now.Add(time.Hour), Key: key, Note: []byte(note)})
}

func TestKeyAndNoteAreKeptToTheEnd(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	id, r := s.beginAs("order-7", "note")
	wants := func(when string, tx core.Transaction) {
		t.Helper()
		if tx.Key != "order-7" || string(tx.Note) != "note" {
			t.Errorf("%s: key %q and note %q", when, tx.Key, tx.Note)
		}
	}
	wants("begun", r.Tx)
	c := wantCalls(t, s.submit(id, step(1)), "1f ")
	if c[0].Key != "order-7" {
		t.Errorf("whoever is called hears of key %q", c[0].Key)
	}
	s.eachCrash(1, func(n int, c *shell, out []core.Body) {
		wants("after a crash", c.reply(core.Get{Ref: "get", XID: id}).Tx)
		for _, again := range calls(out) {
			if again.Key != "order-7" {
				t.Errorf("after %d records the call has key %q", n, again.Key)
			}
		}
	})
	s.do(answer(c[0], core.Done, ""))
	tx, ok := s.archived(id)
	if !ok {
		t.Fatal("not finished")
	}
	wants("in the archive", tx)
	wants("told from the archive", s.reply(core.Get{Ref: "get", XID: id}).Tx)
}

// The log takes UTF-8 only, and mends everything else: it would be found by another key.
func TestAKeyIsText(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	_, r := s.beginAs("a\xff", "")
	wantKind(t, r, core.ErrWrongState)
	if len(s.log) != 0 || s.m.Open() != 0 {
		t.Errorf("%d records, %d open", len(s.log), s.m.Open())
	}
}

func TestKeyAndNoteTakeRoomUntilTheEnd(t *testing.T) {
	t.Parallel()
	const limit = 80_000
	s := newShell(t, core.Config{MaxHeld: limit})
	long := strings.Repeat("n", limit/2)
	id, r := s.beginAs("key", long)
	if r.Err != nil || s.m.Held() != int64(len("key")+len(long)) {
		t.Fatalf("%v, %d bytes", r.Err, s.m.Held())
	}
	s.wantHeld(t, "begun")
	records := len(s.log)
	for name, words := range map[string][2]string{"note": {"", long}, "key": {long, ""}} {
		_, r := s.beginAs(words[0], words[1])
		wantKind(t, r, core.ErrLimit)
		if len(s.log) != records || s.m.Open() != 1 {
			t.Errorf("%s: refused, with %d new records and %d open", name, len(s.log)-records, s.m.Open())
		}
		s.wantHeld(t, "refused")
	}
	s.begin() // without words there is always room
	s.eachCrash(1, func(_ int, c *shell, _ []core.Body) { c.wantHeld(t, "restarted") })
	s.do(core.Rollback{Ref: "tm", XID: id})
	if s.m.Held() != 0 {
		t.Errorf("%d bytes are left", s.m.Held())
	}
	if _, r := s.beginAs("key", long); r.Err != nil {
		t.Errorf("with room again: %v", r.Err)
	}
	if w := core.Weight(core.Begin{Key: "abc", Note: []byte("de")}); w != 5 {
		t.Errorf("it asks for %d bytes", w)
	}
}

// A name alone does not make a transaction one that holds something and has to get
// further: the last of the room is not for it.
func TestANameGivesNoRightToTheLastRoom(t *testing.T) {
	t.Parallel()
	const limit = 800_000
	s := newShell(t, core.Config{MaxHeld: limit})
	old, _ := s.beginAs("old", "")
	if r := replies(s.submit(old, heavy(1, limit*3/4))); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	fresh, r := s.beginAs("fresh", "")
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	b := heavy(2, limit/5)
	b.Ref, b.XID = 1, fresh
	wantKind(t, s.reply(b), core.ErrLimit)
}
