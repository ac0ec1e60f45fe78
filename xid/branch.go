package xid

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// BranchID names a branch: 128 random bits, chosen by the RM.
type BranchID [16]byte

// NewBranchID draws a branch id from the system's secure random source.
func NewBranchID() BranchID {
	var b BranchID
	for b == (BranchID{}) {
		_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	}
	return b
}

// String gives 32 lower-case hexadecimal digits.
func (b BranchID) String() string { return hex.EncodeToString(b[:]) }

// ParseBranchID reads 32 hexadecimal digits. The zero id is refused.
func ParseBranchID(s string) (BranchID, error) {
	var b BranchID
	if len(s) != 2*len(b) {
		return b, fmt.Errorf("branch id %.40q: want %d hexadecimal digits", s, 2*len(b))
	}
	if _, err := hex.Decode(b[:], []byte(s)); err != nil {
		return BranchID{}, fmt.Errorf("branch id %.40q: %w", s, err)
	}
	if b == (BranchID{}) {
		return b, fmt.Errorf("branch id is all zero")
	}
	return b, nil
}

// ResourceID names a database: the UUID in its handfast schema.
type ResourceID [16]byte

// String gives the canonical form of the UUID.
func (r ResourceID) String() string {
	h := hex.EncodeToString(r[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseResourceID reads the canonical form of a UUID. The zero UUID is refused.
func ParseResourceID(s string) (ResourceID, error) {
	var r ResourceID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return r, fmt.Errorf("resource id %.40q: want a UUID such as 123e4567-e89b-12d3-a456-426614174000", s)
	}
	h := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(r[:], []byte(h)); err != nil {
		return ResourceID{}, fmt.Errorf("resource id %.40q: %w", s, err)
	}
	if r == (ResourceID{}) {
		return r, fmt.Errorf("resource id is all zero")
	}
	return r, nil
}
