package saga

import (
	"time"

	"github.com/handfast/handfast/target"
)

// The bounds of the coordinator, checked by Validate.
const (
	MaxSteps   = 256
	MaxAfter   = 32                  // steps that one step comes directly after
	MaxTimeout = 30 * 24 * time.Hour // of a saga
	MaxSize    = 2<<20 - 4<<10       // of a saga as a whole, in bytes
)

// Definition says what a saga does. New makes one, or ParseJSON, or ParseYAML. It is
// data: nothing happens before Submit or Run, and it may be run any number of times, at
// the same time, too, as long as nobody changes it. Its methods that change it return
// it, and leave errors to Validate.
type Definition struct {
	name     string
	timeout  time.Duration
	parallel bool
	forward  bool
	retry    target.RetryPolicy
	steps    []step
}

type step struct {
	name           string
	action         target.Target
	compensate     target.Target
	noCompensation bool
	pivot          bool
	after          []string // nil: as the saga says
	retry          target.RetryPolicy
	err            error // of Input
}

// New begins a definition. name is for people, in lists and logs; at most 256 bytes.
func New(name string) *Definition { return &Definition{name: name} }

// Name is what New was called with.
func (d *Definition) Name() string { return d.name }

// Parallel lets steps without After start at once, instead of after the step before.
func (d *Definition) Parallel() *Definition { d.parallel = true; return d }

// ForwardRecovery makes every step one that is tried until it succeeds. Nothing is
// ever undone, so steps have no compensations, and no pivot.
func (d *Definition) ForwardRecovery() *Definition { d.forward = true; return d }

// Timeout sets how long after its submission the saga is rolled back where it is not
// decided; at most MaxTimeout. By default it never is. A saga with a pivot can have
// none: it would end with nobody knowing whether the pivot happened.
func (d *Definition) Timeout(t time.Duration) *Definition { d.timeout = t; return d }

// Retry sets how the calls of all steps are tried again that have no policy of their
// own. Its limit of attempts holds only for steps that may fail for good: not for a
// pivot, what comes after it, and compensations.
func (d *Definition) Retry(p target.RetryPolicy) *Definition { d.retry = p; return d }

// StepOption changes a step.
type StepOption func(*step)

// Step adds a step. Its name is letters, digits, "_" and "-", at most target.MaxName
// bytes, and no other step's.
func (d *Definition) Step(name string, action target.Target, opts ...StepOption) *Definition {
	s := step{name: name, action: action}
	for _, o := range opts {
		o(&s)
	}
	d.steps = append(d.steps, s)
	return d
}

// Compensate sets what undoes the step. Without a payload or a timeout of its own it
// has those of the action.
func Compensate(t target.Target) StepOption { return func(s *step) { s.compensate = t } }

// NoCompensation says that nothing needs to be undone.
func NoCompensation() StepOption { return func(s *step) { s.noCompensation = true } }

// Pivot says that the step can't be undone, and decides the saga.
func Pivot() StepOption { return func(s *step) { s.pivot = true } }

// After names the steps that have to be through before this one is called, instead of
// the step before; with no names it starts at once.
func After(steps ...string) StepOption {
	return func(s *step) { s.after = append([]string{}, steps...) }
}

// Input sets the payload of the action, like target.Payload.
func Input(v any) StepOption {
	return func(s *step) { s.action.Payload, s.err = target.Encode(v) }
}

// Timeout sets how long one call of the step may take, like target.Timeout.
func Timeout(d time.Duration) StepOption { return func(s *step) { s.action.Timeout = d } }

// Retry sets how the calls of the step are tried again, instead of what
// Definition.Retry says. Steps that are tried until they succeed have no limit of
// attempts.
func Retry(p target.RetryPolicy) StepOption { return func(s *step) { s.retry = p } }

// undo is the compensation with what it has of the action.
func (s *step) undo() target.Target {
	t := s.compensate
	if t.IsZero() {
		return t
	}
	if len(t.Payload) == 0 {
		t.Payload = s.action.Payload
	}
	if t.Timeout == 0 {
		t.Timeout = s.action.Timeout
	}
	return t
}
