// Package containers runs Handfast as it is deployed: every part in a container of
// its own, reached over the network only.
//
//	this test --HTTP--> order ---HTTP with the XID---> stock, account
//	    |                 |                              |        |
//	    | docker kill,    +------------- gRPC -----------+--------+--> coordinator (FROM scratch)
//	    | pause, start    |                              |        |        |
//	    +--SQL--> Postgres "order"            Postgres "stock"  "account"  volume
//
// It is a module of its own, so that its dependencies never reach users of
// Handfast. It needs an engine for containers; without one it says so and is
// skipped, unless HANDFAST_REQUIRE_CONTAINERS=1 makes that a failure.
// HANDFAST_TEST_POSTGRES_IMAGE names the Postgres image, by default
// postgres:15-bookworm.
package containers
