// Package api is what the services of the container suite and its tests send
// each other, as JSON over HTTP.
package api

// How an order ended.
const (
	Committed  = "committed"
	RolledBack = "rolled back"
)

// Change adds to one counter.
type Change struct {
	ID     string `json:"id"`
	Delta  int    `json:"delta"`
	Refuse bool   `json:"refuse,omitempty"` // fail after the row was changed
}

// Call is a change at another service.
type Call struct {
	URL    string `json:"url"`
	Change Change `json:"change"`
}

// Order is one global transaction.
type Order struct {
	Name  string `json:"name"`
	Own   Change `json:"own"`
	Calls []Call `json:"calls"`
	Hold  bool   `json:"hold,omitempty"` // wait before the end until released
	Fail  bool   `json:"fail,omitempty"` // fail at the end
}

// Ended tells how an order ended.
type Ended struct {
	XID     string `json:"xid"`
	Outcome string `json:"outcome"`
	Error   string `json:"error,omitempty"`
}
