package core

// Lanes counts the lanes that a machine knows.
func (m *Machine) Lanes() int { return len(m.resources) }
