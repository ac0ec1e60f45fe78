// Package chaos has no code but tests: a bank and a shop work on real parts while these
// are killed, stopped, cut off and run out of disk, and then the books have to be right.
//
//	                    .---------- proxies ----------.
//	caller (process) ---|--> coordinator (binary) ----|--> services a, b (processes)
//	   |                |         ^                   |      |        |
//	   |                |         '--- sessions ------|------'        |
//	   |                '--> Postgres a, b (servers) <|---------------'
//	   | told: XID, outcome
//	   v
//	file ------------------------.
//	coordinator: list, outcome --+--> judge <-- SQL, past the proxies
//	faults, from a seed ---------'      |
//	                                    '--> what is wrong: XIDs, faults with times, logs
//
// Time goes in rounds. In each, faults come for a while, several at once, with pauses of
// health; then everything is healed, and the world has to come to rest by itself, within
// a bound. At rest no row is undecided, no transaction is open or prepared, no sum has
// changed, each transaction that the coordinator knows has left all of its marks once, or
// none, as it was decided, and whoever was told an outcome was told that one. Marks are
// cleared after each round, so that memory and disk stay bounded, and a mark that comes
// later is one too many. All the time, a reader looks for half of a transaction.
//
// Some transactions come the way of DTM's clients: a saga, TCC, and a message with a local
// transaction, over DTM's API in HTTP, JSON-RPC and gRPC, to the same services, which have
// a barrier then and not the fence. A request whose answer is lost is sent again, under
// the same gid, and what is told then has to be true as well.
//
//	caller --- DTM's API, proxies ---> coordinator --- gid, branch_id, op, proxies ---> services
//	                                        '--------- query_prepared, proxies -------> service a
//
// Whether the judgement can fail is tried with faults in the services themselves, such as
// a fence or a barrier that is left out, and with a coordinator that loses its store.
//
// What needs root on Linux is left out elsewhere: a disk that is full (a small file system
// in memory), and packets that the kernel loses (iptables). The seed gives the same faults
// in the same order; what they meet is another matter each time. On a failure the faults
// with their times, the transactions and the ends of all logs are printed, and the store
// is kept.
//
//	go test ./tests/chaos -run Chaos -chaos 2m -v                    # processes
//	go test ./tests/chaos -run Chaos -chaos 2m -chaos.containers -v  # Postgres and coordinator in Docker
//	go test ./tests/chaos -run Chaos -chaos.kinds kill,full -v       # only these faults
package chaos
