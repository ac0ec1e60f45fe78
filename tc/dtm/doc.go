// Package dtm serves the clients of DTM (github.com/dtm-labs/dtm), unmodified, on the
// coordinator: their wire contract in front, the one core behind it.
//
//	DTM's clients                                                     branches
//	  HTTP 36789 ─┐  request    ┌─────────┐  core.Input   ┌────────┐  core.Call
//	  JSON-RPC  ──┼───────────► │ Service │ ────────────► │ engine │ ───────────► package
//	  gRPC 36790 ─┘ ◄────────── └─────────┘ ◄──────────── └────────┘              tc/caller,
//	        answer, or a refusal     │ view of a core.Transaction                 in DTM's
//	                                 └─ gid ─► XID: store.Lookup                  dialect
//
// It has no state machine and no store of its own. A global transaction of DTM is a
// transaction of the core that was begun under the gid as its key, with what DTM's
// options say as its note; the table says what its branches are.
//
//	DTM        begun by               branches                       decided by
//	saga       submit                 Forward action,                the answers of actions
//	                                  Rollback compensate
//	msg        prepare                "00" asks query_prepared       submit, abort or "00"
//	           or submit              Commit action, one each        at once
//	tcc        prepare                Commit confirm,                submit, abort, timeout
//	                                  Rollback cancel
//	xa         prepare                the same with commit and       submit, abort, timeout
//	                                  rollback at one URL
//	workflow   prepareWorkflow        "00" calls the workflow back   submit
//	                                  one for each step's result
//
// The contract, and what DTM does where it is silent, was read from the sources of
// dtm-labs/dtm v1.19.0 and dtm-labs/client v1.17.3. Where this package answers better,
// docs/from-dtm.md says so.
package dtm
