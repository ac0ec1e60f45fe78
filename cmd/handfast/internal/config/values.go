package config

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/handfast/handfast/tc/caller"
)

// The types below implement pflag.Value over a field, so that a flag, a
// variable and a line of the file are read by the same code.

type stringValue struct {
	p     *string
	check func(string) error
}

func (v stringValue) String() string { return *v.p }
func (stringValue) Type() string     { return "string" }
func (v stringValue) Set(s string) error {
	if v.check != nil {
		if err := v.check(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}

// listValue is texts separated by commas; a file may give a list, too.
type listValue struct {
	p     *string
	check func([]string) error
}

func (v listValue) String() string { return *v.p }
func (listValue) Type() string     { return "list" }
func (v listValue) Set(s string) error {
	if err := v.check(SplitList(s)); err != nil {
		return err
	}
	*v.p = s
	return nil
}

// SplitList gives the elements of a list. Blanks around them don't count.
func SplitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

type choiceValue struct {
	p       *string
	choices []string
}

func (v choiceValue) String() string { return *v.p }
func (v choiceValue) Type() string   { return strings.Join(v.choices, "|") }
func (v choiceValue) Set(s string) error {
	for _, c := range v.choices {
		if s == c {
			*v.p = s
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", s, strings.Join(v.choices, ", "))
}

type boolValue struct{ p *bool }

func (v boolValue) String() string { return strconv.FormatBool(*v.p) }
func (boolValue) Type() string     { return "bool" }
func (v boolValue) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	*v.p = b
	return nil
}

type intValue struct {
	p        *int
	min, max int
}

func (v intValue) String() string { return strconv.Itoa(*v.p) }
func (intValue) Type() string     { return "int" }
func (v intValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil {
		return fmt.Errorf("%q is not a whole number", s)
	}
	if n < v.min || n > v.max {
		return fmt.Errorf("%d is outside of %d to %d", n, v.min, v.max)
	}
	*v.p = n
	return nil
}

// sizeValue is a number of bytes; zero stands for a default.
type sizeValue struct {
	p        *int64
	min, max int64
}

func (v sizeValue) String() string { return FormatSize(*v.p) }
func (sizeValue) Type() string     { return "size" }
func (v sizeValue) Set(s string) error {
	n, err := ParseSize(s)
	if err != nil {
		return err
	}
	if n != 0 && (n < v.min || n > v.max) {
		return fmt.Errorf("%s is outside of %s to %s", s, FormatSize(v.min), FormatSize(v.max))
	}
	*v.p = n
	return nil
}

// units are those of GOMEMLIMIT, the largest first.
var units = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// ParseSize reads a number of bytes such as "512MiB", "1073741824B" or "0".
func ParseSize(s string) (int64, error) {
	digits, unit := s, int64(1)
	for _, u := range units {
		if d, ok := strings.CutSuffix(s, u.name); ok {
			digits, unit = d, u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size such as 512MiB or 2GiB", s)
	}
	return int64(n) * unit, nil
}

// FormatSize writes a size so that ParseSize reads the same.
func FormatSize(n int64) string {
	for _, u := range units {
		if n > 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

type durationValue struct {
	p        *time.Duration
	min, max time.Duration
}

func (v durationValue) String() string { return FormatDuration(*v.p) }
func (durationValue) Type() string     { return "duration" }
func (v durationValue) Set(s string) error {
	d, err := ParseDuration(s)
	if err != nil {
		return err
	}
	if d < v.min || d > v.max {
		return fmt.Errorf("%s is outside of %s to %s", s, FormatDuration(v.min), FormatDuration(v.max))
	}
	*v.p = d
	return nil
}

const day = 24 * time.Hour

// ParseDuration reads what time.ParseDuration reads, and whole days: "7d".
func ParseDuration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n <= 36500 {
			return time.Duration(n) * day, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 90s, 12h or 7d", s)
	}
	return d, nil
}

// FormatDuration writes whole days as "7d" and leaves out zero minutes and seconds.
func FormatDuration(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func checkAddress(s string) error {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port, such as :4263 or 127.0.0.1:4263", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q is not a port from 0 to 65535", port)
	}
	return nil
}

// checkPatterns lets the caller look, so that there is one idea of a pattern.
func checkPatterns(list []string) error {
	_, err := caller.AllowList(list...)
	return err
}

func checkNotEmpty(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	return nil
}
