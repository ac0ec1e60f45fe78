package containers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dockerclient "github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// engine is what the suite needs of the container engine.
type engine struct {
	t        *testing.T // containers live as long as this test, whichever subtest starts them
	provider *testcontainers.DockerProvider
	net      *testcontainers.DockerNetwork
}

// quiet drops testcontainers' progress lines; failures come back as errors.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

func newEngine(t *testing.T) *engine {
	t.Helper()
	log.SetDefault(quiet{})
	p, err := testcontainers.NewDockerProvider()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	nw, err := network.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	testcontainers.CleanupNetwork(t, nw)
	return &engine{t: t, provider: p, net: nw}
}

// image builds a Go program without cgo and an image that holds nothing else.
// The image is removed when the test ends.
func (e *engine) image(t *testing.T, module, pkg, binary, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	// An empty directory becomes the volume's mount point.
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(dir, binary), pkg)
	build.Dir = module
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
	content, err := os.ReadFile(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	tag, err := e.provider.BuildImage(t.Context(), &testcontainers.ContainerRequest{
		FromDockerfile: testcontainers.FromDockerfile{Context: dir, Repo: "handfast-test-" + binary, Tag: fmt.Sprint(time.Now().UnixNano())},
	})
	if err != nil {
		t.Fatalf("build image of %s: %v", binary, err)
	}
	t.Cleanup(func() {
		_, err := e.provider.Client().ImageRemove(context.Background(), tag, dockerclient.ImageRemoveOptions{Force: true, PruneChildren: true})
		if err != nil {
			t.Errorf("remove image %s: %v", tag, err)
		}
	})
	return tag
}

// volume makes a volume that is removed when the test ends.
func (e *engine) volume(t *testing.T, name string) string {
	t.Helper()
	v, err := e.provider.Client().VolumeCreate(t.Context(), dockerclient.VolumeCreateOptions{
		Name: fmt.Sprintf("handfast-test-%s-%d", name, os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := e.provider.Client().VolumeRemove(context.Background(), v.Volume.Name, dockerclient.VolumeRemoveOptions{Force: true})
		if err != nil {
			t.Errorf("remove volume: %v", err)
		}
	})
	return v.Volume.Name
}

// node is one container with a name on the network.
type node struct {
	*testcontainers.DockerContainer
	e       *engine
	name    string
	removed bool
}

// remove ends the container and removes what it wrote, but for volumes.
func (n *node) remove(t *testing.T) {
	t.Helper()
	n.removed = true
	if err := testcontainers.TerminateContainer(n.DockerContainer, testcontainers.StopTimeout(time.Second)); err != nil {
		t.Errorf("terminate %s: %v", n.name, err)
	}
}

// run starts a container. When the test has failed, its last lines of log are shown.
func (e *engine) run(t *testing.T, name, image string, opts ...testcontainers.ContainerCustomizer) *node {
	t.Helper()
	opts = append([]testcontainers.ContainerCustomizer{network.WithNetwork([]string{name}, e.net)}, opts...)
	c, err := testcontainers.Run(e.t.Context(), image, opts...)
	n := &node{DockerContainer: c, e: e, name: name}
	e.t.Cleanup(func() {
		if c == nil || n.removed {
			return
		}
		if e.t.Failed() {
			n.showLog(e.t)
		}
		n.remove(e.t)
	})
	if err != nil {
		t.Fatalf("run %s: %v", name, err)
	}
	return n
}

// finish runs a container that ends by itself and gives what it printed. It
// fails the test when the exit code is not 0.
func (e *engine) finish(t *testing.T, image string, cmd ...string) string {
	t.Helper()
	n := e.run(t, "once", image, testcontainers.WithCmd(cmd...),
		testcontainers.WithWaitStrategyAndDeadline(time.Minute, wait.ForExit()))
	st, err := n.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := n.log(t)
	if st.ExitCode != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(cmd, " "), st.ExitCode, out)
	}
	return out
}

// kill is kill -9: the process has no time for anything.
func (n *node) kill(t *testing.T) {
	t.Helper()
	if _, err := n.e.provider.Client().ContainerKill(t.Context(), n.GetContainerID(), dockerclient.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatalf("kill %s: %v", n.name, err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		st, err := n.State(t.Context())
		if err == nil && !st.Running {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s still runs after a kill: %v", n.name, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// start runs a killed container again, on the same file system.
func (n *node) start(t *testing.T) {
	t.Helper()
	if err := n.Start(t.Context()); err != nil {
		t.Fatalf("start %s: %v", n.name, err)
	}
}

// pause stops the processes of the container where they are; the network
// stays, so that to others it is merely silent.
func (n *node) pause(t *testing.T) {
	t.Helper()
	if _, err := n.e.provider.Client().ContainerPause(t.Context(), n.GetContainerID(), dockerclient.ContainerPauseOptions{}); err != nil {
		t.Fatalf("pause %s: %v", n.name, err)
	}
}

func (n *node) resume(t *testing.T) {
	t.Helper()
	if _, err := n.e.provider.Client().ContainerUnpause(t.Context(), n.GetContainerID(), dockerclient.ContainerUnpauseOptions{}); err != nil {
		t.Fatalf("resume %s: %v", n.name, err)
	}
}

func (n *node) log(t *testing.T) string {
	t.Helper()
	r, err := n.Logs(context.Background())
	if err != nil {
		t.Logf("log of %s: %v", n.name, err)
		return ""
	}
	defer func() { _ = r.Close() }()
	var b strings.Builder
	buf := make([]byte, 32<<10)
	for {
		k, err := r.Read(buf)
		b.Write(buf[:k])
		if err != nil || b.Len() > 1<<20 {
			return b.String()
		}
	}
}

func (n *node) showLog(t *testing.T) {
	t.Helper()
	text := n.log(t)
	const most = 2500
	if len(text) > most {
		text = "... " + text[len(text)-most:]
	}
	t.Logf("log of %s:\n%s", n.name, text)
}
