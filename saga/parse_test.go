package saga_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/handfast/handfast/saga"
	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

const tripYAML = `name: trip
retry: {first: 200ms, max: 5s}
steps:
  - name: hotel
    http: http://hotel/book
    input: {guest: Ada, nights: 2, price: 1e3, tags: [~, true, "<&>"]}
    headers: {tenant: "7"}
    timeout: 3s
    retry: {first: 1s, max: 1m0s, percent: 150, attempts: 5, attention_after: 2}
    compensate:
      http: http://hotel/cancel
      input: {booking: "${own.id}"}
  - name: seats
    grpc: air:443/air.v1.Seats/Book
    input_base64: CgR4
    dtm: true
    no_compensation: true
    after: []
  - name: pay
    handler: charge
    group: payments
    pivot: true
    after: [hotel, seats]
  - name: mail
    handler: mail
    database: 00000000-0000-0000-0000-000000000007
    delay: 1h0m0s
`

func trip() *saga.Definition {
	return saga.New("trip").Retry(target.RetryPolicy{First: 200 * time.Millisecond, Max: 5 * time.Second}).
		Step("hotel", target.HTTP("http://hotel/book", target.Header("tenant", "7")),
			saga.Input(json.RawMessage(`{"guest":"Ada","nights":2,"price":1e3,"tags":[null,true,"<&>"]}`)), saga.Timeout(3*time.Second),
			saga.Retry(target.RetryPolicy{First: time.Second, Max: time.Minute, Percent: 150, Attempts: 5, AttentionAfter: 2}),
			saga.Compensate(target.HTTP("http://hotel/cancel", target.Payload(map[string]string{"booking": "${own.id}"})))).
		Step("seats", target.GRPC("air:443/air.v1.Seats/Book", target.Payload([]byte("\n\x04x")), target.DTM()), saga.NoCompensation(), saga.After()).
		Step("pay", target.Handler("payments", "charge"), saga.Pivot(), saga.After("hotel", "seats")).
		Step("mail", target.DatabaseHandler(xid.ResourceID{15: 7}, "mail", target.Delay(time.Hour)))
}

