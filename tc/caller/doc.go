// Package caller makes the calls of the coordinator itself: it takes [core.Call] whose
// target is HTTP or GRPC, and answers each with exactly one [core.Called].
//
//	engine                        Caller                               services
//	core.Call ──► Call ─┬─► line of host a ─┬─► 64 at a time ── POST ──────► a:8080
//	              never │   (1,024 wait)    │   ┐
//	              waits ├─► line of host b ─┤   ├ 4,096 in all ── unary ───► b:9090
//	                    │                   │   ┘                 gRPC
//	                    └── full: Unsure    └── waits for half its timeout: Unsure
//	core.Called ◄─────────────────────────────── answer, refusal or timeout
//
// # Answers
//
// In Handfast's own dialect:
//
//	HTTP                      gRPC                  verdict
//	2xx, and all of its body  OK                    Done; what came is the result
//	409                       ABORTED               Failed: for good, and nothing was done
//	425                       FAILED_PRECONDITION   NotYet: ask again later
//	all else, and no answer   all else              Unsure: it may have happened, or not
//
// An error that a service merely passes on must not look like its own word. Handfast's own
// errors, which are ABORTED or FAILED_PRECONDITION with the ErrorInfo of domain
// "handfast", are therefore Unsure; those of others look like the service's. A 409 counts
// as soon as its header has come: the body is only the reason. A 2xx whose body breaks off
// does not count, for a service that fails half way looks like that.
//
// A result has at most 64 KiB (MaxResult). The effect behind a longer one has happened,
// but "done" with half a result, or without it, would show far away, in a later step, or
// never. So it is Unsure, and needs attention at once; a forward action with a limit of
// attempts is compensated in the end.
//
// What says that the request itself is wrong needs attention at once, and is tried again
// only after the longest pause: 3xx (redirects are not followed), 4xx but for 408, 421,
// 423, 424 and 429, 501 and 505; INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,
// PERMISSION_DENIED, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED, DATA_LOSS; a
// certificate that is not trusted; an address, a header or a reference that can't be used.
//
// # What is sent
//
// HTTP is a POST of the payload as it is, but for references (package refs), with the type
// that the action's headers give, or else application/json where it is JSON. A gRPC
// address is host:port/package.Service/Method, in plain text, or with grpcs:// before it,
// under TLS; the payload is the encoded request. Along go the headers of package
// [github.com/handfast/handfast/xid/action], and never an XID that the service would take
// for that of its own context.
//
// A call takes its timeout at most, from Call to the last byte of the answer. The same
// attempt goes out twice when a kept connection turns out to be closed.
//
// # DTM's dialect
//
// An action may say that it is to be called as DTM's server would (core.DialectDTM, and
// core.DialectDTMRPC for JSON-RPC), for branches that have DTM's barrier behind them.
//
//	                HTTP                         gRPC              JSON-RPC
//	who and what    query: gid, trans_type,      metadata dtm-gid  params: gid ...,
//	                branch_id, op, added to      ..., and dtm-dtm  in the payload, which
//	                what is there                without a value   has to be an object
//	request         POST, and GET where there    the payload       POST to the URL, whose
//	                is no payload; XA and        as it is          query names the method
//	                workflow always POST
//	Done            200                          OK                no error
//	Failed          409, or FAILURE in the body  ABORTED           -32901
//	NotYet          425, or ONGOING in the body  FAILED_PRECOND.,  -32902
//	                                             ABORTED: ONGOING
//	Unsure          all else                     all else          all else, and no JSON
//
// The gid is the name that the transaction's caller gave it, or else its XID; the branch is
// its name where the caller gave one, or else its ID. trans_type is saga, msg, tcc, xa or
// workflow. op is Action.Verb, or else: action and compensate of a saga; action of a
// message; try, confirm and cancel of TCC; commit and rollback of XA.
//
// None of Handfast's headers goes along. References are none here, and stay as they are.
// No address is a call that is done. There is never a result. Redirects of HTTP are
// followed, up to 10, each to where calls may go; they count as calls to the first host.
// The words go before the status, and ONGOING before FAILURE; over JSON-RPC the rules of
// HTTP go first. A body is read up to 4 MiB and not kept, but for JSON-RPC. One that is
// longer or breaks off is Unsure, with 409 and 425 excepted.
//
// Only a step, a try and the question to a sender may be refused: a Failed of all else is
// Unsure. No answer needs attention at once, since DTM tries them all again alike; what
// can't be sent, or may not be, does.
//
// Of a workflow nobody but its client knows how it ends: when its service is called back,
// 200 and OK are NotYet, and all else is Unsure.
//
// # Limits
//
// Hosts do not delay each other: each host and port has a line of its own and at most a
// share of the calls under way. When three quarters of those are taken, the rest goes to
// hosts that have none. Every line, answer, header and connection pool is bounded.
//
// Link-local addresses and those where clouds tell machines their secrets are refused when
// a connection is made, after the name was resolved; Config.Allow narrows further:
// Rules makes one of what is allowed and what is denied.
//
// A gRPC connection goes to one address of its host at a time. To spread calls over many,
// put a balancer in between.
package caller
