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
		"tls-cert": "c.pem", "tls-key": "k.pem", "tls-ca": "a.pem", "payload-memory": "1536MiB",
		"call-allow": "shop.example, *.pay.example,10.1.0.0/16", "call-deny": "10.1.2.3", "call-link-local": "true",
		"call-tls-ca": "ca.pem", "call-tls-cert": "cc.pem", "call-tls-key": "ck.pem",
		"call-max": "11", "call-max-per-host": "12", "call-max-waiting": "13", "call-dial-timeout": "2s",
		"dtm": "true", "dtm-http": "127.0.0.1:7", "dtm-grpc": "127.0.0.1:8",
	}
	want := Server{Listen: "127.0.0.1:9", StoreDir: "/x y'z", Shards: 5, Retention: 72 * time.Hour, DefaultTimeout: 90 * time.Second,
		DrainTimeout: 7 * time.Second, LogFormat: "json", LogLevel: "debug", TLSCert: "c.pem", TLSKey: "k.pem", TLSCA: "a.pem",
		PayloadMemory: 3 << 29,
		Calls: Calls{Allow: "shop.example, *.pay.example,10.1.0.0/16", Deny: "10.1.2.3", LinkLocal: true, TLSCA: "ca.pem", TLSCert: "cc.pem", TLSKey: "ck.pem",
			Max: 11, MaxPerHost: 12, MaxWaiting: 13, DialTimeout: 2 * time.Second},
		DTM: DTM{Serve: true, HTTP: "127.0.0.1:7", GRPC: "127.0.0.1:8"}}
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
		"unknown key":                {yaml: "shard: 3\n", want: []string{"handfast.yaml: shard", "no such setting", "shards"}},
		"nested key":                 {yaml: "tls:\n  cert: x\n", want: []string{"handfast.yaml: tls", "no such setting", "tls-cert"}},
		"list":                       {yaml: "listen: [a, b]\n", want: []string{"handfast.yaml: listen", "one value"}},
		"no value":                   {yaml: "listen:\n", want: []string{"handfast.yaml: listen", "no value"}},
		"not YAML":                   {yaml: "listen: [\n", want: []string{"handfast.yaml", "line"}},
		"bad duration in file":       {yaml: "retention: soon\n", want: []string{"handfast.yaml: retention", `"soon"`, "7d"}},
		"bare number of seconds":     {yaml: "retention: 60\n", want: []string{"handfast.yaml: retention", `"60"`, "90s"}},
		"negative duration":          {env: "HANDFAST_DEFAULT_TIMEOUT=-1s", want: []string{"HANDFAST_DEFAULT_TIMEOUT", "outside", "12h"}},
		"huge timeout":               {env: "HANDFAST_DEFAULT_TIMEOUT=13h", want: []string{"HANDFAST_DEFAULT_TIMEOUT", "outside", "12h"}},
		"empty variable":             {env: "HANDFAST_SHARDS=", want: []string{"HANDFAST_SHARDS", "whole number"}},
		"empty directory":            {env: "HANDFAST_STORE_DIR=", want: []string{"HANDFAST_STORE_DIR", "empty"}},
		"bad bool":                   {env: "HANDFAST_REFLECTION=maybe", want: []string{"HANDFAST_REFLECTION", "true nor false"}},
		"bad flag":                   {args: []string{"--log-format=xml"}, want: []string{"--log-format", "text, json"}},
		"bad address":                {args: []string{"--listen=4263"}, want: []string{"--listen", "host:port"}},
		"bad port":                   {args: []string{"--listen=:70000"}, want: []string{"--listen", "65535"}},
		"key without cert":           {args: []string{"--tls-key=k"}, want: []string{"tls-key", "tls-cert"}},
		"cert without key":           {args: []string{"--tls-cert=c"}, want: []string{"tls-key", "tls-cert"}},
		"size without unit of bytes": {args: []string{"--payload-memory=2GB"}, want: []string{"--payload-memory", `"2GB"`, "2GiB"}},
		"size that nothing fits in":  {env: "HANDFAST_PAYLOAD_MEMORY=1MiB", want: []string{"HANDFAST_PAYLOAD_MEMORY", "1MiB", "16MiB"}},
		"negative size":              {yaml: "payload-memory: -5\n", want: []string{"handfast.yaml: payload-memory", `"-5"`}},
		"huge size":                  {env: "HANDFAST_PAYLOAD_MEMORY=99999999999TiB", want: []string{"HANDFAST_PAYLOAD_MEMORY", "size"}},
		"bad network":                {env: "HANDFAST_CALL_DENY=10.0.0.0/8,10.0.0.0/99", want: []string{"HANDFAST_CALL_DENY", "10.0.0.0/99"}},
		"host with a port":           {args: []string{"--call-allow=shop.example:443"}, want: []string{"--call-allow", "shop.example:443"}},
		"DTM's word for it":          {args: []string{"--callback-allow=shop.example:443"}, want: []string{"--call-allow", "shop.example:443"}},
		"hole in a list":             {args: []string{"--call-allow=a,,b"}, want: []string{"--call-allow", `""`}},
		"empty list":                 {yaml: "call-allow: []\n", want: []string{"handfast.yaml: call-allow", "empty list"}},
		"list of lists":              {yaml: "call-allow: [a, [b]]\n", want: []string{"handfast.yaml: call-allow", "element 2"}},
		"no calls at all":            {args: []string{"--call-max=0"}, want: []string{"--call-max", "outside"}},
		"certificate without key":    {args: []string{"--call-tls-cert=c"}, want: []string{"call-tls-key", "call-tls-cert"}},
		"key without certificate":    {args: []string{"--call-tls-key=k"}, want: []string{"call-tls-key", "call-tls-cert"}},
		"authority without cert":     {args: []string{"--tls-ca=c"}, want: []string{"tls-ca", "tls-cert"}},
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

func TestAListInTheFileIsTheSameAsOneWithCommas(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]string{
		"call-allow: [shop.example, 10.0.0.0/8]\n":                   "shop.example,10.0.0.0/8",
		"call-allow:\n  - shop.example\n  - '*.pay.example'\n":       "shop.example,*.pay.example",
		"call-allow: ' shop.example , 10.0.0.0/8 '\n":                "shop.example,10.0.0.0/8",
		"call-allow: '*.example'\ncall-deny: [127.0.0.0/8, '::1']\n": "*.example",
	} {
		got, err := load(t, yaml, nil)
		if err != nil {
			t.Errorf("%s: %v", yaml, err)
			continue
		}
		if list := strings.Join(SplitList(got.Server.Calls.Allow), ","); list != want {
			t.Errorf("%s: got %q, want %q", yaml, list, want)
		}
		if again, err := load(t, got.String(), nil); err != nil || again.Server != got.Server {
			t.Errorf("%s: printed settings load as %+v, %v", yaml, again, err)
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "5": 5, "5B": 5, "16MiB": 16 << 20, "2GiB": 2 << 30, "3KiB": 3 << 10, "1TiB": 1 << 40, "1025B": 1025,
	} {
		got, err := ParseSize(text)
		if err != nil || got != want {
			t.Errorf("ParseSize(%q) = %v, %v", text, got, err)
		}
		back, err := ParseSize(FormatSize(want))
		if err != nil || back != want {
			t.Errorf("FormatSize(%v) = %q, which reads as %v, %v", want, FormatSize(want), back, err)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "1GB", "1 GiB", "8388608TiB", "9223372036854775808"} {
		if n, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %v, want an error", text, n)
		}
	}
}
