// Command reliability writes docs/reliability.md: what is promised, how it is tested, what
// was measured, what was not, and every fault that was found.
//
//	go run ./tools/reliability                  write the page
//	go run ./tools/reliability -check           fail if it is not what would be written
//	go run ./tools/reliability -run sim,crash   run these suites before; all: every one
//	go run ./tools/reliability -list            the suites, and how long each takes
//
//	docs/guarantees.md ────────── promises ──┐
//	docs/reliability/suites.yaml ─ commands ─┤
//	               │ -run                    ├──► docs/reliability.md
//	               ▼                         │
//	docs/reliability/NAME.json ── figures ───┤
//	docs/reliability/faults.yaml ────────────┤
//	docs/reliability/untested.yaml ──────────┘
//
// The page holds no number that no file holds. A suite without figures is shown as not
// measured yet, and one whose run was not clean with what went wrong.
package main
