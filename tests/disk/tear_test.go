package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/grpc"

	pb "github.com/handfast/handfast/proto/handfast/v1"
	"github.com/handfast/handfast/tc/store"
	"github.com/handfast/handfast/tm"
)

// How a file can be torn from some byte on.
const (
	cutOff = "cut off"
	zeros  = "zeros"
	noise  = "noise"
	flip   = "one bit" // of that byte alone
)

// newestLog gives the path of the newest write-ahead log on a disk.
func newestLog(fs vfs.FS) (string, error) {
	names, err := fs.List(storeDir)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".log") })
	if len(names) == 0 {
		return "", nil
	}
	return fs.PathJoin(storeDir, slices.Max(names)), nil
}

// content is what is in a file; nothing where there is none.
func content(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, nil //nolint:nilerr // there is no other reason on this disk
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// torn copies a disk, with a file that is torn from a byte on.
func torn(mem *vfs.MemFS, path string, b []byte, at int, how string) (*vfs.MemFS, error) {
	c := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	b = slices.Clone(b)
	rest := b[at:]
	switch how {
	case cutOff:
		b = b[:at]
	case zeros:
		clear(rest)
	case noise:
		rng := rand.New(rand.NewPCG(uint64(at), 2))
		for i := range rest {
			rest[i] = byte(rng.Uint32())
		}
	case flip:
		rest[0] ^= 1 << (at % 8)
	}
	f, err := c.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	return c, errors.Join(err, f.Sync(), f.Close())
}

// errForgot: a coordinator has started and knows less than was told.
var errForgot = errors.New("it is forgotten")

// examine starts a coordinator on a disk, whom nobody else talks to, and has it tell what
// it knows of what anybody was told. The error is errForgot, or what it says itself.
func (r *run) examine(mem *vfs.MemFS) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	w.mute = true
	l, err := w.start(newDrive(mem, fault{}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := w.admin.List(ctx, &pb.ListRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	known := map[string]*pb.Transaction{}
	for _, tx := range list.GetTransactions() {
		known[tx.GetXid()], known[tx.GetKey()] = tx, tx
	}
	l.cut() // nobody says goodbye
	_ = l.end()
	if errs := r.remembers(func(x string) *pb.Transaction { return known[x] }, false); len(errs) > 0 {
		return fmt.Errorf("%w: %w", errForgot, errors.Join(errs...))
	}
	return nil
}

// some gives about n of the numbers from a to b, both ends included; ten times as many
// where everything is tried.
func some(a, b, n int) (out []int) {
	if *everything {
		n *= 10
	}
	step := max(1, (b-a)/n)
	for i := a; i < b; i += step {
		out = append(out, i)
	}
	return append(out, b)
}

// tearTail has the power go while the log is written: of what was not synced anything may
// be there, and whatever it is, the start cuts it off.
func tearTail(r *run, d *drive) error {
	path, err := newestLog(d.whole)
	if err != nil || path == "" {
		return err
	}
	whole, err := content(d.whole, path)
	if err != nil {
		return err
	}
	synced, err := content(d.synced, path)
	if err != nil {
		return err
	}
	for _, at := range some(len(synced), len(whole), 3) {
		for _, how := range []string{cutOff, zeros, noise} {
			disk, err := torn(d.whole, path, whole, at, how)
			if err != nil {
				return err
			}
			counted.add("torn tails, "+how, 1)
			if err := r.examine(disk); err != nil {
				return fmt.Errorf("%s is %s from byte %d on, of %d synced and %d written: %w", path, how, at, len(synced), len(whole), err)
			}
		}
	}
	return nil
}

// A log that ends in the middle of a record, or in something else, gives back everything
// up to where it was synced.
func TestATornTailTakesBackNothingThatWasTold(t *testing.T) {
	t.Parallel()
	list := each([]fault{{what: powerBefore, class: force}})
	if !*everything {
		list = sampled(list, 8)
	}
	for i := range list {
		list[i].look = "torn"
	}
	tryAll(t, list, 1)
}

// block is what the log is written in. Whether what is damaged should be whole is only
// said by a later block.
const block = 32 << 10

// damage flips bits in what was synced. That is no power loss but a broken disk: it is
// found, and the start refused with the name of the file, unless it is in the last block
// of the newest log. There it is taken for a record that the power loss has torn.
func damage(r *run, d *drive) error {
	path, err := newestLog(d.synced)
	if err != nil || path == "" {
		return err
	}
	b, err := content(d.synced, path)
	if err != nil || len(b) <= block {
		return err
	}
	last := (len(b) - 1) / block * block
	places := append(some(0, last-1, 3), some(last, len(b)-1, 3)...)
	for _, at := range places {
		disk, err := torn(d.synced, path, b, at, flip)
		if err != nil {
			return err
		}
		err = r.examine(disk)
		switch {
		case err == nil:
			counted.add("damaged bytes of a log, without effect", 1)
		case errors.Is(err, errForgot) && at >= last:
			counted.add("damaged bytes of a log, in its last block, not found", 1)
		case errors.Is(err, errForgot):
			return fmt.Errorf("%s is damaged at byte %d of %d: %w", path, at, len(b), err)
		case !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), storeDir):
			return fmt.Errorf("%s is damaged at byte %d: the error does not say what and where: %w", path, at, err)
		case strings.Contains(err.Error(), filepath.Base(path)):
			counted.add("damaged bytes of a log, start refused, the log named", 1)
		default: // its first record says which incarnation it is
			counted.add("damaged bytes of a log, start refused, the store named", 1)
		}
	}
	return nil
}

// fill makes the log longer than a block.
func fill(r *run) {
	for range 50 {
		ctx := context.Background()
		t, err := r.m.Begin(ctx, tm.WithName(strings.Repeat("x", tm.MaxName)))
		if err == nil {
			err = r.m.Rollback(ctx, t, errors.New(strings.Repeat("y", 1000)))
		}
		if err != nil {
			r.alarm("fill: %v", err)
		}
	}
}

func TestDamageInALogIsFoundUnlessItIsInTheLastBlock(t *testing.T) {
	t.Parallel()
	list := each([]fault{{}})
	if !*everything {
		list = sampled(list, 2)
	}
	for _, s := range list {
		s.faults, s.look = nil, "damaged"
		tryOne(t, s.point)
	}
}
