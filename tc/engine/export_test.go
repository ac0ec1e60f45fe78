package engine

// DefaultHeld is defaultHeld, for tests.
var DefaultHeld = defaultHeld
