package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load runs a Loader over the three sources; yaml "" means no file.
func load(t *testing.T, yaml string, environ []string, args ...string) (*Loaded, error) {
	t.Helper()
	path := ""
	if yaml != "" {
		path = filepath.Join(t.TempDir(), "handfast.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	l := NewLoader(fs, Defaults())
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	return l.Load(path, environ)
}

func TestDefaultsHoldWhenNothingIsSet(t *testing.T) {
	t.Parallel()
	got, err := load(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Server != Defaults() {
		t.Errorf("got %+v, want the defaults", got.Server)
	}
}

func TestFlagsWinOverEnvironmentWinsOverFile(t *testing.T) {
	t.Parallel()
	const yaml = "shards: 1\nretention: 1d\ndrain-timeout: 1s\nreflection: false\n"
	env := []string{"HANDFAST_SHARDS=2", "HANDFAST_RETENTION=2d", "PATH=/bin"}
	got, err := load(t, yaml, env, "--shards=3")
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Shards = 3
	want.Retention = 48 * time.Hour
	want.DrainTimeout = time.Second
	want.Reflection = false
	if got.Server != want {
		t.Errorf("got  %+v\nwant %+v", got.Server, want)
	}
}

// Every setting must arrive from every source: a name that one source spells
// differently would be ignored there in silence.
func TestEverySettingArrivesFromEverySource(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"listen": "127.0.0.1:9", "store-dir": "/x y'z", "shards": "5", "retention": "3d", "default-timeout": "90s",
		"drain-timeout": "7s", "log-format": "json", "log-level": "debug", "reflection": "false",
		"tls-cert": "c.pem", "tls-key": "k.pem", "tls-ca": "a.pem",
	}
	want := Server{Listen: "127.0.0.1:9", StoreDir: "/x y'z", Shards: 5, Retention: 72 * time.Hour, DefaultTimeout: 90 * time.Second,
		DrainTimeout: 7 * time.Second, LogFormat: "json", LogLevel: "debug", TLSCert: "c.pem", TLSKey: "k.pem", TLSCA: "a.pem"}
	var yaml strings.Builder
	var env, flags []string
	var zero Server
	for _, s := range settings(&zero) {
		v, ok := values[s.name]
		if !ok {
			t.Fatalf("setting %s is not tested", s.name)
		}
		yaml.WriteString(s.name + ": " + quote(v) + "\n")
		env = append(env, EnvName(s.name)+"="+v)
		flags = append(flags, "--"+s.name+"="+v)
	}
	for name, f := range map[string]func() (*Loaded, error){
		"file":        func() (*Loaded, error) { return load(t, yaml.String(), nil) },
		"environment": func() (*Loaded, error) { return load(t, "", env) },
		"flags":       func() (*Loaded, error) { return load(t, "", nil, flags...) },
	} {
		got, err := f()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.Server != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got.Server, want)
		}
		// What --print-config shows is a file that gives the same settings.
		again, err := load(t, got.String(), nil)
		if err != nil {
			t.Fatalf("%s: printed settings do not load: %v\n%s", name, err, got)
		}
		if again.Server != want {
			t.Errorf("%s: printed settings load as %+v", name, again.Server)
		}
	}
}

func TestErrorsNameTheSettingAndItsPlace(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		yaml string
		env  string
		args []string
		want []string
	}{
		"unknown key":            {yaml: "shard: 3\n", want: []string{"handfast.yaml: shard", "no such setting", "shards"}},
		"nested key":             {yaml: "tls:\n  cert: x\n", want: []string{"handfast.yaml: tls", "no such setting", "tls-cert"}},
		"list":                   {yaml: "listen: [a, b]\n", want: []string{"handfast.yaml: listen", "one value"}},
		"no value":               {yaml: "listen:\n", want: []string{"handfast.yaml: listen", "no value"}},
		"not YAML":               {yaml: "listen: [\n", want: []string{"handfast.yaml", "line"}},
		"bad duration in file":   {yaml: "retention: soon\n", want: []string{"handfast.yaml: retention", `"soon"`, "7d"}},
		"bare number of seconds": {yaml: "retention: 60\n", want: []string{"handfast.yaml: retention", `"60"`, "90s"}},
		"negative duration":      {env: "HANDFAST_DEFAULT_TIMEOUT=-1s", want: []string{"HANDFAST_DEFAULT_TIMEOUT", "outside", "12h"}},
		"huge timeout":           {env: "HANDFAST_DEFAULT_TIMEOUT=13h", want: []string{"HANDFAST_DEFAULT_TIMEOUT", "outside", "12h"}},
		"empty variable":         {env: "HANDFAST_SHARDS=", want: []string{"HANDFAST_SHARDS", "whole number"}},
		"empty directory":        {env: "HANDFAST_STORE_DIR=", want: []string{"HANDFAST_STORE_DIR", "empty"}},
		"bad bool":               {env: "HANDFAST_REFLECTION=maybe", want: []string{"HANDFAST_REFLECTION", "true nor false"}},
		"bad flag":               {args: []string{"--log-format=xml"}, want: []string{"--log-format", "text, json"}},
		"bad address":            {args: []string{"--listen=4263"}, want: []string{"--listen", "host:port"}},
		"bad port":               {args: []string{"--listen=:70000"}, want: []string{"--listen", "65535"}},
		"key without cert":       {args: []string{"--tls-key=k"}, want: []string{"tls-key", "tls-cert"}},
		"cert without key":       {args: []string{"--tls-cert=c"}, want: []string{"tls-key", "tls-cert"}},
		"authority without cert": {args: []string{"--tls-ca=c"}, want: []string{"tls-ca", "tls-cert"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var env []string
			if tc.env != "" {
				env = []string{tc.env}
			}
			_, err := load(t, tc.yaml, env, tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	_, err := NewLoader(fs, Defaults()).Load("/nowhere/handfast.yaml", nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/handfast.yaml: no such file") {
		t.Errorf("got %v", err)
	}
}

func TestSettingLeftOutIsUnknownEverywhere(t *testing.T) {
	t.Parallel()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	l := NewLoader(fs, Defaults(), "store-dir")
	if fs.Lookup("store-dir") != nil {
		t.Error("there is a flag")
	}
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte("store-dir: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var unknown *Error
	if _, err := l.Load(path, nil); !errors.As(err, &unknown) || unknown.Setting != "store-dir" {
		t.Errorf("file: got %v", err)
	}
	got, err := l.Load("", []string{"HANDFAST_STORE_DIR=/x"})
	if err != nil || got.Server.StoreDir != Defaults().StoreDir {
		t.Errorf("environment: got %v, %v", got, err)
	}
	if strings.Contains(got.String(), "store-dir") {
		t.Error("it is printed")
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"7d": 7 * day, "0d": 0, "1m30s": 90 * time.Second, "1h": time.Hour, "250ms": 250 * time.Millisecond, "12h": 12 * time.Hour,
	} {
		got, err := ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v", text, got, err)
		}
		back, err := ParseDuration(FormatDuration(want))
		if err != nil || back != want {
			t.Errorf("FormatDuration(%v) = %q, which reads as %v, %v", want, FormatDuration(want), back, err)
		}
	}
	for _, text := range []string{"", "d", "-1d", "1.5d", "5", "1w", "99999999d", "1e3d"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, d)
		}
	}
}
