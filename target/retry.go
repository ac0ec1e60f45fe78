package target

import (
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// RetryPolicy says how calls are tried again. Zero fields are the coordinator's.
type RetryPolicy struct {
	First   time.Duration // pause after the first failure; 100 ms
	Max     time.Duration // the longest pause; 30 s
	Percent uint32        // each pause in percent of the one before, 100 to 1,000; 200
	// Attempts is how often a forward action is tried before the transaction is rolled
	// back; no limit. Everything else is tried until it succeeds.
	Attempts uint32
	// AttentionAfter is how many failed attempts call a person; 10.
	AttentionAfter uint32
}

// Validate tells whether the coordinator will take the policy. Its error is an *Error.
func (p RetryPolicy) Validate() error {
	for _, x := range []struct {
		name string
		d    time.Duration
	}{{"first", p.First}, {"max", p.Max}} {
		if x.d != 0 && (x.d < time.Millisecond || x.d > MaxDelay) {
			return wrong("retry", "%s is %v; want from 1ms to %v, or 0 for the coordinator's", x.name, x.d, MaxDelay)
		}
	}
	if p.Percent != 0 && (p.Percent < 100 || p.Percent > 1000) {
		return wrong("retry", "percent is %d; want from 100 to 1000, or 0 for 200", p.Percent)
	}
	return nil
}

// Or gives the policy, or the default of a whole transaction where it is none. It takes
// the default as a whole: the two are not mixed.
func (p RetryPolicy) Or(byDefault RetryPolicy) RetryPolicy {
	if p == (RetryPolicy{}) {
		return byDefault
	}
	return p
}

// Unlimited is the policy without a limit of attempts, for what is tried until it
// succeeds.
func (p RetryPolicy) Unlimited() RetryPolicy {
	p.Attempts = 0
	return p
}

// Proto gives the policy as it is sent to the coordinator; nil where all is its own.
func (p RetryPolicy) Proto() *pb.RetryPolicy {
	if p == (RetryPolicy{}) {
		return nil
	}
	r := &pb.RetryPolicy{Percent: p.Percent, Attempts: p.Attempts, AttentionAfter: p.AttentionAfter}
	if p.First > 0 {
		r.First = durationpb.New(p.First)
	}
	if p.Max > 0 {
		r.Max = durationpb.New(p.Max)
	}
	return r
}

// What a Go function that is called wraps in its error to say more than "try again".
var (
	// ErrFailed: it failed for good, and without any effect. A forward action that
	// fails rolls the transaction back, and is compensated all the same: another
	// copy of the call may have had the effect. A confirmation, delivery or compensation
	// must not fail: it is tried again all the same, and a person is called.
	ErrFailed = errors.New("failed for good")
	// ErrNotYet: it can't be told yet; ask again later. That is no failed attempt.
	ErrNotYet = errors.New("not yet")
	// ErrAttention: trying again, which goes on, will not help by itself.
	ErrAttention = errors.New("a person has to look")
)
