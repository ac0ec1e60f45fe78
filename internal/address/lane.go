package address

import (
	"crypto/sha256"

	"github.com/handfast/handfast/xid"
)

// Lane is the queue that all calls to one host wait in.
func (a Address) Lane() (r xid.ResourceID) {
	scheme := "http"
	if a.Kind == GRPC {
		scheme = "grpc"
	}
	if a.TLS {
		scheme += "s"
	}
	sum := sha256.Sum256([]byte(scheme + "\x00" + a.Host))
	copy(r[:], sum[:])
	return r
}