func TestGoYAMLAndJSONSayTheSame(t *testing.T) {
	t.Parallel()
	want := trip()
	d, err := saga.ParseYAML([]byte(tripYAML))
	if err != nil || !reflect.DeepEqual(d, want) {
		t.Fatalf("YAML: got %+v, %v\nwant %+v", d, err, want)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = saga.ParseJSON(b); err != nil || !reflect.DeepEqual(d, want) {
		t.Errorf("JSON: got %+v, %v", d, err)
	}
	var u saga.Definition
	if err := json.Unmarshal(b, &u); err != nil || !reflect.DeepEqual(&u, want) {
		t.Errorf("json.Unmarshal: got %+v, %v", u, err)
	}
	// JSON is YAML, too.
	if d, err = saga.ParseYAML(b); err != nil || !reflect.DeepEqual(d, want) {
		t.Errorf("JSON as YAML: got %+v, %v", d, err)
	}
	for _, marshal := range []func() ([]byte, error){want.YAML, func() ([]byte, error) { return yaml.Marshal(want) }} {
		b, err := marshal()
		if err != nil {
			t.Fatal(err)
		}
		if d, err = saga.ParseYAML(b); err != nil || !reflect.DeepEqual(d, want) {
			t.Errorf("%s: got %+v, %v", b, d, err)
		}
	}
}

func TestParseErrorsTellThePlace(t *testing.T) {
	t.Parallel()
	const rest = "steps: [{name: a, http: http://h, no_compensation: true}]\n"
	for name, c := range map[string]struct{ yaml, json, want string }{
		"unknown field":    {yaml: "name: x\nsteps:\n  - title: a\n", want: "line 3, column 5: steps[0].title: there is no such field; want one of after, compensate, database"},
		"unknown in retry": {yaml: "steps:\n- retry: {tries: 1}", want: "line 2, column 11: steps[0].retry.tries: there is no such field; want one of attempts, attention_after, first, max, percent"},
		"unknown, JSON":    {json: "{\n \"x\": 1}", want: "line 2, column 2: x: there is no such field; want one of forward_recovery, name, parallel, retry, steps, timeout"},
		"twice":            {yaml: "name: a\nname: b\n" + rest, want: "line 2, column 1: name: it comes twice"},
		"twice, JSON":      {json: `{"name":"a","name":"b"}`, want: "line 1, column 13: name: it comes twice"},
		"type":             {yaml: "name: 7\n" + rest, want: "line 1, column 7: name: it is a number; want a text"},
		"type, list":       {json: `{"steps":{}}`, want: "line 1, column 10: steps: it is an object; want a list"},
		"type, header":     {yaml: "steps:\n- headers: {a: 1}", want: "line 2, column 16: steps[0].headers.a: it is a number; want a text"},
		"not an object":    {yaml: "[]", want: "line 1, column 1: it is a list; want an object"},
		"null":             {yaml: "name:\n" + rest, want: "name: it is null; want a text"},
		"retry of all":     {yaml: "retry: {first: fast}\nsteps: []", want: `line 1, column 16: retry.first: "fast" is no duration`},
		"number":           {yaml: "steps:\n- retry: {attempts: -1}", want: "line 2, column 21: steps[0].retry.attempts: -1; want a whole number from 0 to 4294967295"},
		"duration":         {yaml: "timeout: 5\n", want: "timeout: it is a number; want a text"},
		"duration, unit":   {yaml: "timeout: 5 min\n" + rest, want: `line 1, column 10: timeout: "5 min" is no duration; want one such as 1m30s`},
		"database":         {yaml: "steps:\n- {name: a, handler: x, database: y}", want: `line 2, column 35: steps[0].database: resource id "y": want a UUID`},
		"base64":           {yaml: "steps:\n- {name: a, http: http://h, input_base64: '*'}", want: "steps[0].input_base64: illegal base64 data"},
		"two inputs":       {yaml: "steps:\n- {name: a, http: http://h, input: 1, input_base64: MQ==}", want: "steps[0].input_base64: there is an input as well; want one of them"},
		"empty undo":       {yaml: "steps:\n- {name: a, http: http://h, compensate: {}}", want: "line 2, column 41: steps[0].compensate: it is empty; want one of http, grpc and handler"},
		"validated":        {yaml: "name: trip\nsteps:\n- {name: a, http: http://h}", want: `line 3: saga "trip": step "a": it has no compensation`},
		"validated, cycle": {yaml: "name: trip\nsteps:\n- {name: a, http: http://h, after: [b]}\n- {name: b, http: http://h, after: [a]}", want: `line 3: saga "trip": step "a": after: the steps wait`},
		"validated, after": {yaml: "name: trip\nsteps:\n- {name: a, http: http://h}\n- {name: b, http: http://h, after: [x]}", want: `line 4: saga "trip": step "b": after: there is no step "x"`},
		"validated, name":  {yaml: "steps:\n- {name: a, http: http://h}\n- {name: a b, http: http://h}", want: `line 3: saga "": step "#2": the name "a b"`},
		"validated, same":  {json: "{\"steps\":[{\"name\":\"a\",\"http\":\"http://h\"},\n{\"name\":\"a\",\"http\":\"http://h\"}]}", want: `line 2: saga "": step "a": another step has the same name`},
		"validated, saga":  {yaml: "name: trip\nsteps: []", want: `saga "trip": it has no steps`},
		"twice in input":   {json: "{\"steps\":[{\"name\":\"a\",\"input\":\n[1,{\"b\":{\"c\":1, \"c\":2}}]}]}", want: "line 2, column 17: steps[0].input[1].b.c: it comes twice"},
		"twice in YAML":    {yaml: "steps:\n- input:\n    a: 1\n    a: 2", want: "line 4, column 5: steps[0].input.a: it comes twice"},
		"half, high":       {json: "{\n\"name\":\"\\ud83d\\ude00 \\ud800x\"}", want: `line 2, column 22: \ud800 is half of a character`},
		"half, low":        {json: `{"name":"\\\uDE00"}`, want: `line 1, column 12: \uDE00 is half of a character`},
		"half, in input":   {json: `{"steps":[{"input":["\ud800\ud800"]}]}`, want: `line 1, column 22: \ud800 is half`},
		"byte order mark":  {json: "\ufeff{}", want: "line 1, column 1: it begins with a byte order mark"},
		"tab, YAML":        {yaml: "name: a\nsteps:\n\t- name: a", want: "line 3: it is no YAML: found character that cannot start any token; indent with blanks"},
		"colon, YAML":      {yaml: "name: a\ntimeout: 1s\nsteps\nretry: {}", want: "line 3: it is no YAML: could not find expected ':'"},
		"anchor, YAML":     {yaml: "name: a\nsteps: *b\n", want: `line 2, column 8: it is no YAML: there is no anchor "b"`},
		"control, YAML":    {yaml: "name: a\nsteps: \x01", want: "line 2, column 8: it is no YAML: control characters are not allowed"},
		"not UTF-8, YAML":  {yaml: "name: a\nsteps: \xff", want: "line 2, column 8: it is no YAML: it is not UTF-8"},
		"second is broken": {yaml: "name: a\n---\nname: [", want: "line 3: it is no YAML: "},
		"empty":            {yaml: "", want: "it is empty"},
		"empty, JSON":      {json: " ", want: "line 1, column 2: the text ends too early"},
		"cut, JSON":        {json: "{\n\"name\": ", want: "line 2, column 9: the text ends too early"},
		"syntax, YAML":     {yaml: "a: [", want: "saga: line 1: it is no YAML: did not find expected node content"},
		"syntax, JSON":     {json: "{\n  'a': 1}", want: "line 2, column 3: invalid character"},
		"more, JSON":       {json: "{} {}", want: "there is more after the end"},
		"documents":        {yaml: "name: a\n---\nname: b\n", want: "line 2, column 1: there is more than one document"},
		"merge":            {yaml: "steps:\n- &a {name: a}\n- <<: *a\n", want: "line 3, column 3: \"<<\": merging is not supported"},
		"key":              {yaml: "1: 2\n", want: "line 1, column 1: a key is a number; want a text"},
		"infinite":         {yaml: "steps:\n- input: .inf", want: `line 2, column 10: ".inf": it is no number that JSON has`},
		"binary":           {yaml: "steps:\n- input: !!binary aGk=", want: "values of type !!binary are not supported"},
		"not UTF-8":        {json: "{\"name\":\"\xff\"}", want: "line 1, column 10: it is not UTF-8"},
		"deep":             {json: strings.Repeat("[", 100), want: "it is nested more than 64 deep"},
		"circle":           {yaml: "steps: &a [*a]", want: "it is nested more than 64 deep"},
		"bomb": {
			yaml: "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + func() (s string) {
				for c := 'b'; c < 'j'; c++ {
					s += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
				}
				return s
			}(), want: "it has more than 1048576 values",
		},
		"long": {json: strings.Repeat(" ", 5<<20), want: "the text is 5242880 bytes long; want at most 4194304"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parse, text := saga.ParseYAML, c.yaml
			if c.json != "" {
				parse, text = saga.ParseJSON, c.json
			}
			d, err := parse([]byte(text))
			if d != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got  %v\nwant %s", err, c.want)
			}
			var p *saga.ParseError
			if isParse := errors.As(err, &p); isParse == strings.HasPrefix(name, "validated") {
				t.Errorf("got a %T", err)
			}
			if p != nil && p.Line == 0 && !strings.HasPrefix(name, "empty") && name != "long" {
				t.Errorf("no line: %v", err)
			}
		})
	}
}

