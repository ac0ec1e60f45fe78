package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/xid"
)

// disk models a store of the coordinator, as tc/store/pebblestore is: batches in a log,
// a part of which is forced. A crash keeps the forced part and any part of the rest; a
// batch that was cut is gone as a whole. What is kept is encoded as the real store
// encodes it.
type disk struct {
	id          xid.StoreID
	incarnation uint32
	horizon     time.Time
	marked      bool   // it is a copy that was restored
	quarantine  uint32 // incarnations below are read-only

	log     []batch
	durable int // batches that survive

	// As reads show it: all of log.
	open     map[xid.ID]int // how many records there are
	archived map[xid.ID][]byte
	dropped  map[xid.ID]bool // expired
	finished []finishedAt    // in the order of the log
	keys     map[string]xid.ID
}

type batch struct {
	incarnation uint32
	records     []record
	finished    []archive
}

type record struct {
	id   xid.ID
	seq  uint32
	data []byte
	key  string // of a begin
}

type archive struct {
	id   xid.ID
	at   time.Time // when it finished
	data []byte
}

type finishedAt struct {
	id xid.ID
	at time.Time
}

func newDisk(id xid.StoreID) *disk {
	d := &disk{id: id, dropped: map[xid.ID]bool{}}
	d.reset()
	return d
}

func (d *disk) reset() {
	d.open, d.archived = map[xid.ID]int{}, map[xid.ID][]byte{}
	d.finished, d.keys = nil, map[string]xid.ID{}
}

// apply appends a batch, which is not forced.
func (d *disk) apply(records []core.Record, finished []core.Transaction) error {
	b := batch{incarnation: d.incarnation}
	for _, r := range records {
		data, err := store.AppendRecord(nil, r)
		if err != nil {
			return err
		}
		b.records = append(b.records, record{r.XID, r.Seq, data, r.Key})
	}
	for _, tx := range finished {
		data, err := store.AppendFinished(nil, tx)
		if err != nil {
			return err
		}
		b.finished = append(b.finished, archive{tx.XID, tx.Finished, data})
	}
	d.log = append(d.log, b)
	d.show(b)
	return nil
}

func (d *disk) show(b batch) {
	for _, r := range b.records {
		d.open[r.id]++
		if r.key != "" && !d.dropped[r.id] {
			d.keys[r.key] = r.id
		}
	}
	for _, f := range b.finished {
		delete(d.open, f.id)
		if !d.dropped[f.id] {
			d.archived[f.id] = f.data
			d.finished = append(d.finished, finishedAt{f.id, f.at})
		}
	}
}

// crash keeps the forced part and the given number of batches of the rest.
func (d *disk) crash(keep int) {
	d.log = d.log[:min(d.durable+keep, len(d.log))]
	d.durable = len(d.log)
	d.reset()
	for _, b := range d.log {
		d.show(b)
	}
}

// restore makes it a copy that was taken when the log was of the given length.
func (d *disk) restore(length int) {
	d.log = d.log[:length]
	d.durable = length
	d.incarnation = 1
	if length > 0 {
		d.incarnation = d.log[length-1].incarnation
	}
	d.marked = true
	d.reset()
	for _, b := range d.log {
		d.show(b)
	}
}

// recover folds what is unfinished, in the order of begin.
func (d *disk) recover() ([]core.Transaction, error) {
	folded := map[xid.ID]*core.Transaction{}
	var order []xid.ID
	for _, b := range d.log {
		for _, r := range b.records {
			if _, unfinished := d.open[r.id]; !unfinished {
				continue
			}
			tx := folded[r.id]
			if tx == nil {
				tx = &core.Transaction{}
				folded[r.id] = tx
				order = append(order, r.id)
			}
			rec, err := store.DecodeRecord(r.id, r.seq, r.data)
			if err == nil {
				err = core.Fold(tx, rec)
			}
			if err != nil {
				return nil, fmt.Errorf("reading the log back: %w", err)
			}
		}
	}
	slices.SortFunc(order, func(a, b xid.ID) int { return slices.Compare(a[:], b[:]) })
	all := make([]core.Transaction, 0, len(order))
	for _, id := range order {
		all = append(all, *folded[id])
	}
	return all, nil
}

// lookUp reads a finished transaction.
func (d *disk) lookUp(id xid.ID) (core.Transaction, bool, error) {
	data, found := d.archived[id]
	if !found {
		return core.Transaction{}, false, nil
	}
	tx, err := store.DecodeFinished(id, data)
	return tx, err == nil, err
}

// expire raises the horizon, durably, and then drops what has finished before cutoff.
func (d *disk) expire(cutoff time.Time) (dropped []xid.ID) {
	horizon := d.horizon
	for _, f := range d.finished {
		if f.at.Before(cutoff) && !d.dropped[f.id] {
			dropped = append(dropped, f.id)
			if b := f.id.Begin(); b.After(horizon) {
				horizon = b
			}
		}
	}
	d.horizon = horizon
	if len(dropped) > 0 {
		d.durable = len(d.log) // a forced write forces what came before it
	}
	for _, id := range dropped {
		tx, _, err := d.lookUp(id)
		if err == nil && tx.Key != "" {
			delete(d.keys, tx.Key)
		}
		d.dropped[id] = true
		delete(d.archived, id)
	}
	return dropped
}
