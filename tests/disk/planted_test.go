package disk

import (
	"cmp"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/handfast/handfast/tc/store"
)

// eager acknowledges what it has not forced.
type eager struct{ store.Store }

// Apply implements store.Store.
func (s eager) Apply(b store.Batch, _ bool) (uint64, error) { return s.Store.Apply(b, false) }

// deafStore does not hear that a write failed.
type deafStore struct{ store.Store }

// Apply implements store.Store.
func (s deafStore) Apply(b store.Batch, sync bool) (uint64, error) {
	position, err := s.Store.Apply(b, sync)
	if err != nil {
		return s.Position(), nil //nolint:nilerr // this is the fault
	}
	return position, nil
}

// loseLast has a power loss take back what was synced last.
func loseLast(r *run, d *drive) error {
	path, err := newestLog(d.after)
	if err != nil || path == "" {
		return err
	}
	forced := d.forced[path]
	b, err := content(d.after, path)
	if err != nil || len(forced) < 2 || len(b) < int(forced[len(forced)-2]) {
		return err
	}
	d.after, err = torn(d.after, path, b, int(forced[len(forced)-2]), cutOff)
	return err
}

// Each of these is a fault that somebody could make. If it is not found, nor is anything
// else of its kind.
func TestPlantedFaultsAreFound(t *testing.T) {
	t.Parallel()
	power := fault{what: powerBefore, class: anyWrite}
	full := fault{what: failing, class: force, errno: 28, keep: 100}
	for name, tt := range map[string]struct {
		mode   string
		fault  fault
		change func(*run)
		says   string
		hangs  time.Duration // it is found because nothing happens for so long
	}{
		"it tells before it forces": {"saga", fault{}, func(r *run) {
			r.wrap = func(s store.Store) store.Store { return eager{s} }
			r.ended = func(r *run) { r.drive.cut() }
		}, "forgotten", 0},
		"it goes on after a failed write": {"at", full, func(r *run) {
			r.wrap = func(s store.Store) store.Store { return deafStore{s} }
		}, "does not come to an end", 2 * time.Second},
		"the disk drops what was synced last":  {"at", power, func(r *run) { r.probe = loseLast }, "", 0},
		"a participant does again what it did": {"saga", power, func(r *run) { r.shop.careless = true }, "there is", 0},
		"a participant forgets a branch":       {"tcc", power, func(r *run) { r.shop.forgetful = true }, "", 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := series{point: point{mode: tt.mode, faults: []fault{tt.fault}}}
			begins := usual()[tt.fault.class][1]
			for n := begins + 1; n < begins+40; n++ {
				ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(tt.hangs, patience))
				hit, err := s.at(n).within(ctx, func(r *run) {
					r.planted = true
					tt.change(r)
				})
				cancel()
				if err != nil && strings.Contains(err.Error(), tt.says) {
					text, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("found at %s, after %d others: %.200s", s.at(n), n-begins-1, text)
					return
				}
				if !hit && tt.fault.what != "" {
					break
				}
			}
			t.Error("it is not found")
		})
	}
}
