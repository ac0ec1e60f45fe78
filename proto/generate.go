// Package proto holds the wire contracts. Run "go generate ./proto" after a
// change to a .proto file; the generated code is checked in.
package proto

//go:generate go tool -modfile=../tools/proto/go.mod buf lint
//go:generate go tool -modfile=../tools/proto/go.mod buf generate
