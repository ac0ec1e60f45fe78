//go:build !linux

package pgserver

func inMemory() string { return "" }
