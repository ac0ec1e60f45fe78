package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/handfast/handfast/examples/internal/bench"
	"github.com/handfast/handfast/fence"
	"github.com/handfast/handfast/xid"
)

func TestItRunsAndConfirmsOrCancelsBoth(t *testing.T) {
	t.Parallel()
	bench.Check(t, stage,
		"stock    /try      200 OK",
		"payment  /try      200 OK",
		"confirmed   stock: 8 free, 0 reserved   payment: balance 40, held 0",
		"payment  /try      409 Conflict",
		"stock    /cancel   200 OK",
		"cancelled   stock: 8 free, 0 reserved   payment: balance 40, held 0",
		"payment  /cancel   204 No Content",
		"cancelled   stock: 8 free, 0 reserved   payment: balance 40, held 0",
		"payment  /try      409 Conflict",
		"afterwards   stock: 8 free, 0 reserved   payment: balance 40, held 0",
	)
}

// Without a coordinator: whoever names the call in the headers may call, as often as
// they like.
func TestEachActionHasItsEffectOnce(t *testing.T) {
	t.Parallel()
	bench.Play(t, func(ctx context.Context, b *bench.Bench) error {
		s, _, err := open(ctx, b)
		if err != nil {
			return err
		}
		call := fence.Call{XID: xid.New(xid.Parts{Begin: time.Now()}), Branch: xid.NewBranchID()}
		for _, step := range []struct {
			path   string
			action fence.Action
			want   int
		}{
			{"/try", fence.Forward, http.StatusOK},
			{"/try", fence.Forward, http.StatusOK},
			{"/confirm", fence.Commit, http.StatusOK},
			{"/confirm", fence.Commit, http.StatusOK},
			{"/cancel", fence.Rollback, http.StatusServiceUnavailable}, // a coordinator never asks for both
		} {
			call.Action = step.action
			if got, err := post(ctx, s.stock+step.path, call, item{"teapot", 3}); err != nil || got != step.want {
				t.Errorf("%s: %d, %v, want %d", step.path, got, err, step.want)
			}
		}
		if got, err := post(ctx, s.stock+"/try", fence.Call{}, item{"teapot", 3}); err != nil || got != http.StatusBadRequest {
			t.Errorf("a call without a name: %d, %v", got, err)
		}
		b.Want(ctx, t, "7 free, 0 reserved", "balance 100, held 0")
		return nil
	})
}

func post(ctx context.Context, url string, call fence.Call, what any) (code int, err error) {
	body, err := json.Marshal(what)
	if err != nil {
		return 0, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	call.Set(r.Header)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, answer.Body.Close()
}
