package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/handfast/handfast/cmd/handfast/internal/demo"
)

// Exit codes of the binary.
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2
)

// Streams is what a command reads and writes besides its arguments.
type Streams struct {
	Out     io.Writer
	Err     io.Writer
	Environ []string // as os.Environ
}

// getenv gives the last value of a variable, "" when it is not set.
func (s Streams) getenv(name string) string {
	for i := len(s.Environ) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(s.Environ[i], "="); ok && k == name {
			return v
		}
	}
	return ""
}

// say writes to standard error. What cannot be said there can be said nowhere.
func (s Streams) say(format string, args ...any) { _, _ = fmt.Fprintf(s.Err, format, args...) }

// usageError is a call that cannot work, whatever the state of the world.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// Main runs one command and returns the exit code. SIGINT and SIGTERM end the
// command's context; a second one ends the process at once.
func Main(args []string, s Streams) int {
	ctx, stop := signalContext()
	defer stop()
	return Run(ctx, args, s)
}

// signalContext is done at the first SIGINT or SIGTERM. The second one exits at
// once with 128 and its number. The two are read from one channel: to restore
// the usual effect of signals after the first would leave a moment in which the
// second is lost.
func signalContext() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	stopped := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			select {
			case <-stopped:
				return
			case sig := <-signals:
				if n, ok := sig.(syscall.Signal); ok && !first {
					os.Exit(128 + int(n))
				}
				cancel()
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(stopped)
		cancel()
	}
}

// Run runs one command under ctx and returns the exit code.
func Run(ctx context.Context, args []string, s Streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	var silent *exitError
	if errors.As(err, &silent) {
		return silent.code
	}
	s.say("handfast: %s\n", cleanLines(err.Error()))
	var usage *usageError
	if errors.As(err, &usage) {
		s.say("Run '%s --help' for how to use it.\n", cmd.CommandPath())
		return ExitUsage
	}
	return ExitFailure
}

// exitError ends the process with a code; everything was said already.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func newRoot(s Streams) *cobra.Command {
	root := group(&cobra.Command{
		Use:   "handfast",
		Short: "Global transactions over several databases: all of it, or no trace of it",
		Long: `handfast coordinates global transactions: each service changes rows in its own
Postgres database, and either all of these changes stay or none does.

Start with:  handfast demo      the whole thing on this machine, crashes included
             handfast dev       a coordinator to develop against`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	})
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newServer(s), newDev(s), newTx(s), newStatus(s), newAdopt(s), newPg(s), newVersion(s),
		demo.Command(s.Out, s.getenv, func(err error) error { return &usageError{err} }), demo.ServiceCommand())
	return root
}

// group makes cmd a parent that does nothing itself: without a subcommand it
// prints its help, with a wrong one it says which there are.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				names = append(names, c.Name())
			}
		}
		return usagef("%s has no command %q; there are %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	return cmd
}

// noArgs refuses arguments as a wrong call.
func noArgs(cmd *cobra.Command, a []string) error {
	if len(a) > 0 {
		return usagef("%s takes no arguments, got %q", cmd.CommandPath(), a[0])
	}
	return nil
}
