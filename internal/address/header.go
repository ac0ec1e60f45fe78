package address

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/handfast/handfast/xid/action"
)

// Bounds of what goes along with a call.
const (
	MaxHeaders     = 64
	MaxHeaderBytes = 8 << 10 // all names and values together
)

// ofConnection belong to a connection and not to a call. A handler has none, but what
// calls it may be another tomorrow.
var ofConnection = []string{
	"connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer",
	"transfer-encoding", "upgrade",
}

// CheckHeaderName tells what is wrong with the name of a header, of metadata of gRPC, or
// of a field of a call of a handler.
func CheckHeaderName(kind Kind, name string) error {
	lower := strings.ToLower(name)
	switch {
	case name == "" || strings.Trim(lower, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "":
		return fmt.Errorf("%.40q is no name of a header; want letters, digits, \"-\", \"_\" and \".\"", name)
	case strings.HasPrefix(lower, action.Prefix):
		return fmt.Errorf("%.40q is set by the coordinator, as all that begin with %q; want another name", name, action.Prefix)
	case slices.Contains(ofConnection, lower):
		return fmt.Errorf("%.40q is set by the coordinator: it belongs to the connection; leave it out", name)
	case kind == GRPC && (strings.HasPrefix(lower, "grpc-") || lower == "content-type" || lower == "user-agent"):
		return fmt.Errorf("%.40q is set by the coordinator: it belongs to gRPC; leave it out", name)
	}
	return nil
}

// CheckHeaderValue tells what is wrong with the value of a header. It does not hold the
// value, which may be secret. Metadata of gRPC whose name ends with "-bin" takes any text:
// it is sent as base64.
func CheckHeaderValue(kind Kind, name, value string) error {
	if kind == GRPC && strings.HasSuffix(strings.ToLower(name), "-bin") && utf8.ValidString(value) {
		return nil
	}
	for i, r := range value {
		switch {
		case r == '\t' && kind == GRPC:
			return fmt.Errorf("holds a tab at byte %d; metadata of gRPC is visible ASCII and blanks", i)
		case r == '\t':
		case r < ' ' || r >= 0x7f:
			return fmt.Errorf("holds a character that no header may hold, at byte %d; want visible ASCII and blanks", i)
		}
	}
	return nil
}

// CheckHeader tells what is wrong with a header.
func CheckHeader(kind Kind, name, value string) error {
	if err := CheckHeaderName(kind, name); err != nil {
		return err
	}
	if err := CheckHeaderValue(kind, name, value); err != nil {
		return fmt.Errorf("the value of %.40q %w", name, err)
	}
	return nil
}
