package store

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

// Field numbers of store.v1.Plan.
const (
	planForward = iota + 1
	planCommit
	planRollback
	planAfter
	planRetryFirst
	planRetryMax
	planRetryPercent
	planRetryAttempts
	planRetryAttention
	planRetryPoll
	planLastFirst
)

// Field numbers of store.v1.Action.
const (
	actionKind = iota + 1
	actionAddress
	actionLane
	actionPayload
	actionHeaders
	actionDelay
	actionTimeout
	actionGroup
	actionDialect
	actionVerb
)

// Field numbers of store.v1.Header.
const (
	headerName = iota + 1
	headerValue
)

// longest is the longest time that can be stored: a century.
const longest = 100 * 366 * 24 * time.Hour

// plan writes nothing for nil. What is over is not called again, so it needs no
// payloads.
func (e *encoder) plan(field protowire.Number, p *core.Plan, payloads bool) {
	if p == nil {
		return
	}
	e.message(field, func(e *encoder) {
		e.action(planForward, &p.Forward, payloads)
		e.action(planCommit, &p.Commit, payloads)
		e.action(planRollback, &p.Rollback, payloads)
		for _, id := range p.After {
			e.id(planAfter, id)
		}
		e.duration(planRetryFirst, p.Retry.First)
		e.duration(planRetryMax, p.Retry.Max)
		e.uint(planRetryPercent, uint64(p.Retry.Percent))
		e.uint(planRetryAttempts, uint64(p.Retry.Attempts))
		e.uint(planRetryAttention, uint64(p.Retry.Attention))
		e.duration(planRetryPoll, p.Retry.Poll)
		e.flag(planLastFirst, p.LastFirst)
	})
}

func (e *encoder) action(field protowire.Number, a *core.Action, payloads bool) {
	if a.Kind == core.TargetNone {
		return
	}
	if a.Kind > core.TargetGRPC {
		e.err = fmt.Errorf("target %d", a.Kind)
	}
	e.message(field, func(e *encoder) {
		e.uint(actionKind, uint64(a.Kind))
		e.text(actionAddress, a.Address)
		e.id(actionLane, a.Lane)
		if payloads {
			e.blob(actionPayload, a.Payload)
		}
		for _, h := range a.Header {
			e.message(actionHeaders, func(e *encoder) {
				e.text(headerName, h.Name)
				e.text(headerValue, h.Value)
			})
		}
		e.duration(actionDelay, a.Delay)
		e.duration(actionTimeout, a.Timeout)
		e.text(actionGroup, a.Group)
		if a.Dialect > core.DialectDTMRPC {
			e.err = fmt.Errorf("dialect %d", a.Dialect)
		}
		e.uint(actionDialect, uint64(a.Dialect))
		e.text(actionVerb, a.Verb)
	})
}

func (e *encoder) duration(field protowire.Number, d time.Duration) {
	if d < 0 || d > longest {
		e.err = fmt.Errorf("duration %s", d)
		return
	}
	e.uint(field, uint64(d))
}

// blob writes nothing for nil; empty is something else.
func (e *encoder) blob(field protowire.Number, b []byte) {
	if b != nil {
		e.b = protowire.AppendBytes(protowire.AppendTag(e.b, field, protowire.BytesType), b)
	}
}

func (d *decoder) blob(what string) []byte {
	v := d.bytes(what)
	if d.err != nil {
		return nil
	}
	return append([]byte{}, v...) // never nil
}

func (d *decoder) plan() *core.Plan {
	in := decoder{b: d.bytes("plan"), repeated: 1 << planAfter}
	p := &core.Plan{}
	for in.next() {
		switch in.field {
		case planForward:
			p.Forward = in.action()
		case planCommit:
			p.Commit = in.action()
		case planRollback:
			p.Rollback = in.action()
		case planAfter:
			p.After = append(p.After, xid.BranchID(in.id("branch before")))
		case planRetryFirst:
			p.Retry.First = in.duration("first pause")
		case planRetryMax:
			p.Retry.Max = in.duration("longest pause")
		case planRetryPercent:
			p.Retry.Percent = uint32(in.uint("percent", 1<<32-1))
		case planRetryAttempts:
			p.Retry.Attempts = uint32(in.uint("attempts", 1<<32-1))
		case planRetryAttention:
			p.Retry.Attention = uint32(in.uint("attempts until attention", 1<<32-1))
		case planRetryPoll:
			p.Retry.Poll = in.duration("pause after not yet")
		case planLastFirst:
			p.LastFirst = in.uint("last first", 1) == 1
		default:
			in.unknown()
		}
	}
	if in.err != nil {
		d.fail("plan: %w", in.err)
	}
	return p
}

func (d *decoder) action() (a core.Action) {
	in := decoder{b: d.bytes("action"), repeated: 1 << actionHeaders}
	for in.next() {
		switch in.field {
		case actionKind:
			a.Kind = core.Target(in.enum("target", uint64(core.TargetGRPC)))
		case actionAddress:
			a.Address = in.text("address")
		case actionLane:
			a.Lane = in.id("lane")
		case actionPayload:
			a.Payload = in.blob("payload")
		case actionHeaders:
			a.Header = append(a.Header, in.header())
		case actionDelay:
			a.Delay = in.duration("delay")
		case actionTimeout:
			a.Timeout = in.duration("timeout")
		case actionGroup:
			a.Group = in.text("group")
		case actionDialect:
			a.Dialect = core.Dialect(in.enum("dialect", uint64(core.DialectDTMRPC)))
		case actionVerb:
			a.Verb = in.text("verb")
		default:
			in.unknown()
		}
	}
	if in.err == nil && a.Kind == core.TargetNone {
		in.fail("no target")
	}
	if in.err != nil {
		d.fail("action: %w", in.err)
	}
	return a
}

func (d *decoder) header() (h core.Header) {
	in := decoder{b: d.bytes("header")}
	for in.next() {
		switch in.field {
		case headerName:
			h.Name = in.text("name of a header")
		case headerValue:
			h.Value = in.text("value of a header")
		default:
			in.unknown()
		}
	}
	if in.err != nil {
		d.fail("%w", in.err)
	}
	return h
}

func (d *decoder) duration(what string) time.Duration {
	return time.Duration(d.uint(what, uint64(longest)))
}
