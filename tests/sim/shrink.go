package sim

import "fmt"

// Shrunk is a run that breaks a promise with as few jobs and faults as could be found.
type Shrunk struct {
	Result
	Jobs   []string // what is left of them
	Faults []string
	Gone   int // how many jobs, faults and kinds of bad weather were left out
}

// Shrink leaves out jobs, faults and bad weather from a run that fails, in ever smaller
// portions, as long as it still fails. The same seed always gives the same.
func Shrink(seed uint64, o Options) Shrunk {
	o.Trace = false
	names := everything(seed, o)
	without := map[string]bool{}
	fails := func(more []string) bool {
		try := o
		try.without = map[string]bool{}
		for k := range without {
			try.without[k] = true
		}
		for _, k := range more {
			try.without[k] = true
		}
		return Run(seed, try).Err != nil
	}
	left := names
	for size := len(left); size >= 1; {
		smaller := false
		for i := 0; i < len(left); {
			part := left[i:min(i+size, len(left))]
			if !fails(part) {
				i += size
				continue
			}
			for _, k := range part {
				without[k] = true
			}
			left = append(append([]string(nil), left[:i]...), left[min(i+size, len(left)):]...)
			smaller = true
		}
		if !smaller || size > len(left) {
			size /= 2
		}
	}
	o.without, o.Trace = without, true
	s := Shrunk{Result: Run(seed, o), Gone: len(without)}
	w := newWorld(seed, o)
	for _, j := range w.plan(seed) {
		if !without[j.name()] {
			s.Jobs = append(s.Jobs, fmt.Sprintf("%s: %s at %s", j.name(), kindNames[j.kind], j.at))
		}
	}
	for _, f := range w.faults(seed) {
		if !without[f.name()] {
			s.Faults = append(s.Faults, f.String())
		}
	}
	return s
}

// everything names what can be left out of a run.
func everything(seed uint64, o Options) []string {
	w := newWorld(seed, o)
	names := []string{"loss", "doubling", "delays", "broken connections", "moods"}
	for _, f := range w.faults(seed) {
		names = append(names, f.name())
	}
	for _, j := range w.plan(seed) {
		names = append(names, j.name())
	}
	return names
}
