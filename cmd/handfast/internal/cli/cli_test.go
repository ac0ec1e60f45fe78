package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	handfastv1 "github.com/handfast/handfast/proto/handfast/v1"
)

// run runs one command and gives its exit code and what it wrote.
func run(t *testing.T, environ []string, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = Run(t.Context(), args, Streams{Out: &o, Err: &e, Environ: environ})
	return code, o.String(), e.String()
}

const (
	anXID    = "01jvqk5qqg000000000000000000000000000000000000000000000g"
	aUUID    = "123e4567-e89b-12d3-a456-426614174000"
	longText = 300
)

func TestWrongCallsExitWithTwoAndNameWhatIsWrong(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		args []string
		env  []string
		want []string
	}{
		"unknown command":        {args: []string{"serve"}, want: []string{`"serve"`, "version"}},
		"unknown subcommand":     {args: []string{"tx", "ls"}, want: []string{`"ls"`, "list", "watch"}},
		"unknown flag":           {args: []string{"version", "--jsno"}, want: []string{"--jsno"}},
		"stray argument":         {args: []string{"version", "now"}, want: []string{`"now"`}},
		"bad phase":              {args: []string{"tx", "list", "--phase", "done"}, want: []string{"--phase", `"done"`, "finished"}},
		"bad outcome":            {args: []string{"tx", "list", "--outcome", "ok"}, want: []string{"--outcome", "rolled-back"}},
		"bad resource":           {args: []string{"tx", "list", "--resource", "db1"}, want: []string{"--resource", "UUID"}},
		"bad since":              {args: []string{"tx", "list", "--since", "yesterday"}, want: []string{"--since", "10m"}},
		"limit of zero":          {args: []string{"tx", "list", "--limit", "0"}, want: []string{"--limit", "1 to 1000"}},
		"limit too large":        {args: []string{"tx", "list", "--limit", "1001"}, want: []string{"--limit", "1 to 1000"}},
		"limit not a number":     {args: []string{"tx", "list", "--limit", "x"}, want: []string{"--limit"}},
		"long name":              {args: []string{"tx", "list", "--name", strings.Repeat("n", longText)}, want: []string{"--name", "256"}},
		"no XID":                 {args: []string{"tx", "show"}, want: []string{"one XID"}},
		"malformed XID":          {args: []string{"tx", "show", "X"}, want: []string{"XID", "56"}},
		"two XIDs to watch":      {args: []string{"tx", "watch", "a", "b"}, want: []string{"at most one XID"}},
		"malformed watch":        {args: []string{"tx", "watch", "a"}, want: []string{"XID", "56"}},
		"long operator":          {args: []string{"tx", "commit", anXID, "--operator", strings.Repeat("o", longText)}, want: []string{"--operator", "256"}},
		"long cause":             {args: []string{"tx", "rollback", anXID, "--cause", strings.Repeat("c", 1025)}, want: []string{"--cause", "1024"}},
		"resolve without choice": {args: []string{"tx", "resolve", anXID, "--all"}, want: []string{"--restore", "--keep", "--edit"}},
		"two choices":            {args: []string{"tx", "resolve", anXID, "--all", "--keep", "--restore"}, want: []string{"one of them, got 2"}},
		"resolve no table":       {args: []string{"tx", "resolve", anXID, "--keep"}, want: []string{"--table", "--all"}},
		"resolve no key":         {args: []string{"tx", "resolve", anXID, "--keep", "--table", "t"}, want: []string{"--key"}},
		"resolve all of one":     {args: []string{"tx", "resolve", anXID, "--keep", "--all", "--table", "t"}, want: []string{"--all", "--table"}},
		"edit all":               {args: []string{"tx", "resolve", anXID, "--all", "--edit", "a=1"}, want: []string{"--edit", "one row"}},
		"edit without value":     {args: []string{"tx", "resolve", anXID, "--table", "t", "--key", "1", "--edit", "a"}, want: []string{"--edit", `"a"`, "column=value", "--null"}},
		"null of nothing":        {args: []string{"tx", "resolve", anXID, "--table", "t", "--key", "1", "--null", ""}, want: []string{"--null"}},
		"long why":               {args: []string{"tx", "resolve", anXID, "--all", "--keep", "--why", strings.Repeat("w", 1025)}, want: []string{"--why", "1024"}},
		"resolve resource":       {args: []string{"tx", "resolve", anXID, "--all", "--keep", "--resource", "db1"}, want: []string{"--resource", "UUID"}},
		"rows of show":           {args: []string{"tx", "show", anXID, "--rows", "0"}, want: []string{"--rows", "1 to 1000"}},
		"rows of a dry run":      {args: []string{"tx", "rollback", anXID, "--dry-run", "--rows", "1001"}, want: []string{"--rows", "1 to 1000"}},
		"json of a rollback":     {args: []string{"tx", "rollback", anXID, "--json"}, want: []string{"--json", "--dry-run"}},
		"server without port":    {args: []string{"status", "--server", "localhost"}, want: []string{"--server", "host:port"}},
		"server from env":        {args: []string{"status"}, env: []string{"HANDFAST_SERVER=localhost"}, want: []string{"--server", "host:port"}},
		"timeout without":        {args: []string{"status", "--timeout", "10"}, want: []string{"--timeout", "10s"}},
		"negative timeout":       {args: []string{"status", "--timeout=-1s"}, want: []string{"--timeout", "10s"}},
		"cert without key":       {args: []string{"status", "--tls-cert", "c"}, want: []string{"--tls-cert", "--tls-key"}},
		"adopt without yes":      {args: []string{"adopt"}, want: []string{"--yes"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, out, errOut := run(t, tc.env, tc.args...)
			if code != ExitUsage {
				t.Errorf("exit code %d, want %d", code, ExitUsage)
			}
			if out != "" {
				t.Errorf("standard output: %q", out)
			}
			for _, w := range append(tc.want, "--help") {
				if !strings.Contains(errOut, w) {
					t.Errorf("%q does not say %q", errOut, w)
				}
			}
		})
	}
}