func TestYAMLHasNumbersLikeJSON(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"0x1F": "31", "+1": "1", ".5": "0.5", "1_000": "1000", "18446744073709551615": "18446744073709551615", "1e400": `"1e400"`, "!!float 1e400": "1e400",
		"123456789012345678901234567890": "123456789012345678901234567890", "-0": "-0", "1.10": "1.10", "2026-01-02": `"2026-01-02"`,
		"0o17": "15", "yes": `"yes"`, "'1'": `"1"`, "~": "null", "True": "true",
	} {
		d, err := saga.ParseYAML([]byte("steps: [{name: a, http: http://h, no_compensation: true, input: " + in + "}]"))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		r, err := d.Request(xid.ID{1})
		if err != nil || string(r.GetBranches()[0].GetPlan().GetForward().GetPayload()) != want {
			t.Errorf("%s: got %s, %v, want %s", in, r.GetBranches()[0].GetPlan().GetForward().GetPayload(), err, want)
		}
	}
}

// drawn is any definition that is right, with payloads of all kinds.
func drawn(t *rapid.T) *saga.Definition {
	word := rapid.StringMatching(`[A-Za-z0-9_-]{1,8}`)
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"yes", "null", "1", "<<", "=", "2026-01-02", " x", "a: b", "\u0085\u2028\ufeff", "|", "0x1"}))
	where := func(label string) target.Target {
		opts := []target.Option{
			target.Timeout(time.Duration(rapid.IntRange(0, 3).Draw(t, label)) * time.Second), target.Delay(time.Duration(rapid.IntRange(0, 1e9).Draw(t, label))),
		}
		switch rapid.IntRange(0, 3).Draw(t, label) {
		case 0:
			opts = append(opts, target.Payload(rapid.SliceOf(rapid.Byte()).Draw(t, label)))
		case 1:
			m := rapid.MapOf(text, text).Draw(t, label)
			for k, v := range m {
				delete(m, k)
				m[strings.ReplaceAll(k, "$", "")] = strings.ReplaceAll(v, "$", "")
			}
			opts = append(opts, target.Payload(m))
		case 2:
			opts = append(opts, target.Payload([]any{rapid.Float64().Draw(t, label), rapid.Int64().Draw(t, label), nil, true}))
		}
		if rapid.Bool().Draw(t, label) {
			opts = append(opts, target.Header(rapid.StringMatching(`x[a-z]{0,5}`).Draw(t, label), rapid.StringMatching(`[ -~]{0,9}`).Draw(t, label)))
		}
		switch rapid.IntRange(0, 3).Draw(t, label) {
		case 0:
			return target.HTTP("https://"+rapid.StringMatching(`[a-z]{1,9}/[a-z]{0,9}`).Draw(t, label), opts...)
		case 1:
			return target.GRPC("h:1/a.B/C", opts...)
		case 2:
			return target.Handler(word.Draw(t, label), word.Draw(t, label)+"/x", opts...)
		default:
			return target.DatabaseHandler(xid.ResourceOf("x"), "x", opts...)
		}
	}
	d := saga.New(rapid.SampledFrom([]string{"", "trip", "no", "12", "a: b", "ü"}).Draw(t, "name"))
	if rapid.Bool().Draw(t, "parallel") {
		d.Parallel()
	}
	var names []string
	for i := range rapid.IntRange(1, 6).Draw(t, "steps") {
		name := fmt.Sprintf("%s%d", word.Draw(t, "step"), i)
		var opts []saga.StepOption
		if rapid.Bool().Draw(t, "undone") {
			opts = append(opts, saga.Compensate(where("undo")))
		} else {
			opts = append(opts, saga.NoCompensation())
		}
		if rapid.Bool().Draw(t, "after") {
			opts = append(opts, saga.After(names[:rapid.IntRange(0, len(names)).Draw(t, "how many")]...))
		}
		if rapid.Bool().Draw(t, "retry") {
			opts = append(opts, saga.Retry(target.RetryPolicy{First: time.Second, Attempts: rapid.Uint32().Draw(t, "attempts")}))
		}
		d.Step(name, where("action"), opts...)
		names = append(names, name)
	}
	return d
}

