package config

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
)

// EnvPrefix begins the name of every environment variable.
const EnvPrefix = "HANDFAST_"

// EnvName is the environment variable of a setting: HANDFAST_STORE_DIR for store-dir.
func EnvName(setting string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(setting, "-", "_"))
}

// Loader reads the settings of a server from all sources.
type Loader struct {
	defaults Server
	flags    *pflag.FlagSet
	names    []string
}

// NewLoader adds one flag per setting to flags, with these defaults.
// Settings named in without get no flag and are not read from anywhere.
func NewLoader(flags *pflag.FlagSet, defaults Server, without ...string) *Loader {
	l := &Loader{defaults: defaults, flags: flags}
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		// What is called here, DTM's users know as callbacks.
		return pflag.NormalizedName(strings.Replace(name, "callback-", "call-", 1))
	})
	shown := defaults
	for _, s := range settings(&shown) {
		if slices.Contains(without, s.name) {
			continue
		}
		f := flags.VarPF(s.value, s.name, "", s.usage)
		if s.value.Type() == "bool" {
			f.NoOptDefVal = "true"
		}
		l.names = append(l.names, s.name)
	}
	return l
}

// Loaded is the result of Load.
type Loaded struct {
	Server  Server
	sources map[string]string
	names   []string
}

// Load reads the file, if path is not empty, then the environment, given as
// in os.Environ, then the flags, which must have been parsed. The error is an
// *Error when one setting is to blame.
//
// An unknown key in the file is an error. An unknown variable is not: other
// tools share the prefix, and Kubernetes makes HANDFAST_PORT and the like for
// a service of that name.
func (l *Loader) Load(path string, environ []string) (*Loaded, error) {
	k := koanf.New(".")
	sources := make(map[string]string)
	if path != "" {
		if err := l.loadFile(k, path, sources); err != nil {
			return nil, err
		}
	}
	if err := l.loadEnv(k, environ, sources); err != nil {
		return nil, err
	}
	err := k.Load(posflag.ProviderWithFlag(l.flags, ".", k, func(f *pflag.Flag) (string, any) {
		if !f.Changed || !slices.Contains(l.names, f.Name) {
			return "", nil
		}
		sources[f.Name] = "--" + f.Name
		return f.Name, f.Value.String()
	}), nil)
	if err != nil {
		return nil, fmt.Errorf("read flags: %w", err)
	}

	out := &Loaded{Server: l.defaults, sources: sources, names: l.names}
	for _, s := range settings(&out.Server) {
		if !k.Exists(s.name) || !slices.Contains(l.names, s.name) {
			continue
		}
		text, err := scalar(k.Get(s.name), s.value.Type() == "list")
		if err == nil {
			err = s.value.Set(text)
		}
		if err != nil {
			return nil, &Error{Setting: s.name, Source: sources[s.name], Err: err}
		}
	}
	if err := out.Server.check(); err != nil {
		return nil, err
	}
	return out, nil
}

func (l *Loader) loadFile(k *koanf.Koanf, path string, sources map[string]string) error {
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("configuration file %s: no such file", path)
		}
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	for key := range k.Raw() {
		if !slices.Contains(l.names, key) {
			return &Error{Setting: key, Source: path + ": " + key,
				Err: fmt.Errorf("no such setting; there are %s", strings.Join(l.names, ", "))}
		}
		sources[key] = path + ": " + key
	}
	return nil
}

func (l *Loader) loadEnv(k *koanf.Koanf, environ []string, sources map[string]string) error {
	byEnv := make(map[string]string, len(l.names))
	for _, name := range l.names {
		byEnv[EnvName(name)] = name
	}
	err := k.Load(env.Provider(".", env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(key, value string) (string, any) {
			name, known := byEnv[key]
			if !known {
				return "", nil
			}
			sources[name] = key
			return name, value
		},
	}), nil)
	if err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	return nil
}

// scalar gives the text of a value from a YAML file. Where it may be a list, its
// elements are joined by commas.
func scalar(v any, list bool) (string, error) {
	switch v := v.(type) {
	case []any:
		if !list {
			return "", errors.New("want one value, not a list or a map")
		}
		if len(v) == 0 {
			// Of what may be called, no list is "all", and this looks like "nothing".
			return "", errors.New("is an empty list: leave it out")
		}
		texts := make([]string, len(v))
		for i := range v {
			var err error
			if texts[i], err = scalar(v[i], false); err != nil {
				return "", fmt.Errorf("element %d: %w", i+1, err)
			}
		}
		return strings.Join(texts, ","), nil
	case string:
		return v, nil
	case nil:
		return "", errors.New("has no value")
	case map[string]any:
		return "", errors.New("want one value, not a list or a map")
	default:
		return fmt.Sprint(v), nil
	}
}

// String gives the settings as a YAML file, with where each came from. No
// setting is a secret: keys are named by file.
func (l *Loaded) String() string {
	s := l.Server
	var b strings.Builder
	for _, set := range settings(&s) {
		if !slices.Contains(l.names, set.name) {
			continue
		}
		source := l.sources[set.name]
		if source == "" {
			source = "default"
		}
		text := set.value.String()
		if t := set.value.Type(); t == "string" || t == "list" {
			text = quote(text)
		}
		fmt.Fprintf(&b, "%-42s # %s\n", set.name+": "+text, source)
	}
	return b.String()
}

// quote writes a string so that YAML reads the same string back: single
// quotes have one escape, the doubled quote.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
