package sim

// plant is a fault that is built in on purpose, to see that it is found.
type plant int

const (
	plantNone plant = iota
	plantSkipFlush
	plantReplyBeforeNeed
	plantNoIsYes
	plantCommitWithoutVotes
	plantLateBranch
	plantDecideTwice
	plantWrongOutcome
	plantForgetSubmitted
	plantEarlyCompensation
	plantDeadlineAfterDecision
	plantEarlyHorizon
	plantNoOperator
	plantForgetPrepared
	plantLostCancel
	plantFailedIsDone
	plantLostResults
	plantSameIncarnation
	plantEmptyUnforced
	plantRollbackUnforced
	plantLostEpoch
	plantDropFence
	plantNoTombstone
	plantReleaseBeforeRestore
	plantDropGuardKey
	plantNoGuard
	plantWrongUndoOrder
	plantSettlePerBranch
	plantSnapshotBeforeLock
	plantNoIdempotency
	plantNoEmptyRollback
	plantUnknownIsRolledBack
	plantUndecidedIsRolledBack
	plantCommitBeforeAck
	plantRerunUnknown
	plantAnswerBeforeSettling
	plantVoteIsOpinion
	plantNoJanitor
	plantNoVictim
	plantUnmarkedCopy
	plantStaleSession
	plantAmbientXID
	plantClockStands
	plantGraphPerShard
	plantUnsyncedYes
	plantStaleRead
	plantStaleAttempt
	plantGidUnlocked
	plantKeyLost
	plantKeyDropped
	plantAdoptionUndoes
	plantMissingFence
	plantNoProbe
	plantRepeatedRefused
	plantGhostBranch
	plantSettleWaits
	plantNoGivingWay
	plantEarlyDelivery
	plantRelayReadsAll
	plantNoNewGuard
	plantNoNeedGuard
	plantGuardFirst
	plants
)

// Plant describes a planted fault.
type Plant struct {
	Name string // for Options.Planted
	Rule string // of the protocol, that it switches off
	Text string
}

