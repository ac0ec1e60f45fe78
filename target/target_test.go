package target_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/handfast/handfast/target"
	"github.com/handfast/handfast/xid"
)

var database = xid.ResourceID{15: 1}

func TestValidateNamesTheField(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	many := make([]target.Option, 0, 65)
	for i := range 65 {
		many = append(many, target.Header("h"+strings.Repeat("x", i), ""))
	}
	for name, c := range map[string]struct {
		a    target.Target
		want string // "" where it is right
	}{
		"http":               {a: target.HTTP("http://hotel:80/book?x=1")},
		"https":              {a: target.HTTP("https://hotel/${steps.a.id}", target.Timeout(time.Hour), target.Delay(target.MaxDelay))},
		"grpc":               {a: target.GRPC("hotel:443/hotel.v1.Rooms/Book", target.Payload([]byte("${nothing")))},
		"grpc, IPv6, TLS":    {a: target.GRPC("grpcs://[::1]:443/Rooms/Book")},
		"handler":            {a: target.Handler("a group of ours", "charge")},
		"handler, path":      {a: target.Handler("payments", "workflow/charge")},
		"database":           {a: target.DatabaseHandler(database, "charge")},
		"largest":            {a: target.HTTP("http://h", target.Payload(make([]byte, target.MaxPayload)))},
		"references":         {a: target.HTTP("http://h", target.Payload(map[string]any{"a": "${steps.a}", "b": []string{"room ${steps.b-1.c.0}", "$${x", "${own.id}"}}))},
		"none":               {want: "target: has no address; want one of http, grpc and handler"},
		"two":                {a: target.Target{HTTP: "http://h", Handler: "x", Group: "g"}, want: "target: has 2 addresses; want one of http, grpc and handler"},
		"scheme":             {a: target.HTTP("ftp://h"), want: `http: "ftp://h"; want a URL such as http://host:port/path`},
		"no host":            {a: target.HTTP("http://:80/x"), want: "http: "},
		"host of a step":     {a: target.HTTP("http://${steps.a}/x"), want: "http: "},
		"credentials":        {a: target.HTTP("http://u:secret@h"), want: "http: it holds credentials; send them in a header"},
		"no port":            {a: target.GRPC("hotel/hotel.v1.Rooms/Book"), want: `grpc: "hotel/hotel.v1.Rooms/Book"; want host:port/package.Service/Method`},
		"port":               {a: target.HTTP("http://127.0.0.1:99999/"), want: `http: "http://127.0.0.1:99999/": the port is "99999"; want a number from 1 to 65535`},
		"port 0":             {a: target.HTTP("http://h:0/"), want: `http: "http://h:0/": the port is "0"; want`},
		"host, no ASCII":     {a: target.HTTP("http://hötel.localhost/"), want: `http: "http://hötel.localhost/": want a host of at most 255 ASCII characters; write others as Punycode`},
		"grpc, port":         {a: target.GRPC("h:99999/S/M"), want: `grpc: "h:99999/S/M": the port is "99999"; want`},
		"grpc, host":         {a: target.GRPC("hötel:1/S/M"), want: `grpc: "hötel:1/S/M": want a host`},
		"Expect":             {a: target.HTTP("http://h", target.Header("Expect", "100-continue")), want: `headers: "Expect" is set by the coordinator: it belongs to the connection`},
		"TE":                 {a: target.HTTP("http://h", target.Header("TE", "trailers")), want: `headers: "TE" is set`},
		"Keep-Alive":         {a: target.HTTP("http://h", target.Header("Keep-Alive", "1")), want: `headers: "Keep-Alive" is set`},
		"content type":       {a: target.HTTP("http://h", target.Header("Content-Type", "text/xml"))},
		"grpc, content type": {a: target.GRPC("h:1/S/M", target.Header("Content-Type", "x")), want: `headers: "Content-Type" is set by the coordinator: it belongs to gRPC`},
		"grpc, tab":          {a: target.GRPC("h:1/S/M", target.Header("a", "\t")), want: `headers: the value of "a" holds a tab`},
		"no method":          {a: target.GRPC("hotel:1/hotel.v1.Rooms"), want: "grpc: "},
		"long address":       {a: target.HTTP("http://h/" + strings.Repeat("x", 2048)), want: "address: 2057 bytes long; want at most 2048"},
		"no group":           {a: target.Handler("", "x"), want: "group: empty; want the name of a group of services"},
		"no handler":         {a: target.Handler("g", ""), want: "handler: empty, although a group or a database is named"},
		"bad handler":        {a: target.Handler("g", "a//b"), want: `handler: "a//b"; want at most 128 letters`},
		"long handler":       {a: target.Handler("g", long), want: "handler: "},
		"group and database": {a: target.Target{Handler: "x", Group: "g", Resource: database}, want: `group: "g", and a database is named as well; want one of them`},
		"payload":            {a: target.HTTP("http://h", target.Payload(func() {})), want: "payload: func() as JSON: json: unsupported type: func()"},
		"payload too large":  {a: target.HTTP("http://h", target.Payload(make([]byte, target.MaxPayload+1))), want: "payload: 1048577 bytes long; want at most 1048576"},
		"reference, open":    {a: target.HTTP("http://h", target.Payload("${steps.a")), want: `payload: "${steps.a": want ${steps.NAME}`},
		"reference, unknown": {a: target.HTTP("http://h/${step.a}"), want: `http: "http://h/${step.a}": want ${steps.NAME}`},
		"timeout":            {a: target.HTTP("http://h", target.Timeout(2*time.Hour)), want: "timeout: 2h0m0s; want from 1ms to 1h0m0s, or 0 for 10s"},
		"delay":              {a: target.HTTP("http://h", target.Delay(-1)), want: "delay: -1ns; want from 0 to 720h0m0s"},
		"many headers":       {a: target.HTTP("http://h", many...), want: "headers: 65 of them; want at most 64"},
		"our header":         {a: target.HTTP("http://h", target.Header("Handfast-Xid", "x")), want: `headers: "Handfast-Xid" is set by the coordinator`},
		"host header":        {a: target.HTTP("http://h", target.Header("Host", "x")), want: `headers: "Host" is set by the coordinator`},
		"no header":          {a: target.HTTP("http://h", target.Header("a b", "x")), want: `headers: "a b" is no name of a header`},
		"same header":        {a: target.HTTP("http://h", target.Header("X-A", ""), target.Header("x-a", "")), want: `headers: "X-A" and "x-a" are the same header`},
		"header value":       {a: target.HTTP("http://h", target.Header("x", "a\nb")), want: `headers: the value of "x" holds a character`},
		"of another package": {a: target.Handler("g", "x", target.Invalid("subject", "empty"), target.Invalid("b", ""), target.Payload(1)), want: "subject: empty"},
		"DTM":                {a: target.HTTP("http://h/../${a?x=${own}", target.Payload("${own"), target.DTM())},
		"DTM, grpc":          {a: target.GRPC("h:1/S/M", target.DTM())},
		"DTM, handler":       {a: target.Handler("g", "x", target.DTM()), want: "dtm: a handler has no dialect; want http or grpc"},
		"DTM, no address":    {a: target.HTTP("", target.DTM()), want: "target: has no address"},
		"DTM, credentials":   {a: target.HTTP("http://u:secret@h", target.DTM()), want: "http: it holds credentials"},
		"long headers":       {a: target.HTTP("http://h", target.Header("x", strings.Repeat("x", 8<<10))), want: "headers: 8193 bytes long; want at most 8192"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.a.Validate()
			var e *target.Error
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (!errors.As(err, &e) || !strings.HasPrefix(err.Error(), c.want) || len(err.Error()) > 400):
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestReferencesAreFound(t *testing.T) {
	t.Parallel()
	a := target.HTTP("http://h/${steps.url}", target.Payload(json.RawMessage(`{"${steps.key}":["${steps.b.x}","${steps.b}"],"n":1.0}`)))
	steps, own, err := a.References()
	if err != nil || own || !slices.Equal(steps, []string{"url", "key", "b"}) {
		t.Errorf("got %v, %v, %v", steps, own, err)
	}
	escaped := target.HTTP("http://h", target.Payload(json.RawMessage(`["\u0024{x","\u0024${steps.a}","\\\"${steps.b}\\"]`)))
	if steps, _, err := escaped.References(); err != nil || !slices.Equal(steps, []string{"a", "b"}) {
		t.Errorf("got %v, %v", steps, err)
	}
	if _, own, _ := target.HTTP("http://h", target.Payload("x${own}")).References(); !own {
		t.Error("${own} was not seen")
	}
	if steps, own, err := target.HTTP("http://h/${steps.a}", target.Payload("${own} ${x"), target.DTM()).References(); err != nil || steps != nil || own {
		t.Errorf("in DTM's dialect: got %v, %v, %v", steps, own, err)
	}
	if steps, _, err := target.HTTP("http://h", target.Payload([]byte(`not JSON ${steps.a}`))).References(); err != nil || steps != nil {
		t.Errorf("got %v, %v", steps, err)
	}
}

func FuzzReferences(f *testing.F) {
	f.Add(`{"a":"${steps.a.b} $${ ${own}"}`)
	f.Fuzz(func(t *testing.T, s string) {
		steps, _, err := target.HTTP("http://h", target.Payload([]byte(s))).References()
		for _, n := range steps {
			if err != nil || target.CheckName(n) != nil {
				t.Fatalf("%q has the step %q, %v", s, n, err)
			}
		}
	})
}

func TestProto(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a    target.Target
		want string
	}{
		{target.HTTP("http://h", target.Payload(map[string]string{"a": "<b>"}), target.Header("b", "2"), target.Header("a", "1"), target.Timeout(time.Second), target.Delay(time.Minute)),
			`{"url":"http://h","payload":"eyJhIjoiPGI+In0=","headers":[{"name":"a","value":"1"},{"name":"b","value":"2"}],"timeout":"1s","delay":"60s"}`},
		{target.GRPC("h:1/s/m", target.Payload([]byte{0})), `{"grpc":"h:1/s/m","payload":"AA=="}`},
		{target.HTTP("http://h", target.DTM()), `{"url":"http://h","dialect":"DIALECT_DTM"}`},
		{target.Handler("payments", "charge"), `{"handler":"charge","handlerResource":"` + xid.ResourceOf("payments").String() + `","handlerGroup":"payments"}`},
		{target.DatabaseHandler(database, "charge"), `{"handler":"charge","handlerResource":"` + database.String() + `"}`},
	} {
		b, err := protojson.Marshal(c.a.Proto())
		if got := strings.ReplaceAll(string(b), `, "`, `,"`); err != nil || strings.ReplaceAll(strings.ReplaceAll(got, `": `, `":`), `, {`, `,{`) != c.want {
			t.Errorf("got %s, %v, want %s", got, err, c.want)
		}
	}
	if (target.Target{DTM: true}).IsZero() {
		t.Error("a target with a dialect is none")
	}
	if (target.Target{}).Proto() != nil {
		t.Error("no target has a form on the wire")
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for a, want := range map[string]target.Target{
		"http://h": target.HTTP("http://h"), "h:1/s/m": target.GRPC("h:1/s/m"), "g/x": target.Handler("g", "x"),
		database.String() + "/x": target.DatabaseHandler(database, "x"), "none": {},
	} {
		if want.String() != a {
			t.Errorf("got %s, want %s", want, a)
		}
	}
}