func TestFailuresExitWithOneAndPrintNoUsage(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nobody listens":    {[]string{"status", "--server", "127.0.0.1:1"}, "no coordinator answers at 127.0.0.1:1"},
		"no such CA file":   {[]string{"status", "--tls-ca", "/nowhere.pem"}, "--tls-ca"},
		"no such cert file": {[]string{"status", "--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"}, "--tls-cert"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, _, errOut := run(t, nil, tc.args...)
			if code != ExitFailure {
				t.Errorf("exit code %d, want %d", code, ExitFailure)
			}
			if !strings.Contains(errOut, tc.want) || strings.Contains(errOut, "Usage") || strings.Count(errOut, "\n") != 1 {
				t.Errorf("standard error: %q", errOut)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, out, _ := run(t, nil, "version")
	if code != ExitOK || !strings.HasPrefix(out, "handfast ") {
		t.Errorf("%d, %q", code, out)
	}
	code, out, _ = run(t, nil, "version", "--json")
	var v versionInfo
	if err := json.Unmarshal([]byte(out), &v); code != ExitOK || err != nil || v.Go == "" || v.Platform == "" || v.Version == "" {
		t.Errorf("%d, %q, %v", code, out, err)
	}
}

func TestEveryCommandHasHelpAndRefusesUnknownFlags(t *testing.T) {
	t.Parallel()
	var visit func(path []string)
	visit = func(path []string) {
		root := newRoot(Streams{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}})
		cmd, _, err := root.Find(path)
		if err != nil {
			t.Fatal(err)
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%v: short help %q", path, cmd.Short)
		}
		if code, out, _ := run(t, nil, append(path, "--help")...); code != ExitOK || !strings.Contains(out, "Usage:") {
			t.Errorf("%v --help: exit code %d, %q", path, code, out)
		}
		if code, _, _ := run(t, nil, append(path, "--no-such-flag")...); code != ExitUsage {
			t.Errorf("%v --no-such-flag: exit code %d", path, code)
		}
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				visit(append(append([]string{}, path...), c.Name()))
			}
		}
	}
	visit(nil)
}

// What a coordinator says may come from services and databases.
func TestARefusalDoesNothingToATerminal(t *testing.T) {
	t.Parallel()
	env := serveFake(t, &fakeAdmin{err: status.Error(codes.Aborted, "rolled back: \x1b[2J\nhandfast: all is well")})
	code, _, errOut := run(t, env, "tx", "rollback", anXID)
	if code != ExitFailure || errOut != "handfast: rolled back: ?[2J handfast: all is well\n" {
		t.Errorf("code %d, %q", code, errOut)
	}
}

// The command that is proposed is pasted into a shell, and its parts come from services.
func TestAProposedCommandIsQuoted(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	err := hint(&b, "x", "$(r)", &handfastv1.RowDiff{Table: "public.t", Key: []string{"1", "a b"}, Seen: "s; it's"})
	const want = `handfast tx resolve x --resource '$(r)' --table public.t --key 1 --key 'a b' --seen 's; it'\''s' --restore`
	if err != nil || !strings.Contains(b.String(), want) {
		t.Errorf("%s, %v", b.String(), err)
	}
	// The row "a?b" is another one than this.
	for _, key := range []string{"a\nb", "a\x1bb", "a\u00a0b", "a\xffb"} {
		b.Reset()
		err := hint(&b, "x", "r", &handfastv1.RowDiff{Table: "public.t", Key: []string{key}, Seen: "s"})
		if err != nil || strings.Contains(b.String(), "tx resolve") || !strings.Contains(b.String(), "--json") {
			t.Errorf("%q: %s, %v", key, b.String(), err)
		}
	}
}

func TestCleanTakesTheTeethOutOfForeignText(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":           "plain",
		"a\x1b[31mred":    "a?[31mred",
		"two\nlines\tand": "two lines and",
		"bad\xffutf8":     "bad?utf8",
		"grüße":           "grüße",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}
