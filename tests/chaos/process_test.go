//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/handfast/handfast/internal/child"
)

// node is what can be killed, stopped, and started again: a process, or a container.
type node interface {
	name() string
	start(ctx context.Context) error // returns when it serves
	kill()                           // as kill -9 does
	pause() error                    // as SIGSTOP does; resume undoes it
	resume()
	// exited is closed when what was started has ended, by whomever.
	exited() <-chan struct{}
	quiet(on bool) // its end is no surprise while this is on
	tail() string  // of its log
}

// lastLines keeps the end of a log, of all starts of a process.
type lastLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxLog = 256 << 10

// Write implements io.Writer.
func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Write(p)
	if l.buf.Len() > 2*maxLog {
		l.buf.Next(l.buf.Len() - maxLog)
	}
	return len(p), nil
}

func (l *lastLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// process is a node on this machine.
type process struct {
	called string
	make   func() *exec.Cmd
	ready  func(ctx context.Context) error
	log    lastLines
	// alone is called where it ends and nobody has asked for that.
	alone func(p *process, err error)

	mu         sync.Mutex
	proc       *child.Process
	deliberate bool // its end
	mayEnd     bool
}

func (p *process) name() string { return p.called }
func (p *process) tail() string { return p.log.text() }

func (p *process) current() *child.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.proc
}

var never = make(chan struct{})

func (p *process) exited() <-chan struct{} {
	if c := p.current(); c != nil {
		return c.Done()
	}
	return never
}

// launch starts it and does not wait until it serves.
func (p *process) launch() error {
	cmd := p.make()
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	_, _ = fmt.Fprintf(&p.log, "--- %s: started\n", time.Now().UTC().Format("15:04:05.000"))
	proc, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.proc, p.deliberate = proc, false
	p.mu.Unlock()
	go func() { // ends with the process
		<-proc.Done()
		p.mu.Lock()
		alone := !p.deliberate && !p.mayEnd && p.proc == proc
		p.mu.Unlock()
		if alone && p.alone != nil {
			p.alone(p, proc.Err())
		}
	}()
	return nil
}

func (p *process) quiet(on bool) {
	p.mu.Lock()
	p.mayEnd = on
	p.mu.Unlock()
}

// expectEnd is for one end.
func (p *process) expectEnd() {
	p.mu.Lock()
	p.deliberate = true
	p.mu.Unlock()
}

func (p *process) start(ctx context.Context) error {
	if err := p.launch(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited():
			return fmt.Errorf("%s ended: %w", p.called, errors.Join(p.current().Err(), errEnded))
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", p.called, err)
		case <-time.After(20 * time.Millisecond): // an outside process gives no signal
		}
	}
}

var errEnded = errors.New("it is not running")

func (p *process) kill() {
	p.expectEnd()
	if c := p.current(); c != nil {
		select {
		case <-c.Done(): // its id may be another's by now
		default:
			c.Kill()
		}
	}
}

func (p *process) signal(s syscall.Signal) error {
	c := p.current()
	if c == nil {
		return errEnded
	}
	select {
	case <-c.Done():
		return errEnded
	default:
		return syscall.Kill(c.PID(), s)
	}
}

func (p *process) pause() error { return p.signal(syscall.SIGSTOP) }
func (p *process) resume()      { _ = p.signal(syscall.SIGCONT) }

// stop asks it to end, and kills it if it does not within the time.
func (p *process) stop(within time.Duration) (inTime bool) {
	c := p.current()
	if c == nil {
		return true
	}
	p.expectEnd()
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-c.Done():
		return true
	case <-time.After(within):
		p.kill()
		return false
	}
}

// asRole makes this program play a part: its value is a part as JSON.
const asRole = "HANDFAST_CHAOS_ROLE"

// part is what a process of this program has to know. Addresses are those of links.
type part struct {
	Role        string // service, caller
	Name        string // a, b
	Listen      string
	Coordinator string
	DTM         [2]string // of the coordinator, too: HTTP and gRPC
	DSN         string
	Peer        string    // URL of the other service
	Targets     [2]string // URLs of both, as the coordinator reaches them
	Services    [2]string // URLs of both, as the caller does
	Plain       [2]string // DSNs, for sessions that know nothing of Handfast
	Told        string    // the file
	Seed        uint64
	Workers     int
	Only        string // how the names of the transactions begin
	Planted     string // what is wrong with the service; see planted
}

func (p part) command() *exec.Cmd {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // it is plain data
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(withoutRole(os.Environ()), asRole+"="+string(text))
	return cmd
}

func withoutRole(env []string) (out []string) {
	for _, v := range env {
		if !strings.HasPrefix(v, asRole+"=") {
			out = append(out, v)
		}
	}
	return out
}

// keep has a shell run a script when this process dies, however that happens. release
// ends the shell without it; with run true, it has it run now.
func keep(script string, args ...string) (release func(run bool), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", "read -r x && exit\n" + script, "sh"}, args...)...)
	cmd.Stdin, cmd.Dir = r, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's Ctrl-C is not for it
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return func(run bool) {
		if !run {
			_, _ = w.WriteString("done\n")
		}
		_ = w.Close()
		_ = cmd.Wait()
	}, nil
}
