package refs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/handfast/handfast/tc/caller/refs"
	"github.com/handfast/handfast/tc/core"
)

var (
	before = []core.Result{
		{Name: "hotel", Value: []byte(` {"room": 12, "price": 1234567890123456789012.50, "ok":true, "none": null,
			"guest": {"name": "A \"B\" \u00e4/&?", "tags": ["x", {"y": 7}]}, "big": 1e400} `)},
		{Name: "hotel.v2", Value: []byte(`{"room":"two"}`)},
		{Name: "text", Value: []byte("no \"JSON\" <at> all")},
		{Name: "bytes", Value: []byte{0xff, 0xfe}},
		{Name: "dots", Value: []byte(`{"up":"..","dot":".","empty":""}`)},
		{Name: "twin", Value: []byte(`1`)},
		{Name: "twin", Value: []byte(`2`)},
		{Name: "", Value: []byte(`3`)},
		{Name: "café", Value: []byte(`"ü"`)},
	}
	own = []byte(`{"id":"r-1","list":[10,[20]],"a":{"b":{"c":0.10}}}`)
)

func TestExpand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, payload, want string }{
		{"empty", ``, ``},
		{"no reference", `{"a" : 1.0, "a":"$5 {x}"}`, `{"a" : 1.0, "a":"$5 {x}"}`},
		{"no JSON", `a=${steps.nobody}`, `a=${steps.nobody}`},
		{"number", `{"n":"${steps.hotel.room}"}`, `{"n":12}`},
		{"long number", `["${steps.hotel.price}","${steps.hotel.big}"]`, `[1234567890123456789012.50,1e400]`},
		{"bool and null", `["${steps.hotel.ok}","${steps.hotel.none}"]`, `[true,null]`},
		{"string", `"${own.id}"`, `"r-1"`},
		{"escapes stay", `"${steps.hotel.guest.name}"`, `"A \"B\" \u00e4/&?"`},
		{"object", `"${own.a}"`, `{"b":{"c":0.10}}`},
		{"deep", `"${own.a.b.c}"`, `0.10`},
		{"array and elements", `["${own.list}","${own.list.0}","${own.list.1.0}","${steps.hotel.guest.tags.1.y}"]`, `[[10,[20]],10,20,7]`},
		{"whole own", `"${own}"`, string(own)},
		{"white space around the result", `"${steps.twins}"`, `{"x":1}`},
		{"longer name", `"${steps.hotel.v2.room}"`, `"two"`},
		{"no JSON result", `"${steps.text}"`, `"no \"JSON\" <at> all"`},
		{"in text", `"n=${steps.hotel.room}, ${steps.hotel.guest.name}!"`, `"n=12, A \"B\" \u00e4/&?!"`},
		{"object in text", `"a: ${own.a}"`, `"a: {\"b\":{\"c\":0.10}}"`},
		{"no JSON in text", `"<${steps.text}>"`, `"<no \"JSON\" <at> all>"`},
		{"null in text", `"${steps.hotel.none}${steps.hotel.ok}"`, `"nulltrue"`},
		{"literal", `"$${own.id} and ${own.id} $$${own.id}"`, `"${own.id} and r-1 $${own.id}"`},
		{"dollar before", `"\u0024${steps.hotel.room}"`, `"\u002412"`},
		{"escaped dollar is none", `"\u0024{own.id}"`, `"\u0024{own.id}"`},
		{"quote before", `"\"${own.id}\\${own.id}"`, `"\"r-1\\r-1"`},
		{"escaped name", `"${steps.caf\u00e9}${steps.café}"`, `"üü"`},
		{"literal key", `{"$${x}" : "${own.id}"}`, `{"${x}" : "r-1"}`},
		{"the rest stays", "{ \"a\":\t1.00,\n\"b\":\"${own.id}\",\"a\":\"\\u0041\" }", "{ \"a\":\t1.00,\n\"b\":\"r-1\",\"a\":\"\\u0041\" }"},
		{"value is not looked into", `"${steps.sly}"`, `"${own.id}"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := slices.Concat(before, []core.Result{
				{Name: "twins", Value: []byte(" {\"x\":1}\n")}, {Name: "sly", Value: []byte(`"${own.id}"`)}})
			payload := []byte(tt.payload)
			got, err := refs.Expand(payload, b, own)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v\nwant %s", got, err, tt.want)
			}
			if string(payload) != tt.payload {
				t.Errorf("the payload became %s", payload)
			}
		})
	}
}

func TestWhatCannotBeSent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, payload, ref, why string }{
		{"unknown step", `"${steps.flight.seat}"`, "${steps.flight.seat}", `"hotel"`},
		{"a beginning of a name", `"${steps.hot}"`, "${steps.hot}", "none of that name"},
		{"nameless", `"${steps.}"`, "${steps.}", "none of that name"},
		{"unknown field", `"x ${own.nope}"`, "${own.nope}", `no field "nope"`},
		{"field of a number", `"${steps.hotel.room.x}"`, "${steps.hotel.room.x}", "neither"},
		{"field of text", `"${steps.text.x}"`, "${steps.text.x}", "not JSON"},
		{"bytes", `"${steps.bytes}"`, "${steps.bytes}", "UTF-8"},
		{"past the end", `"${own.list.2}"`, "${own.list.2}", "array of 2"},
		{"no number", `"${own.list.-1}"`, "${own.list.-1}", "array of 2"},
		{"twins", `"${steps.twin}"`, "${steps.twin}", "two"},
		{"neither own nor steps", `"${env.HOME}"`, "${env.HOME}", "want ${steps.NAME}"},
		{"nothing", `"${}"`, "${}", "want ${steps.NAME}"},
		{"owner", `"${owner}"`, "${owner}", "want ${steps.NAME}"},
		{"no end", `{"a":"${own","b":"}"}`, "${own", "no end"},
		{"key", `{"${own.id}":1}`, "${own.id}", "key"},
		{"too deep", `"${own` + strings.Repeat(".a", 33) + `}"`, "${own.a", "deep"},
		{"long", `"${` + strings.Repeat("x", 1000) + `}"`, "${xxx", "want"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := refs.Expand([]byte(tt.payload), before, own)
			var e *refs.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %s, %v, want *refs.Error", got, err)
			}
			if !strings.HasPrefix(e.Reference, tt.ref) || !strings.Contains(e.Why, tt.why) || len(err.Error()) > 600 {
				t.Errorf("got %v, want %q and %q in it", err, tt.ref, tt.why)
			}
		})
	}
	if _, err := refs.Expand([]byte(`"${own}"`), before, nil); err == nil {
		t.Error("a branch without a result has one")
	}
}

func TestExpansionIsBounded(t *testing.T) {
	t.Parallel()
	big, err := json.Marshal(strings.Repeat("x", 60<<10))
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range []string{
		`[` + strings.Repeat(`"${own}",`, 100) + `1]`,
		`"` + strings.Repeat(`${own}`, 100) + `"`,
	} {
		if got, err := refs.Expand([]byte(payload), nil, big); err == nil {
			t.Errorf("got %d bytes", len(got))
		}
	}
	if got, err := refs.ExpandText(strings.Repeat("${own}", 100), nil, big); err == nil {
		t.Errorf("got %d bytes of text", len(got))
	}
}

func TestExpandURL(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ url, want string }{
		{"http://h/a", "http://h/a"},
		{"http://h/${own.id}/x?q=${steps.hotel.guest.name}#${steps.hotel.room}", "http://h/r-1/x?q=A%20%22B%22%20%C3%A4%2F%26%3F#12"},
		{"http://h?id=${own.list}", "http://h?id=%5B10%2C%5B20%5D%5D"},
		{"http://h/%24${own.id}/$${x}", "http://h/%24r-1/${x}"},
		{"http://h/a/../${own.id}x", ""},
		{"http://h/${steps.dots.up}/x", ""},
		{"http://h/x/${steps.dots.dot}", ""},
		{"http://h/x/${steps.dots.dot}${steps.dots.dot}?a", ""},
		{"http://h/x?a=${steps.dots.up}", "http://h/x?a=.."},
		{"http://h/x/${steps.dots.empty}", "http://h/x/"},
		{"http://h/${steps.bytes}", "http://h/%FF%FE"},
		{"http://${own.id}/x", ""},
		{"http://h:${own.id}", ""},
		{"${own.id}://h/", ""},
		{"${own.id}", ""},
		{"http://h/${own.id", ""},
		{"http://h/${steps.nobody}", ""},
	} {
		got, err := refs.ExpandURL(tt.url, before, own)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: got %s, %v\nwant %s", tt.url, got, err, tt.want)
		}
	}
}

func TestExpandText(t *testing.T) {
	t.Parallel()
	got, err := refs.ExpandText("room-${steps.hotel.room}/${steps.hotel.guest.name}", before, own)
	if want := `room-12/A "B" ä/&?`; err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{
		`{"a":"${steps.s.a}","b":"x ${steps.s.b.0} y"}`, `"$${x}"`, `"\u0024${own}"`, `{"${own}":1}`, `"${own.a.b}"`, `"${`, `$${`,
	} {
		f.Add([]byte(s), []byte(`{"a":1,"b":["x"]}`), []byte(`{"a":{"b":null}}`), "s")
	}
	f.Fuzz(func(t *testing.T, payload, value, own []byte, name string) {
		saved := bytes.Clone(payload)
		before := []core.Result{{Name: name, Value: value}}
		got, err := refs.Expand(payload, before, own)
		switch {
		case !bytes.Equal(payload, saved):
			t.Fatalf("the payload became %q", payload)
		case err != nil && got != nil:
			t.Fatalf("both %q and %v", got, err)
		case err == nil && !bytes.Contains(payload, []byte("${")) && !bytes.Equal(got, payload):
			t.Fatalf("without a reference, %q became %q", payload, got)
		case err == nil && json.Valid(payload) && !json.Valid(got):
			t.Fatalf("%q became %q, which is no JSON", payload, got)
		}
		if url, err := refs.ExpandURL("http://h/"+string(payload), before, own); err == nil && !strings.HasPrefix(url, "http://h/") {
			t.Fatalf("the host changed: %q", url)
		}
		_, _ = refs.ExpandText(string(payload), before, own)
	})
}

func ExampleExpand() {
	before := []core.Result{{Name: "hotel", Value: []byte(`{"room": 12, "guest": {"name": "Ada"}}`)}}
	payload := `{"room": "${steps.hotel.room}", "text": "Room ${steps.hotel.room} for ${steps.hotel.guest.name}"}`
	out, err := refs.Expand([]byte(payload), before, nil)
	fmt.Println(string(out), err)
	// Output: {"room": 12, "text": "Room 12 for Ada"} <nil>
}

func ExampleExpandURL() {
	own := []byte(`{"booking": "2024/7"}`)
	fmt.Println(refs.ExpandURL("https://hotel.example/bookings/${own.booking}/cancel", nil, own))
	// Output: https://hotel.example/bookings/2024%2F7/cancel <nil>
}