func TestParseGivesWhatMarshalWrote(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := drawn(t)
		if err := d.Validate(); err != nil {
			t.Fatal(err)
		}
		j, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := saga.ParseJSON(j); err != nil || !same(got, d) {
			t.Fatalf("%s: got %+v, %v", j, got, err)
		}
		y, err := d.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := saga.ParseYAML(y); err != nil || !same(got, d) {
			t.Fatalf("%s\n%s: got %+v, %v", y, j, got, err)
		}
	})
}

// same compares what is sent and what is written.
func same(a, b *saga.Definition) bool {
	ra, err := a.Request(xid.ID{1})
	rb, err2 := b.Request(xid.ID{1})
	ja, _ := json.Marshal(a)
	jb, _ := json.Marshal(b)
	return err == nil && err2 == nil && ra.String() == rb.String() && string(ja) == string(jb)
}

func fuzz(f *testing.F, parse func([]byte) (*saga.Definition, error)) {
	f.Helper()
	f.Add([]byte(tripYAML))
	b, _ := json.Marshal(trip())
	f.Add(b)
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := parse(in)
		if err != nil {
			if d != nil || len(err.Error()) > 64<<10 {
				t.Fatalf("%d bytes of error", len(err.Error()))
			}
			return
		}
		j, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := saga.ParseJSON(j); err != nil || !reflect.DeepEqual(got, d) {
			t.Fatalf("%q as JSON %s: got %+v, %v, want %+v", in, j, got, err, d)
		}
		y, err := d.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := saga.ParseYAML(y); err != nil || !reflect.DeepEqual(got, d) {
			t.Fatalf("%q as YAML %s: got %+v, %v, want %+v", in, y, got, err, d)
		}
	})
}

func FuzzParseJSON(f *testing.F) { fuzz(f, saga.ParseJSON) }
func FuzzParseYAML(f *testing.F) { fuzz(f, saga.ParseYAML) }
