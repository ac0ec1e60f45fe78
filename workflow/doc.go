// Package workflow runs a Go function to its end, whatever happens to the processes
// that run it. The coordinator (TC) remembers its steps.
//
//	Start --- Begin, Submit ---> TC --- Call ---> a process that has the group
//	                             ^                  |  func(ctx, w, input)
//	    what is remembered ------|----------------->|
//	                             |                  |
//	    "book" is meant <--------|---- register ----|-- Step "book"
//	                             |                  |     its function: the effect
//	    "book" is done, result <-|---- vote --------|
//	                             |                  |
//	    result, or failed <------|---- answer ------+-- return
//
// Where the process dies the function is called again, here or elsewhere, from its
// beginning. Steps that are remembered then give their result without being run.
//
// # At least once
//
// A step whose process died before its end was remembered is run again. Its identity is
// the same each time, (XID, branch, forward): put the effect behind package fence with
// it, or hand its Key to whoever makes the effect. Two processes may run the same
// workflow at a time, where one is slow and was given up.
//
// # Determinism
//
// The function has to take the same steps in the same order each time, as long as they
// give the same results: what it decides on has to be its input or the result of a step.
// Time, chance, and answers of other services are read in steps. Steps are taken one
// after the other. Where the names or compensations differ from what is remembered, Step
// fails with ErrChanged, and a person is called; the way out is to deploy a version that
// takes the old steps, or to roll the transaction back.
//
// # Failing
//
// An error of the function rolls the transaction back: the compensations of its steps are
// called, the last first, each until it succeeds. An error that Is ErrRetry, and the end
// of the context, have the function called again instead. A step that fails for good
// (target.ErrFailed) had no effect; the function may go on another way. Its compensation
// is called all the same, also where the workflow succeeds: another run, or a copy of the
// request, may have had the effect. After any other error of a step nobody knows, so the
// workflow can only fail or be tried again.
package workflow
