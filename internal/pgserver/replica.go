package pgserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

// StartReplica runs a hot standby of a running server, which follows it over
// streaming replication. It is another Server, to be stopped before the first.
// ctx bounds the start only.
func StartReplica(ctx context.Context, of *Server) (s *Server, err error) {
	s = &Server{opts: of.opts, bin: of.bin, user: of.user, free: freePort, follows: of.port}
	if s.dir, err = makeDir(s.user, s.opts.Scratch); err != nil {
		return nil, err
	}
	if s.release, err = guard(s.user, s.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err = s.copyFrom(ctx, of); err == nil {
		err = s.firstLaunch(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("replica: %w", err), s.discard())
	}
	return s, nil
}

// copyFrom takes a base backup, as pg_basebackup does; that program need not be
// among the binaries.
func (s *Server) copyFrom(ctx context.Context, of *Server) error {
	conn, err := pgx.Connect(ctx, of.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // the backup has ended or is broken off
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('replica', true)"); err != nil {
		return err
	}
	if err := s.copyTree(of.data()); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return err
	}
	return errors.Join(s.put("backup_label", label), s.put("standby.signal", ""))
}

func (s *Server) copyTree(from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && (d.Name() == "postmaster.pid" || d.Name() == "postmaster.opts"):
			return nil // gone meanwhile; or of the other process
		case err != nil:
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(s.data(), rel)
		if d.IsDir() {
			if err := os.Mkdir(to, 0o700); err != nil {
				return err
			}
			return s.own(to)
		}
		in, err := os.Open(path) //nolint:gosec // in a directory of our own
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer in.Close() //nolint:errcheck // it was only read
		out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close(), s.own(to))
	})
}

func (s *Server) put(name, content string) error {
	path := filepath.Join(s.data(), name)
	return errors.Join(os.WriteFile(path, []byte(content), 0o600), s.own(path))
}

func (s *Server) own(path string) error {
	if s.user == nil {
		return nil
	}
	return os.Chown(path, s.user.uid, s.user.gid)
}
