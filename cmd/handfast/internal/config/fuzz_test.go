package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Whatever a file and the environment hold, what is accepted passes its own check, and
// what is refused gives nothing.
func FuzzLoad(f *testing.F) {
	f.Add("shards: 1\nretention: 1d\nreflection: false\n", "HANDFAST_SHARDS=2\nPATH=/bin")
	f.Add("listen: ':1'\nadvertise: x\n", "HANDFAST_LISTEN")
	f.Add("shards: [1, 2]\nshards: 3", "HANDFAST_RETENTION=1e9h\nHANDFAST_RETENTION=")
	f.Add("a: &a [*a]\n? {b: c}\n: d", "HANDFAST_=1\n=\n==")
	f.Add("call-allow: [10.0.0.0/8, '*.example']\ncall-deny: 127.0.0.1", "HANDFAST_CALL_ALLOW=a,b,,c")
	f.Add("drain-timeout: 1e400\nshards: .nan", "HANDFAST_SHARDS=\xff")
	f.Fuzz(func(t *testing.T, yaml, environ string) {
		path := filepath.Join(t.TempDir(), "handfast.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		l := NewLoader(pflag.NewFlagSet("fuzz", pflag.ContinueOnError), Defaults())
		got, err := l.Load(path, strings.Split(environ, "\n"))
		switch {
		case err != nil && got != nil:
			t.Fatalf("both %+v and %v", got, err)
		case err != nil && (err.Error() == "" || len(err.Error()) > 64<<10):
			t.Fatalf("%d bytes of error", len(err.Error()))
		case err == nil && got.Server.check() != nil:
			t.Fatalf("%+v was accepted: %v", got.Server, got.Server.check())
		}
	})
}
