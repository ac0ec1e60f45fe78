package tm

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/handfast/handfast/client"
	pb "github.com/handfast/handfast/proto/handfast/v1"
)

// The bounds of the coordinator, checked here before anything is sent.
const (
	// MaxTimeout is the longest that a transaction may stay undecided.
	MaxTimeout = 12 * time.Hour
	// MaxName is the length of the longest name, in bytes.
	MaxName = 256
)

// DefaultRetryLimit is how long the coordinator may be out of reach before
// Begin, Commit and Rollback give up.
const DefaultRetryLimit = 15 * time.Second

type mode int

const (
	required mode = iota
	requiresNew
	notSupported
)

type options struct {
	timeout     time.Duration // 0: the coordinator's default
	name        string
	mode        mode
	waitSettled bool
	retryLimit  time.Duration
}

// Option changes how a transaction is run. Options given to New hold for every
// transaction of the Manager; options of one call come on top.
type Option func(*options)

// WithTimeout sets how long after its begin the coordinator rolls the
// transaction back by itself. The context of fn ends at that time, too. 0, the
// default, leaves it to the coordinator (60 s unless configured otherwise). At
// most MaxTimeout. A transaction that is joined keeps its own.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithName names the transaction for people: in lists and logs. At most
// MaxName bytes of UTF-8. A transaction that is joined keeps its own.
func WithName(name string) Option { return func(o *options) { o.name = name } }

// RequiresNew begins a transaction of its own even where the context carries
// one. The two are decided separately. The coordinator learns that the outer
// one waits for the inner one, so that a deadlock between them is found.
func RequiresNew() Option { return func(o *options) { o.mode = requiresNew } }

// NotSupported runs fn outside of any transaction, also where the context
// carries one.
func NotSupported() Option { return func(o *options) { o.mode = notSupported } }

// WithWaitSettled makes Do, Commit, Rollback and Wait return only when phase two
// is done everywhere: after a commit the caller's next read sees the committed
// rows without intents, after a rollback it finds everything undone. The wait ends
// with ctx, or when the coordinator was out of reach for the retry limit; the error
// then Is ErrNotSettled, beside ErrRolledBack where that was the decision. A panic
// of fn does not wait.
func WithWaitSettled() Option { return func(o *options) { o.waitSettled = true } }

// WithRetryLimit sets how long the coordinator may be out of reach before
// Begin, Commit and Rollback give up; the context of the call may end them
// earlier. Rollback is sent even when the context has ended, and is bounded by
// this alone. The default is DefaultRetryLimit.
func WithRetryLimit(d time.Duration) Option { return func(o *options) { o.retryLimit = d } }

func (m *Manager) options(opts []Option) (options, error) {
	o := options{retryLimit: DefaultRetryLimit}
	for _, list := range [2][]Option{m.defaults, opts} {
		for _, f := range list {
			f(&o)
		}
	}
	switch {
	case o.timeout < 0:
		return o, invalid("timeout", fmt.Sprintf("%v is negative", o.timeout))
	case o.timeout > MaxTimeout:
		return o, invalid("timeout", fmt.Sprintf("%v is longer than %v", o.timeout, MaxTimeout))
	case len(o.name) > MaxName:
		return o, invalid("name", fmt.Sprintf("%d bytes long, want at most %d", len(o.name), MaxName))
	case strings.ToValidUTF8(o.name, "") != o.name:
		return o, invalid("name", "not valid UTF-8")
	case o.retryLimit <= 0:
		return o, invalid("retry limit", fmt.Sprintf("%v, want more than 0", o.retryLimit))
	}
	return o, nil
}

func invalid(field, message string) error {
	return &client.Error{
		Reason: pb.ErrorReason_ERROR_REASON_INVALID_FIELD, Code: codes.InvalidArgument,
		Field: field, Message: "transaction " + field + ": " + message,
	}
}