var planted = [plants]Plant{
	plantSkipFlush:             {"skip-flush", "C1", "one forced write in four is skipped, and what waited for it leaves"},
	plantReplyBeforeNeed:       {"reply-before-need", "C1", "messages leave before the log is durable up to their Need"},
	plantNoIsYes:               {"no-is-yes", "H5", "a vote no is taken for yes"},
	plantCommitWithoutVotes:    {"commit-without-votes", "H5", "a request to commit counts missing votes as yes"},
	plantLateBranch:            {"late-branch", "promise 5", "a resource manager goes on with a branch that was refused because its transaction is decided"},
	plantDecideTwice:           {"decide-twice", "promise 1", "a decision that is not carried out yet is forgotten at the restart"},
	plantWrongOutcome:          {"wrong-outcome", "promise 1", "one command to settle in eight says the opposite"},
	plantForgetSubmitted:       {"forget-submitted", "promise 12", "a submission is forgotten at the restart"},
	plantEarlyCompensation:     {"early-compensation", "promise 6", "a compensation does not wait for the end of its action"},
	plantDeadlineAfterDecision: {"deadline-after-decision", "promise 1", "the deadline rolls back what is committed and not settled"},
	plantEarlyHorizon:          {"early-horizon", "H13", "outcomes are forgotten as soon as they are carried out"},
	plantNoOperator:            {"operator-unrecorded", "promise 7", "the record of a decision by hand does not say whose it was"},
	plantForgetPrepared:        {"forget-prepared", "H9", "settling leaves prepared transactions alone"},
	plantLostCancel:            {"lost-cancel", "promise 6", "Cancel of TCC is taken for done without a call"},
	plantFailedIsDone:          {"failed-is-done", "promise 2", "an attempt to settle that failed is taken for done"},
	plantLostResults:           {"lost-results", "guarantee 12", "steps are called without the results of those before them"},
	plantSameIncarnation:       {"same-incarnation", "C6", "the incarnation is not raised at the start, and XIDs are a counter alone"},
	plantEmptyUnforced:         {"empty-commit-unforced", "H12", "the commit of a transaction without branches is told before it is durable"},
	plantRollbackUnforced:      {"rollback-unforced", "C1", "a rollback is told, and sent, before it is durable"},
	plantLostEpoch:             {"lost-epoch", "H8", "a process that hung goes on beside its successor, on the same log"},
	plantDropFence:             {"drop-fence", "C3", "a branch puts in its fence without looking whether there is a tombstone"},
	plantNoTombstone:           {"no-tombstone", "C3", "rollback and questions for votes leave no tombstone"},
	plantReleaseBeforeRestore:  {"release-before-restore", "promise 2", "keys are released before the rows are restored"},
	plantDropGuardKey:          {"drop-guard-key", "C5", "unique values are not guarded"},
	plantNoGuard:               {"no-guard", "C5", "nothing is guarded"},
	plantWrongUndoOrder:        {"wrong-undo-order", "C2", "a row that was changed twice goes back to what it was before the second change, unchecked"},
	plantSettlePerBranch:       {"settle-per-branch", "C2", "a rollback undoes branch after branch"},
	plantSnapshotBeforeLock:    {"snapshot-before-lock", "C4", "a rollback reads the undo rows before it has the fences"},
	plantNoIdempotency:         {"no-idempotency", "promise 6", "actions have no fence"},
	plantNoEmptyRollback:       {"no-empty-rollback", "promise 6", "a compensation that comes first is not remembered"},
	plantUnknownIsRolledBack:   {"unknown-is-rolled-back", "C6", "what a coordinator does not know is undone"},
	plantUndecidedIsRolledBack: {"undecided-is-rolled-back", "C1", "what is not decided is undone by whoever meets it"},
	plantCommitBeforeAck:       {"commit-before-ack", "C8", "a local transaction commits without waiting for its registration"},
	plantRerunUnknown:          {"rerun-unknown", "H7", "after a COMMIT without an answer the work is done again"},
	plantAnswerBeforeSettling:  {"answer-before-settling", "promise 2", "half of the commands to settle are answered and not carried out"},
	plantVoteIsOpinion:         {"vote-is-opinion", "H5", "a branch votes yes, and its service answers, before its local commit"},
	plantNoJanitor:             {"no-janitor", "§2", "nobody looks for what a database brings back after a crash"},
	plantGraphPerShard:         {"graph-per-shard", "H14", "cycles of waits that run through several shards are not seen"},
	plantUnsyncedYes:           {"unsynced-yes", "H4", "local commits are not forced by the database before the vote"},
	plantStaleAttempt:          {"stale-attempt", "promise 6", "an answer to an attempt of before a restart counts for the attempt of the same number"},
	plantStaleRead:             {"stale-read", "promise 1", "one answer in eight to a question is from before the decision"},
	plantGidUnlocked:           {"gid-unlocked", "guarantee 13", "two requests about one new gid are carried out side by side"},
	plantKeyLost:               {"key-lost", "guarantee 13", "after a restart the keys of open transactions are not known"},
	plantKeyDropped:            {"key-dropped", "guarantee 13", "a key is forgotten when its transaction is over, and not with it"},
	plantAdoptionUndoes:        {"adoption-undoes", "C6", "what an adopted store does not know is undone"},
	plantMissingFence:          {"missing-fence", "H4", "a local commit that a failed-over database lacks counts as settled"},
	plantNoProbe:               {"no-probe", "C5", "plain sessions above READ COMMITTED look for keys in their snapshot, and insert no probe"},
	plantClockStands:           {"clock-stands", "§2", "the coordinator's clock stands still while the system's catches up, after that was set back"},
	plantStaleSession:          {"stale-session", "H3", "a connection goes back to the pool armed, and its next user writes under another's XID"},
	plantAmbientXID:            {"ambient-xid", "H10", "an action that is called works in a branch of the transaction that calls it, too"},
	plantUnmarkedCopy:          {"unmarked-copy", "C7", "a store that was restored from an older copy does not know it, so nothing is in quarantine"},
	plantRepeatedRefused:       {"repeated-refused", "H6", "a registration that is sent again, as after a lost reply, is refused"},
	plantGhostBranch:           {"ghost-branch", "H6", "a registration that is sent again makes a second branch, for which nobody works"},
	plantSettleWaits:           {"settle-without-timeout", "H1", "a rollback waits for row locks for as long as that takes"},
	plantNoGivingWay:           {"no-giving-way", "H1", "a local transaction that waits does not look whether its row locks hold up who it waits for"},
	plantEarlyDelivery:         {"early-delivery", "H11", "a message of a global transaction is delivered as soon as it is registered"},
	plantRelayReadsAll:         {"relay-reads-all", "H11", "a relay of messages that are kept in rows reads the rows, and not the committed ones"},
	plantNoNewGuard:            {"no-guard-of-new-parents", "C5", "an undecided new parent may get children of others"},
	plantNoNeedGuard:           {"no-guard-of-needed-parents", "C5", "the parent of an undecided deleted or moved child may be deleted"},
	plantGuardFirst:            {"guard-before-references", "C5", "foreign keys are guarded before Postgres checks them, and not after it"},
	plantNoVictim:              {"no-victim", "H2", "cycles of waits are found, and nobody is rolled back"},
}

// busy is how much longer runs are, where a fault needs more crashes, or more sessions, than others to show.
func (p plant) busy() int {
	if p == plantStaleAttempt || p == plantNoProbe {
		return 6
	}
	return 1
}

// Planted lists the faults that can be planted.
func Planted() []Plant { return planted[1:] }

func plantOf(name string) plant {
	if name == "" {
		return plantNone
	}
	for i, p := range planted {
		if p.Name == name {
			return plant(i)
		}
	}
	panic("sim: no planted fault is called " + name)
}
