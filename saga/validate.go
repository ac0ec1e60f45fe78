package saga

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/tm"
	"github.com/handfast/handfast/xid"
)

// Error is what is wrong with a definition.
type Error struct {
	Saga string
	Step string // empty where it is about the saga
	Line int    // of the step in the text that was read, from 1; 0 where there is none
	Text string // what is wrong, and what would be right
	Err  error  // of a target; may be nil
}

// Error names the saga and the step, and says what would be right.
func (e *Error) Error() string {
	if e.Line > 0 {
		at := *e
		at.Line = 0
		return fmt.Sprintf("line %d: %v", e.Line, &at)
	}
	if e.Step == "" {
		return fmt.Sprintf("saga %.40q: %s", e.Saga, e.Text)
	}
	return fmt.Sprintf("saga %.40q: step %.40q: %s", e.Saga, e.Step, e.Text)
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// Validate tells all that is wrong with the definition, one *Error for each, joined; what
// needs a graph only where the steps themselves are right.
func (d *Definition) Validate() error {
	_, err := d.plan()
	return err
}

// plan gives the definition's graph once it is right.
func (d *Definition) plan() (*graph, error) {
	if err := errors.Join(d.checkSaga(), d.checkSteps()); err != nil {
		return nil, err
	}
	g, err := d.graph()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.checkKinds(g), d.checkReferences(g)); err != nil {
		return nil, err
	}
	// Only what is right can be put together; the XID has always the same length.
	if n := proto.Size(g.request(xid.ID{})); n > MaxSize {
		return nil, d.wrong("", "it is %d bytes long as a whole; want at most %d", n, MaxSize)
	}
	return g, nil
}

func (d *Definition) wrong(step, format string, args ...any) error {
	return &Error{Saga: d.name, Step: step, Text: fmt.Sprintf(format, args...)}
}

func (d *Definition) checkSaga() error {
	switch {
	case len(d.name) > tm.MaxName:
		return d.wrong("", "its name is %d bytes long; want at most %d", len(d.name), tm.MaxName)
	case strings.ToValidUTF8(d.name, "") != d.name || strings.ContainsFunc(d.name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return d.wrong("", "its name is not one line of UTF-8")
	case len(d.steps) == 0:
		return d.wrong("", "it has no steps; want from 1 to %d", MaxSteps)
	case len(d.steps) > MaxSteps:
		return d.wrong("", "it has %d steps; want at most %d", len(d.steps), MaxSteps)
	case d.timeout != 0 && (d.timeout < time.Millisecond || d.timeout > MaxTimeout):
		return d.wrong("", "its timeout is %v; want from 1ms to %v, or 0 for none", d.timeout, MaxTimeout)
	case d.timeout != 0 && d.forward:
		return d.wrong("", "it has a timeout, and all its steps are tried until they succeed; take one of them out")
	case d.retry.Attempts > 0 && d.forward:
		return d.wrong("", "retry: all its steps are tried until they succeed, so it has no limit of attempts")
	}
	if err := d.retry.Validate(); err != nil {
		return &Error{Saga: d.name, Text: err.Error(), Err: err}
	}
	return nil
}

// checkSteps looks at each step for itself.
func (d *Definition) checkSteps() error {
	var errs []error
	seen := make(map[string]bool, len(d.steps))
	for i := range d.steps {
		s := &d.steps[i]
		if err := target.CheckName(s.name); err != nil {
			errs = append(errs, d.wrong(nth(i), "%v", err))
			continue
		}
		if seen[s.name] {
			errs = append(errs, d.wrong(s.name, "another step has the same name"))
		}
		seen[s.name] = true
		errs = append(errs, d.checkStep(s))
	}
	for i := range d.steps {
		s := &d.steps[i]
		for _, a := range s.after {
			if !seen[a] {
				errs = append(errs, d.wrong(s.name, "after: there is no step %.40q; the steps are %s", a, d.names()))
			}
		}
		if len(s.after) > MaxAfter {
			errs = append(errs, d.wrong(s.name, "after: %d steps; want at most %d, and other steps between", len(s.after), MaxAfter))
		}
	}
	return errors.Join(errs...)
}

// nth stands for the name of a step that has no right one.
func nth(i int) string { return fmt.Sprintf("#%d", i+1) }

func (d *Definition) checkStep(s *step) error {
	part := func(what string, err error) error {
		if err == nil {
			return nil
		}
		return &Error{Saga: d.name, Step: s.name, Text: what + err.Error(), Err: err}
	}
	if s.err != nil {
		return part("input: ", s.err)
	}
	if s.action.IsZero() {
		return d.wrong(s.name, "it has no action; want one of http, grpc and handler")
	}
	var errs []error
	errs = append(errs, part("", s.action.Validate()))
	if !s.compensate.IsZero() {
		errs = append(errs, part("compensate: ", s.undo().Validate()))
	}
	errs = append(errs, part("", s.retry.Validate()))
	return errors.Join(errs...)
}

func (d *Definition) names() string {
	const most = 10
	var b strings.Builder
	for i := range d.steps {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(d.steps)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d.steps[i].name)
	}
	return b.String()
}

