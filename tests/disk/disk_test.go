package disk

import (
	"syscall"
	"testing"
)

// seeds of power losses that keep half of what was not synced.
func seeds() []uint64 {
	if *everything {
		return []uint64{1, 2, 3}
	}
	return []uint64{1}
}

// kept are power losses of each kind: how much they keep, and which.
func kept() (list []fault) {
	for _, w := range []what{powerBefore, powerAfter} {
		list = append(list, fault{what: w, keep: 0}, fault{what: w, keep: 100})
		for _, seed := range seeds() {
			list = append(list, fault{what: w, keep: 50, seed: seed})
		}
	}
	for i := range list {
		list[i].class = anyWrite
	}
	return list
}

// each gives a series for each scenario and fault.
func each(faults []fault) (list []series) {
	for _, f := range faults {
		for _, mode := range modes {
			for _, refuse := range []bool{false, true} {
				list = append(list, series{point: point{mode: mode, refuse: refuse, faults: []fault{f}}})
			}
		}
	}
	return list
}

// On a good disk it goes as everybody thinks.
func TestAllGoesWellOnAGoodDisk(t *testing.T) {
	t.Parallel()
	for _, s := range each([]fault{{}}) {
		s.faults = nil
		if hit := tryOne(t, s.point); hit {
			t.Errorf("%s: something was wrong with the disk", s.point)
		}
	}
}

// Whenever the power goes, and whatever is left on the disk of what was not synced:
// nothing that anybody was told is lost.
func TestAPowerLossTakesBackNothingThatWasTold(t *testing.T) {
	t.Parallel()
	list := each(kept())
	if !*everything {
		list = sampled(list, 80)
	}
	tryAll(t, list, 1)
}

// The same while it comes back from a power loss.
func TestThePowerMayGoAgainWhileItComesBack(t *testing.T) {
	t.Parallel()
	var list []series
	for i, s := range each(kept()) {
		first := s.faults[0]
		first.at = s.sample(i)
		s.faults, s.open = []fault{first, s.faults[0]}, 1
		list = append(list, s)
	}
	if !*everything {
		list = sampled(list, 20)
	}
	tryAll(t, list, 1)
}

// sampled gives some of a list, spread over it.
func sampled(list []series, some int) (out []series) {
	for i := range some {
		out = append(out, list[i*len(list)/some])
	}
	return out
}

// A disk that is full, or broken: the coordinator stops and says why, and whoever was
// told something finds it after the next start.
func TestAFailedCallStopsItAndLosesNothing(t *testing.T) {
	t.Parallel()
	var faults []fault
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for _, c := range []class{write, force, create, rename, remove} {
			for _, keep := range []int{0, 100} {
				faults = append(faults, fault{what: failing, class: c, errno: errno, keep: keep})
			}
		}
	}
	list := each(faults)
	if !*everything {
		list = sampled(list, 60)
	}
	tryAll(t, list, 1)
}

// A fault that stays, also while the next coordinator starts: that one is refused, too, and
// says why. When the fault is gone everything goes on.
func TestAFaultThatStaysKeepsItDown(t *testing.T) {
	t.Parallel()
	var list []series
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		first := fault{what: failing, class: anyWrite, errno: errno, lasts: true, keep: 100}
		for i, s := range each([]fault{first}) {
			again := first
			again.class, again.at = []class{write, force, create, rename}[i%4], 1+i/4%2
			s.faults = []fault{first, again}
			list = append(list, s)
		}
	}
	if !*everything {
		list = sampled(list, 16)
	}
	tryAll(t, list, 1)
}

// Whatever can't be read when it starts: the start is refused, and says what and why.
func TestAFailedReadRefusesTheStart(t *testing.T) {
	t.Parallel()
	var list []series
	for i, s := range each([]fault{{what: powerBefore, class: anyWrite}}) {
		first := s.faults[0]
		first.at = s.sample(i)
		s.faults, s.open = []fault{first, {what: failing, class: read, errno: syscall.EIO, keep: 100}}, 1
		list = append(list, s)
	}
	tryAll(t, list, 1)
}

// A read may give less than was asked for. That makes no difference.
func TestShortReadsMakeNoDifference(t *testing.T) {
	t.Parallel()
	list := each([]fault{{what: powerBefore, class: anyWrite}})
	for i := range list {
		list[i].faults = append(list[i].faults, fault{what: short, class: read, at: 1})
	}
	if !*everything {
		list = sampled(list, 8)
	}
	tryAll(t, list, 1)
}

// TestRepeat plays one point again.
func TestRepeat(t *testing.T) {
	t.Parallel()
	if *repeat == "" {
		t.Skip("-disk.repeat names the point")
	}
	p, err := parsePoint(*repeat)
	if err != nil {
		t.Fatal(err)
	}
	hit, err := p.once(nil)
	t.Logf("%s: the fault has come: %t", p, hit)
	if err != nil {
		t.Error(err)
	}
}
