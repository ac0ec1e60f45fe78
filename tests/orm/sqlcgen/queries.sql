-- name: AddBalance :execrows
UPDATE accounts SET balance = balance + sqlc.arg(amount) WHERE id = sqlc.arg(id);

-- name: AddBalanceReturning :one
UPDATE accounts SET balance = balance + sqlc.arg(amount) WHERE id = sqlc.arg(id) RETURNING balance;

-- name: GetAccount :one
SELECT * FROM accounts WHERE id = $1;

-- name: ListEntries :many
SELECT * FROM entries WHERE account_id = $1 ORDER BY id;

-- name: CreateEntry :one
INSERT INTO entries (account_id, note) VALUES ($1, $2) RETURNING *;
