// Package shopv1 is what the services of the demo say to each other. Run
// "go generate" here after a change to shop.proto.
package shopv1

//go:generate go tool -modfile=../../../../../tools/proto/go.mod buf generate
