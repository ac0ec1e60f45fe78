package caller

import (
	"errors"
	"fmt"

	"github.com/handfast/handfast/internal/address"
	"github.com/handfast/handfast/tc/caller/refs"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid/action"
)

// parseTarget reads the address of an action.
func parseTarget(a *core.Action) (address.Address, error) {
	if a == nil {
		return address.Address{}, errors.New("there is no action to call")
	}
	var to address.Address
	var err error
	switch a.Kind {
	case core.TargetHTTP:
		parse := address.ParseHTTP
		if a.Dialect != core.DialectHandfast {
			parse = address.ParsePlainHTTP
		}
		if to, err = parse(a.Address); err != nil {
			err = fmt.Errorf("url %w", err)
		}
	case core.TargetGRPC:
		if to, err = address.ParseGRPC(a.Address); err != nil {
			err = fmt.Errorf("grpc %w", err)
		}
	case core.TargetNone, core.TargetHandler:
		err = fmt.Errorf("an action of kind %d is not called over HTTP or gRPC", a.Kind)
	}
	return to, err
}

// outgoing is what is sent for an action, with values for its references.
type outgoing struct {
	url     string // for HTTP
	payload []byte
}

func expand(j *job) (outgoing, error) {
	a := j.call.Action
	out := outgoing{payload: a.Payload}
	// An encoded message may be JSON by chance: it has no references.
	if j.to.Kind == address.HTTP {
		var err error
		if out.payload, err = refs.Expand(a.Payload, j.call.Before, j.call.Own); err != nil {
			return out, fmt.Errorf("the payload can't be sent: %w", err)
		}
		if out.url, err = refs.ExpandURL(a.Address, j.call.Before, j.call.Own); err != nil {
			return out, fmt.Errorf("the url can't be called: %w", err)
		}
	}
	for _, h := range a.Header {
		if err := address.CheckHeader(j.to.Kind, h.Name, h.Value); err != nil {
			return out, fmt.Errorf("a header can't be sent: %w", err)
		}
	}
	return out, nil
}

// headers gives what goes along with every call of the job.
func headers(j *job, set func(name, value string)) {
	c := &j.call
	// Both number them as the wire does.
	action.Call{XID: c.XID, Branch: c.Branch, Action: action.Action(c.Op), Attempt: c.Attempt}.Each(set)
}