// checkKinds looks at what depends on where the pivot is.
func (d *Definition) checkKinds(g *graph) error {
	var errs []error
	for i := range d.steps {
		s := &d.steps[i]
		wrong := func(format string, args ...any) { errs = append(errs, d.wrong(s.name, format, args...)) }
		undone := !s.compensate.IsZero()
		switch {
		case s.pivot && d.forward:
			wrong("it is a pivot, and all steps are tried until they succeed; take one of them out")
		case s.pivot && i != g.pivot:
			wrong("it is a pivot, and %q is one, too; one step decides, and what comes after it is tried until it succeeds", d.steps[g.pivot].name)
		case s.pivot && undone:
			wrong("a pivot is never undone; take its compensation out")
		case s.pivot && s.retry.Attempts > 0:
			wrong("retry: a pivot has no limit of attempts; giving up would leave open whether it happened")
		case s.pivot && d.timeout > 0:
			wrong("a saga with a pivot has no timeout; it could pass while nobody knows whether the pivot happened")
		case s.pivot:
		case g.pivot >= 0 && !g.before(i, g.pivot) && !g.before(g.pivot, i):
			wrong("it comes neither before nor after the pivot %q; name one in \"after\" of the other", d.steps[g.pivot].name)
		case g.delivery(i) && undone:
			wrong("it is tried until it succeeds and never undone; take its compensation out")
		case g.delivery(i) && s.retry.Attempts > 0:
			wrong("retry: it is tried until it succeeds, so it has no limit of attempts")
		case g.delivery(i):
		case undone && s.noCompensation:
			wrong("it has a compensation, and says that it has none; take one of them out")
		case !undone && !s.noCompensation:
			wrong("it has no compensation; add one, or say that nothing needs to be undone with no_compensation")
		}
		if n := len(g.direct[i]); n > MaxAfter {
			wrong("it comes directly after %d steps, counting those whose results it uses and those before steps without a compensation; want at most %d", n, MaxAfter)
		}
	}
	return errors.Join(errs...)
}

// checkReferences: results are used only by steps that come later.
func (d *Definition) checkReferences(g *graph) error {
	var errs []error
	for i := range d.steps {
		s := &d.steps[i]
		for _, t := range []struct {
			field  string
			target target.Target
		}{{"", s.action}, {"compensate: ", s.undo()}} {
			names, own, _ := t.target.References() // checked before
			for _, n := range names {
				switch j := d.find(n); {
				case j < 0:
					errs = append(errs, d.wrong(s.name, "%sit uses the result of a step %.40q; the steps are %s", t.field, n, d.names()))
				case !g.before(j, i):
					errs = append(errs, d.wrong(s.name, "%sit uses the result of %q, which does not come before it", t.field, n))
				case d.steps[j].action.DTM:
					errs = append(errs, d.wrong(s.name, "%sit uses the result of %q, which has none: it is called as DTM would", t.field, n))
				}
			}
			switch {
			case own && t.field == "":
				errs = append(errs, d.wrong(s.name, "it uses its own result, which only its compensation can"))
			case own && s.action.DTM:
				errs = append(errs, d.wrong(s.name, "%sit uses the result of the step, which has none: it is called as DTM would", t.field))
			}
		}
	}
	return errors.Join(errs...)
}

func (d *Definition) find(name string) int {
	return slices.IndexFunc(d.steps, func(s step) bool { return s.name == name })
}
