// Package natsjs publishes messages into NATS JetStream, for package message/broker. It
// is a module of its own, so that only its users have NATS among their dependencies.
//
//	nc, err := nats.Connect(url, nats.MaxReconnects(-1))
//	js, err := jetstream.New(nc)
//	detach, err := broker.Register(handlers.New("brokers"), natsjs.New(js)).Attach(client)
//
//	broker.To("brokers", "orders.placed", ...)       Publisher              JetStream
//	  decided: TC --- Call ---> group "brokers" ----> headers,     ------> stream that has
//	                                                  Nats-Msg-Id          the subject
//	           TC <-- DONE ---------------------------- acknowledgement <--- stored
//	           TC <-- UNSURE, with the reason --------- everything else
//
// # Once, or again
//
// Nats-Msg-Id is the key of the call, the same for every attempt. A stream drops what has
// an ID that it has seen within its duplicate window (Duplicates of the stream, 2 minutes
// by default), also across restarts of the server. So within the window a message is
// in the stream once, whatever was lost on the way. An attempt that comes after it, because
// an acknowledgement was lost and then the coordinator, the publishers or NATS were away
// for longer, is a second message. Set the window to the longest outage that should go
// unnoticed; it costs memory for each message in it. What has to happen once in any
// case is fenced by the consumer:
//
//	call, err := fence.FromValues(msg.Headers().Values)
//	out, err := fence.Run(ctx, pool, call, effect)
//
// # What an acknowledgement is worth
//
// With it the delivery is done, and is not tried again. JetStream acknowledges
// when the stream's leader, and with replicas a majority, has the message; a server
// writes to disk at once and syncs every sync_interval, 2 minutes by default. One server
// alone can lose acknowledged messages with its power; three replicas, or
// sync_interval: always, keep them. A stream with NoAck acknowledges nothing, and one
// in memory keeps nothing.
//
// # What needs a person
//
// The delivery goes on being tried and is flagged at the first attempt where the server
// says that it will not take the message: it is larger than max_payload, with its
// headers, or than the stream's MaxMsgSize; no stream has the subject; the subject is
// malformed; an expectation in the headers is not met. Everything else is flagged after
// some attempts (target.RetryPolicy.AttentionAfter): no connection, no answer, as where
// the user may not publish to the subject, a stream that is full. A payload of
// target.MaxPayload does not fit into NATS's default of 1 MiB together with its
// headers, about 500 bytes and those of the target.
package natsjs
