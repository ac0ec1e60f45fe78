package xid

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// BranchID names a branch: 128 bits, chosen by whoever registers it. They are random
// for work in a database, and may be derived with BranchOf for what is planned.
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

// ResourceID names a database by the UUID in its handfast schema, or a group of
// services by what ResourceOf makes of its name.
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

// ResourceOf names a group of services that take the same calls by a name of its
// own, such as "payments". It is the same in every process and every version: a UUID
// of version 8 made of the first bits of a SHA-256. A database has a random UUID of
// version 4, so the two never meet, and to find two names with the same UUID is as
// hard as to try 2^61 of them.
func ResourceOf(group string) ResourceID {
	sum := sha256.Sum256([]byte("handfast resource group\x00" + group))
	r := ResourceID(sum[:16])
	r[6] = r[6]&0x0f | 0x80 // version 8: made as its maker likes
	r[8] = r[8]&0x3f | 0x80 // the variant of RFC 9562
	return r
}

// BranchOf derives the id of a branch from its transaction and a name, so that whoever
// registers it again after a crash, or after a lost answer, names the same branch. A
// name may be used once in a transaction.
func BranchOf(id ID, name string) BranchID {
	h := sha256.New()
	h.Write([]byte("handfast branch\x00"))
	h.Write(id[:]) // of fixed length, so the name can't run into it
	h.Write([]byte(name))
	return BranchID(h.Sum(nil)[:16])
}
