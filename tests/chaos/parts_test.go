//go:build unix

package chaos

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// echo is a server behind a link, and a connection to it.
func echo(t *testing.T) (*link, net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	go func() { // ends with the listener
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	l, err := newLink("x", "127.0.0.1:0", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	c, err := net.Dial("tcp", l.lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	// Once something has come back the link carries the connection.
	if got, err := said(t, c, "!", patience); got != "!" {
		t.Fatalf("heard %q: %v", got, err)
	}
	return l, c
}

const (
	// patience is for what comes.
	patience = time.Minute
	// moment is for what must not come.
	moment = 300 * time.Millisecond
)

// said is what comes back of a text within a time.
func said(t *testing.T, c net.Conn, text string, within time.Duration) (string, error) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	return heard(t, c, len(text), within)
}

func heard(t *testing.T, c net.Conn, n int, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, n)
	n, err := io.ReadFull(c, buf)
	return string(buf[:n]), err
}

func TestALinkGoesWrongInEveryWay(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name string
		t    trouble
		lost bool   // when it heals
		want string // of "hello"
		then string // what comes after healing, "" where the connection is lost
	}{
		{"health", trouble{}, false, "hello", "again"},
		{"cut", trouble{refused: true}, false, "", ""},
		{"nothing there", trouble{hold: [2]bool{true, false}}, false, "", "helloagain"},
		{"nothing back", trouble{hold: [2]bool{false, true}}, false, "", "helloagain"},
		{"nothing, and then lost", trouble{hold: [2]bool{true, true}}, true, "", ""},
		{"delayed", trouble{delay: 20 * time.Millisecond}, false, "hello", "again"},
		{"reset half way", trouble{reset: true, after: 7}, false, "he", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			t.Parallel()
			l, c := echo(t)
			l.set(x.t, false)
			within := patience
			if x.t.hold != [2]bool{} {
				within = moment
			}
			got, err := said(t, c, "hello", within)
			if got != x.want {
				t.Fatalf("heard %q (%v), want %q", got, err, x.want)
			}
			l.set(trouble{}, x.lost)
			if x.then == "" {
				if got, err := said(t, c, "again", patience); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("heard %q (%v) on a connection that was lost", got, err)
				}
				return
			}
			if _, err := io.WriteString(c, "again"); err != nil {
				t.Fatal(err)
			}
			if got, err := heard(t, c, len(x.then), patience); got != x.then {
				t.Errorf("heard %q (%v), want %q", got, err, x.then)
			}
		})
	}
}

func TestWhatIsUndoneIsUndoneOnce(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name string
		m    marks
		ok   bool
	}{
		{"nothing", nil, true},
		{"done and undone", each("a pay forward", "a pay rollback"), true},
		{"not undone", each("a pay forward"), false},
		{"undone without being done", each("a pay rollback"), false},
		{"undone twice", each("a pay forward", "a pay rollback", "a pay rollback"), false},
		{"done twice", each("a pay forward", "a pay forward", "a pay rollback"), false},
		{"confirmed", each("a try forward", "a try commit"), false},
		{"a row that stayed", each("a at"), false},
		{"a message that was sent", each("a sent"), false},
	} {
		if bad := undone(x.m); (bad == "") != x.ok {
			t.Errorf("%s: %q", x.name, bad)
		}
	}
}

// The same seed gives the same faults, and each kind comes.
func TestAPlanFollowsFromItsSeed(t *testing.T) {
	t.Parallel()
	w := &world{disk: &disk{}, links: map[string]*link{"a>b": nil}}
	draw := func(seed uint64) (text string) {
		var bag []string
		for _, f := range w.plan(rand.New(rand.NewPCG(seed, 1)), time.Minute, &bag) {
			text += f.at.String() + " " + f.String() + "\n"
		}
		return text
	}
	one := draw(1)
	if one != draw(1) || one == draw(2) {
		t.Error("the seed does not decide")
	}
	for name, k := range faultKinds {
		if len(k.targets(w)) > 0 && !strings.Contains(one, name+" ") {
			t.Errorf("no %s in a minute", name)
		}
	}
}
