//go:build unix

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// docker runs a command of Docker.
func docker(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, text)
	}
	return text, nil
}

// engine is a network of Docker, and what runs in it. A shell removes all of it, also
// where this process is killed.
type engine struct {
	prefix  string // of all names
	subnet  string // its first three numbers
	release func(run bool)
}

func newEngine(ctx context.Context) (*engine, error) {
	e := &engine{prefix: fmt.Sprintf("handfast-chaos-%d-", os.Getpid())}
	release, err := keep(`ids=$(docker ps -aq --filter "name=$1"); [ -z "$ids" ] || docker rm -f -v $ids
		docker network rm "$1"net; docker rmi -f "$1"image; exit 0`, e.prefix)
	if err != nil {
		return nil, err
	}
	e.release = release
	for i := range 50 {
		e.subnet = fmt.Sprintf("10.%d.%d", 90+i, os.Getpid()%250)
		if _, err = docker(ctx, "network", "create", "--subnet", e.subnet+".0/24", e.prefix+"net"); err == nil {
			return e, nil
		}
	}
	release(true)
	return nil, err
}

func (e *engine) close() { e.release(true) }

// gateway is where those inside reach this process.
func (e *engine) gateway() string { return e.subnet + ".1" }

// build makes the image of the coordinator as the Dockerfile says.
func (e *engine) build(ctx context.Context, dir, binary, root string) error {
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	if err := os.Link(binary, filepath.Join(dir, "handfast")); err != nil {
		return err
	}
	_, err := docker(ctx, "build", "-q", "-t", e.prefix+"image", "-f", filepath.Join(root, "Dockerfile"), dir)
	return err
}

// container is a node in Docker.
type container struct {
	e      *engine
	called string
	ip     string
	run    []string // the rest of "docker run"
	ready  func(ctx context.Context) error
	alone  func(n node, err error)

	mu         sync.Mutex
	made       bool
	ended      chan struct{}
	deliberate bool // its end
	mayEnd     bool
}

func (c *container) name() string { return c.called }
func (c *container) id() string   { return c.e.prefix + c.called }

func (c *container) exited() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended == nil {
		return never
	}
	return c.ended
}

func (c *container) quiet(on bool) {
	c.mu.Lock()
	c.mayEnd = on
	c.mu.Unlock()
}

func (c *container) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var err error
	if c.made {
		_, err = docker(ctx, "start", c.id())
	} else {
		_, err = docker(ctx, append([]string{"run", "-d", "--name", c.id(), "--network", c.e.prefix + "net", "--ip", c.ip}, c.run...)...)
		c.made = true
	}
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	c.mu.Lock()
	c.ended, c.deliberate = ended, false
	c.mu.Unlock()
	go func() { // ends with the container, which ends with the test
		defer close(ended)
		_, err := docker(context.Background(), "wait", c.id())
		c.mu.Lock()
		alone := !c.deliberate && !c.mayEnd
		c.mu.Unlock()
		if alone && c.alone != nil {
			c.alone(c, err)
		}
	}()
	for {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("%s: %w", c.called, errEnded)
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", c.called, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *container) kill() {
	c.mu.Lock()
	c.deliberate = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, _ = docker(ctx, "kill", "-s", "KILL", c.id())
	select {
	case <-c.exited():
	case <-ctx.Done():
	}
}

func (c *container) pause() error {
	return c.command("pause", c.id())
}

func (c *container) resume() { _ = c.command("unpause", c.id()) }

// command is a command of Docker that takes moments.
func (c *container) command(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := docker(ctx, args...)
	return err
}

func (c *container) tail() string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	text, err := docker(ctx, "logs", "--tail", "300", c.id())
	return cmp.Or(text, fmt.Sprint(err))
}

// sever takes it off the network, and mend puts it back.
func (c *container) sever() error {
	return c.command("network", "disconnect", c.e.prefix+"net", c.id())
}

func (c *container) mend() error {
	return c.command("network", "connect", "--ip", c.ip, c.e.prefix+"net", c.id())
}

// contained is a database in a container.
type contained struct{ container }

func newContained(ctx context.Context, e *engine, name, ip string) (*contained, error) {
	c := &contained{container{e: e, called: "pg" + name, ip: ip}}
	c.run = []string{"-e", "POSTGRES_USER=app", "-e", "POSTGRES_HOST_AUTH_METHOD=trust", "-e", "POSTGRES_DB=" + name,
		cmp.Or(os.Getenv("HANDFAST_TEST_POSTGRES_IMAGE"), "postgres:15-bookworm")}
	for k, v := range pgSettings {
		c.run = append(c.run, "-c", k+"="+v)
	}
	c.ready = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, c.dsn())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}
	return c, c.start(ctx)
}

func (c *contained) address() string { return c.ip + ":5432" }

func (c *contained) dsn() string {
	return fmt.Sprintf("postgres://app@%s/%s?sslmode=disable", c.address(), strings.TrimPrefix(c.called, "pg"))
}

func (c *contained) crash(ctx context.Context) error {
	c.kill()
	return c.start(ctx)
}

var errFromOutside = errors.New("processes of a container are not ours to kill")

func (c *contained) backend(int) error { return errFromOutside }

func (c *contained) severable() (sever, mend func() error) { return c.sever, c.mend }
