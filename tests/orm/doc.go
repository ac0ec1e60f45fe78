// Package orm runs code that is written for database/sql, or for pgx, on
// Handfast: GORM, sqlx, bun, ent and the output of sqlc, none of which knows of
// it. Each does the same work, which is committed, rolled back, and meets a row
// that somebody else holds.
//
//	suite_test.go: what is done and checked
//	     |
//	     +--> gorm, sqlx, bun, ent, sqlc/std --> *sql.DB of rmsql --+--> rm.Pool
//	     +--> sqlc/pgx ---------------------------------------------+
//
// It is a module of its own, so that its dependencies never reach users of
// Handfast.
package orm
