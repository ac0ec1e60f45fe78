package child

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a started child. Its methods are safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; read it after done
}

// Start starts the command in a process group of its own. When this process
// ends, the child gets the signal atParentDeath.
//
// The kernel ties that signal to the thread that started the child. So that
// thread is kept for it until the child ends.
func Start(cmd *exec.Cmd, atParentDeath syscall.Signal) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	ownGroup(cmd)
	dieWithParent(cmd, atParentDeath)
	started := make(chan error, 1)
	go func() { // ends with the child
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		release, err := watchOver(cmd.Process.Pid, atParentDeath)
		if err != nil {
			killGroup(cmd.Process)
			started <- errors.Join(err, cmd.Wait())
			return
		}
		defer release()
		started <- nil
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the child ended; only after Done is closed.
func (p *Process) Err() error { return p.err }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Interrupt asks the child to end, as Ctrl-C does.
func (p *Process) Interrupt() { _ = p.cmd.Process.Signal(os.Interrupt) }

// Kill ends the child and its group with SIGKILL and waits for that.
func (p *Process) Kill() {
	killGroup(p.cmd.Process)
	<-p.done
}
