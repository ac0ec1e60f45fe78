// Package core is the commit protocol.
package core
