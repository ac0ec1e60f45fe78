//go:build !linux

package pgserver

func roomInMemory() bool { return false }
