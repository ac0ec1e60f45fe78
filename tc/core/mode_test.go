package core_test

import (
	"testing"

	"github.com/handfast/handfast/tc/core"
)

// An RM must not have to guess what a branch is.
func TestCommandsCarryTheModeOfEachBranch(t *testing.T) {
	t.Parallel()
	s := newShell(t, core.Config{})
	s.do(core.Attached{Resource: resourceID(1)})
	id := s.begin()
	s.register(id, 1, 1)
	s.reply(core.Register{Ref: "xa", XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeXA})
	s.flush()
	r := s.reply(core.Register{Ref: "again", XID: id, Branch: branchID(2), Resource: resourceID(1), Mode: core.ModeAT})
	wantKind(t, r, core.ErrBranchConflict)

	s.vote(id, 1, core.VoteYes)
	s.do(core.Commit{Ref: "commit", XID: id})
	s.now = s.wake
	asked := false
	for _, b := range s.do(core.Tick{}) {
		if a, ok := b.(core.AskVote); ok {
			asked = a.Mode == core.ModeXA && a.Branch == branchID(2)
		}
	}
	if !asked {
		t.Fatal("the missing vote of the XA branch was not asked for")
	}
	got := settles(s.do(core.Answered{XID: id, Branch: branchID(2), Vote: core.VoteYes}))
	if len(got) != 1 || len(got[0].Branches) != 2 {
		t.Fatalf("settle commands: %+v", got)
	}
	if b := got[0].Branches; b[0].Mode != core.ModeAT || b[1].Mode != core.ModeXA {
		t.Fatalf("modes %d and %d", b[0].Mode, b[1].Mode)
	}
}
