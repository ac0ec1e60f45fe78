// Package pgtest gives each test an empty PostgreSQL database.
//
//	TestMain ─► Run ─► one private server per test process, in memory where there is room
//	                   (or HANDFAST_TEST_DSN)
//	test     ─► DSN(t) ─► CREATE DATABASE, or one that is emptied ... and emptied when the test ends
package pgtest
