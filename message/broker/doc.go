// Package broker delivers messages into a message broker: to a subject, from which any
// number of consumers take them. With package message or rm.Publish a message gets
// there if, and only if, a transaction committed, without an outbox table and without
// somebody who polls it.
//
//	decided                         any process that has the group        broker
//	  TC --- Call "publish" -----> handlers.Group ---> Publisher --- publish ---> subject
//	   |     subject, payload,         |                   ^                        |
//	   |     identity                  |                   +--- acknowledged -------+
//	   |<---- DONE --------------------+                   |                        |
//	   |<---- UNSURE: again later -----+------ error ------+                        v
//	                                                                            consumer
//	                                                        fence.Run(call)
//
// The sender names the group and the subject (To). Whoever has a connection to the
// broker registers a Publisher on that group and attaches it (Register); this may be
// the sender itself, and should be more than one process. The coordinator has no
// connection to any broker. Package message/natsjs, a module of its own, is the
// Publisher for NATS JetStream.
//
// # At least once
//
// A delivery is done when the broker has acknowledged it, and lasts as well as the broker
// keeps what it acknowledges. Where the acknowledgement is lost the message is published
// again, with the same Msg.ID. A broker that knows IDs drops the repetition, for as long
// as it remembers them; after that, and at other brokers, consumers get it twice. The
// headers say that it is the same: they are those that a call over HTTP has, and
//
//	call, err := fence.FromValues(values) // of the message's headers
//	out, err := fence.Run(ctx, pool, call, effect)
//
// makes one effect of all. Messages are not ordered: one that had to be tried again
// comes after others that were decided later.
//
// # What the broker refuses
//
// Once decided, a message can't be taken back. So one that the broker refuses, because it
// is too large or because nothing takes its subject, is neither dropped nor rolled back:
// it is tried until it succeeds, and needs attention. LAST ANSWER of "handfast tx show"
// says why. Mend the broker, and the message goes out with the next attempt, at the
// latest after the longest pause (target.RetryPolicy.Max, 30 s).
//
// As a step of a saga, too, a refusal is no failure that rolls back: an earlier attempt
// may have arrived, and its answer been lost. RetryPolicy.Attempts bounds the attempts
// there; then the step is compensated like any that may have happened.
package broker
