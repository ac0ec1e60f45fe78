package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"

	"github.com/handfast/handfast/cmd/handfast/internal/config"
	"github.com/handfast/handfast/internal/child"
	"github.com/handfast/handfast/tc"
	"github.com/handfast/handfast/tc/api"
	"github.com/handfast/handfast/tc/caller"
	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/tc/dtm"
	"github.com/handfast/handfast/tc/engine"
)

// settingsFlags adds the flags of the settings and of the file to cmd and
// gives the function that reads them all.
func settingsFlags(s Streams, cmd *cobra.Command, defaults config.Server, without ...string) func() (*config.Loaded, error) {
	loader := config.NewLoader(cmd.Flags(), defaults, without...)
	var file string
	cmd.Flags().StringVar(&file, "config", "", "YAML `file` of settings (HANDFAST_CONFIG); HANDFAST_* and flags win over it")
	return func() (*config.Loaded, error) {
		if file == "" {
			file = s.getenv(config.EnvName("config"))
		}
		loaded, err := loader.Load(file, s.Environ)
		if err != nil {
			return nil, &usageError{err}
		}
		return loaded, nil
	}
}

func newServer(s Streams) *cobra.Command {
	var printConfig bool
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a coordinator",
		Long: `Runs a coordinator until SIGTERM or SIGINT. It then tells its clients, finishes
what is in flight and exits; a second signal ends it at once, which loses nothing.`,
		Args: noArgs,
	}
	load := settingsFlags(s, cmd, config.Defaults())
	cmd.Flags().BoolVar(&printConfig, "print-config", false, "print the settings and where each comes from, and exit")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		loaded, err := load()
		if err != nil {
			return err
		}
		if printConfig {
			_, err := fmt.Fprint(s.Out, loaded)
			return err
		}
		return serve(cmd.Context(), s, loaded.Server, nil)
	}
	return cmd
}

func newDev(s Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a coordinator with a throw-away store, to develop against",
		Args:  noArgs,
	}
	defaults := config.Defaults()
	defaults.Listen = defaultServer
	defaults.LogLevel = "warn"
	defaults.DTM.Serve = true
	load := settingsFlags(s, cmd, defaults, "store-dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		loaded, err := load()
		if err != nil {
			return err
		}
		cfg := loaded.Server
		// Of those that were killed, or ended by a second signal.
		child.Sweep("", devPrefix)
		if cfg.StoreDir, err = child.MakeDir("", devPrefix); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(cfg.StoreDir)) }()
		return serve(cmd.Context(), s, cfg, func(server *tc.Server) error {
			addr := server.Addr()
			if _, err := fmt.Fprintf(s.Out, devBanner, addr, cfg.StoreDir, addr); err != nil {
				return err
			}
			if http, grpc := server.DTMAddrs(); http != nil {
				_, err := fmt.Fprintf(s.Out, "DTM's clients: http://%s/api/dtmsvr and %s.\n", http, grpc)
				return err
			}
			return nil
		})
	}
	return cmd
}

// devPrefix begins the names of the stores of dev.
const devPrefix = "handfast-dev-"

const devBanner = `Coordinator at %s; its store %s is removed at exit.

Next, in another terminal, with DATABASE_URL set:
  handfast pg install                  once per database
  handfast pg protect public.mytable   each table that takes part
  handfast tx watch                    see transactions as they happen
In a service: client.Dial(%q), then rm.Open and tm.New.
Ctrl-C ends it.
`

// callConfig makes the options of outgoing calls.
func callConfig(s config.Calls) (caller.Config, error) {
	conf := caller.Config{
		Calls: s.Max, CallsPerHost: s.MaxPerHost, WaitingPerHost: s.MaxWaiting,
		DialTimeout: s.DialTimeout, LinkLocal: s.LinkLocal,
	}
	var err error
	if conf.Allow, err = caller.Rules(config.SplitList(s.Allow), config.SplitList(s.Deny)); err != nil {
		return conf, fmt.Errorf("call-allow, call-deny: %w", err)
	}
	conf.TLS, err = callTLS(s)
	return conf, err
}

// serve runs a coordinator until ctx ends. ready, if set, is called when it
// listens.
func serve(ctx context.Context, s Streams, cfg config.Server, ready func(*tc.Server) error) error {
	log, err := newLogger(s.Err, cfg)
	if err != nil {
		return err
	}
	crash, err := tc.CrashPoint(s.getenv(tc.CrashPointEnv), log)
	if err != nil {
		return usagef("%s: %w", tc.CrashPointEnv, err)
	}
	calls, err := callConfig(cfg.Calls)
	if err != nil {
		return err
	}
	conf := tc.Config{
		Listen:       cfg.Listen,
		StoreDir:     cfg.StoreDir,
		Engine:       engine.Config{Shards: cfg.Shards, Retention: cfg.Retention, CrashPoint: crash, Core: core.Config{MaxHeld: cfg.PayloadMemory}},
		API:          api.Config{Version: buildVersion().Version, DefaultTimeout: cfg.DefaultTimeout},
		Calls:        calls,
		DrainTimeout: cfg.DrainTimeout,
		NoReflection: !cfg.Reflection,
		Log:          log,
	}
	if cfg.DTM.Serve {
		conf.DTM = &dtm.Config{HTTP: cfg.DTM.HTTP, GRPC: cfg.DTM.GRPC, Version: conf.API.Version}
	}
	tlsConfig, err := serverTLS(cfg)
	if err != nil {
		return err
	}
	if tlsConfig != nil {
		conf.Credentials = credentials.NewTLS(tlsConfig)
	}
	server, err := tc.NewServer(ctx, conf)
	if errors.Is(err, dtm.ErrListen) && ready != nil {
		// To develop against it is worth something without DTM's clients, too.
		log.Warn("DTM's clients are not served; --dtm-http and --dtm-grpc name other addresses", "error", err)
		conf.DTM = nil
		server, err = tc.NewServer(ctx, conf)
	}
	if errors.Is(err, dtm.ErrListen) {
		return fmt.Errorf("%w; --dtm-http and --dtm-grpc name other addresses", err)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; is a coordinator running there already? --listen names another address", err)
	}
	if err != nil {
		return err
	}
	if ready != nil {
		if err := ready(server); err != nil {
			// The banner cannot be written; nobody would know of this server.
			return errors.Join(err, server.Shutdown(ctx))
		}
	}
	return server.Serve(ctx)
}
