// Package bench is what the examples run on, so that each of them shows only what it is
// about. All of it lives in the example's process, and ends with it:
//
//	Main ─► Run ─► Postgres, private and on a free port
//	               coordinator on loopback, its store in a temporary directory
//	               stage(ctx, bench) ── what the example does
//	                 │ Database    with the schema handfast, and protected tables
//	                 │ Pool, Plain connections to it, with and without Handfast
//	                 │ Serve       an HTTP service
//	                 │ Show        what plain sessions see in all databases
//	                 │ Log         what services log
//	                 └ Undone, Settled  wait until what was decided is carried out
//
// It does what "handfast server", "handfast pg install" and "handfast pg protect" do. A
// service has none of this.
package bench
