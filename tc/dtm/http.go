package dtm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/handfast/handfast/tc/core"
	"github.com/handfast/handfast/xid"
)

const jsonType = "application/json; charset=utf-8"

// dtmVersion is the version whose contract this is.
const dtmVersion = "v1.19.0"

// maxList bounds one answer of a list.
const maxList = 1000

// success is the answer of what gives nothing back.
var success = map[string]string{"dtm_result": "SUCCESS"}

// endpoint answers one request. nil stands for success.
type endpoint func(r *http.Request) (any, error)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	const at = " /api/dtmsvr/"
	for pattern, e := range map[string]endpoint{
		"GET" + at + "newGid": func(*http.Request) (any, error) {
			return map[string]string{"dtm_result": "SUCCESS", "gid": newGid()}, nil
		},
		"POST" + at + "prepare":           s.trans(s.svc.prepare),
		"POST" + at + "submit":            s.trans(s.svc.submit),
		"POST" + at + "abort":             s.trans(s.svc.abort),
		"POST" + at + "forceStop":         s.trans(func(ctx context.Context, r *request) error { return s.svc.forceStop(ctx, r.Gid) }),
		"POST" + at + "resetNextCronTime": s.trans(func(ctx context.Context, r *request) error { return s.svc.retryNow(ctx, r.Gid) }),
		"POST" + at + "registerBranch":    s.registerHTTP,
		"POST" + at + "registerXaBranch":  s.registerHTTP, // of old clients, as the next
		"POST" + at + "registerTccBranch": s.registerHTTP,
		"GET" + at + "query":              s.query,
		"GET" + at + "all":                s.all,
		"GET" + at + "resetCronTime":      s.resetCronTime,
		"GET" + at + "subscribe": func(r *http.Request) (any, error) {
			q := r.URL.Query()
			return nil, s.svc.topics.subscribe(q.Get("topic"), q.Get("url"), q.Get("remark"))
		},
		"GET" + at + "unsubscribe": func(r *http.Request) (any, error) {
			q := r.URL.Query()
			return nil, s.svc.topics.unsubscribe(q.Get("topic"), q.Get("url"))
		},
		"DELETE" + at + "topic/{name}": func(r *http.Request) (any, error) { return nil, s.svc.topics.remove(r.PathValue("name")) },
		"GET" + at + "scanKV":          s.scanKV,
		"GET" + at + "queryKV":         s.queryKV,
		"GET" + at + "version": func(*http.Request) (any, error) {
			return map[string]string{"version": dtmVersion, "server": "handfast " + s.cfg.Version}, nil
		},
		"/api/ping": func(*http.Request) (any, error) { return map[string]string{"msg": "pong"}, nil },
	} {
		mux.Handle(pattern, s.serve(pattern, e))
	}
	mux.Handle("POST"+at+"prepareWorkflow", s.counted("prepareWorkflow", s.prepareWorkflow))
	mux.Handle("POST /api/json-rpc", s.counted("json-rpc", s.jsonRPC))
	mux.HandleFunc("GET /api/metrics", s.metrics)
	return mux
}

// serve writes what an endpoint answers.
func (s *Server) serve(name string, e endpoint) http.Handler {
	return s.counted(name, func(w http.ResponseWriter, r *http.Request) int {
		v, err := e(r)
		status := http.StatusOK
		if err != nil {
			status, v = httpRefusal(refusalOf(err))
		} else if v == nil {
			v = success
		}
		return writeJSON(w, status, v)
	})
}

// counted counts the answers of an endpoint, bounds what it reads, and keeps a panic to
// the request that brought it about.
func (s *Server) counted(name string, f func(http.ResponseWriter, *http.Request) int) http.Handler {
	count := s.counts.of("http", name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusInternalServerError
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("a handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				http.Error(w, "internal error", status) // no JSON, as prepareWorkflow needs it
			}
			count.add(status < http.StatusBadRequest)
		}()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		status = f(w, r)
	})
}

// httpRefusal is what DTM's clients understand.
func httpRefusal(r *refusal) (status int, body map[string]string) {
	body = map[string]string{"message": r.text}
	switch r.kind {
	case failure:
		body["dtm_result"] = "FAILURE"
		return http.StatusConflict, body
	case ongoing:
		body["dtm_result"] = "ONGOING"
		return http.StatusTooEarly, body
	case invalid:
		return http.StatusBadRequest, body
	case busy:
		return http.StatusServiceUnavailable, body
	case other:
	}
	return http.StatusInternalServerError, body
}

func writeJSON(w http.ResponseWriter, status int, v any) int {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"message":"the answer can't be written"}`)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that has gone asks again
	return status
}

// body reads all of a request's body.
func body(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &big):
		return nil, refuse(invalid, "the body is longer than %d bytes", big.Limit)
	case err != nil:
		return nil, refuse(other, "the body broke off: %v", err)
	}
	return b, nil
}

// trans is an endpoint that takes a transaction.
func (s *Server) trans(f func(context.Context, *request) error) endpoint {
	return func(r *http.Request) (any, error) {
		b, err := body(r)
		if err != nil {
			return nil, err
		}
		req, err := parseJSON(b)
		if err != nil {
			return nil, err
		}
		return nil, f(r.Context(), req)
	}
}

func (s *Server) registerHTTP(r *http.Request) (any, error) {
	b, err := body(r)
	if err != nil {
		return nil, err
	}
	return nil, s.registerJSON(r.Context(), b)
}

// registerJSON takes a flat object of texts.
func (s *Server) registerJSON(ctx context.Context, b []byte) error {
	var in map[string]json.RawMessage
	if err := unmarshal(b, &in); err != nil {
		if r := refusalOf(err); r.kind == other {
			r.kind = invalid // as DTM answers this one
		}
		return err
	}
	d := make(map[string]string, len(in))
	for name, v := range in {
		var text string
		if err := json.Unmarshal(v, &text); err != nil {
			return wrong(name, "is no text")
		}
		d[name] = text
	}
	return s.svc.registerBranch(ctx, d["gid"], transType(d["trans_type"]), d, []byte(d["data"]))
}

// prepareWorkflow refuses in plain text: DTM's client takes every JSON object for a
// transaction, and panics where it is none.
func (s *Server) prepareWorkflow(w http.ResponseWriter, r *http.Request) int {
	g, err := func() (g global, err error) {
		b, err := body(r)
		if err != nil {
			return g, err
		}
		req, err := parseJSON(b)
		if err != nil {
			return g, err
		}
		return s.svc.prepareWorkflow(r.Context(), req)
	}()
	if err != nil {
		refused := refusalOf(err)
		status, _ := httpRefusal(refused)
		http.Error(w, refused.text, status)
		return status
	}
	return writeJSON(w, http.StatusOK, map[string]any{"transaction": g.view(), "progresses": g.rows()})
}

func (s *Server) query(r *http.Request) (any, error) {
	gid := r.URL.Query().Get("gid")
	if gid == "" {
		return nil, refuse(other, "no gid specified")
	}
	g, found, err := s.svc.look(r.Context(), gid)
	if err != nil {
		return nil, err
	}
	if !found {
		return map[string]any{"transaction": nil, "branches": []branchView{}}, nil
	}
	return map[string]any{"transaction": g.view(), "branches": g.rows()}, nil
}

// look is find for people: what it shows is durable.
func (s *service) look(ctx context.Context, gid string) (g global, found bool, err error) {
	id, found, err := s.eng.Lookup(gid)
	if err == nil && found {
		g, err = s.get(ctx, id)
	}
	return g, found, err
}

func (s *Server) all(r *http.Request) (any, error) {
	q := r.URL.Query()
	if gid := q.Get("gid"); gid != "" {
		g, found, err := s.svc.look(r.Context(), gid)
		if err != nil || !found {
			return map[string]any{"transactions": nil, "next_position": ""}, err
		}
		return map[string]any{"transactions": []*transactionView{g.view()}, "next_position": ""}, nil
	}
	limit, err := number64(q.Get("limit"), "limit", 100, maxList)
	if err != nil {
		return nil, err
	}
	var before xid.ID
	if p := q.Get("position"); p != "" {
		if before, err = xid.Parse(p); err != nil {
			return nil, wrong("position", "%.100q; want what next_position was", p)
		}
	}
	match, err := matcher(q.Get("status"), q.Get("transType"), q.Get("createTimeStart"), q.Get("createTimeEnd"))
	if err != nil {
		return nil, err
	}
	found, next, err := s.svc.eng.List(r.Context(), before, int(limit), match)
	if err != nil {
		return nil, err
	}
	out := make([]*transactionView, 0, len(found))
	for i := range found {
		g := global{Transaction: found[i]}
		if g.readNote() == nil {
			out = append(out, g.view())
		}
	}
	position := ""
	if !next.IsZero() {
		position = next.String()
	}
	return map[string]any{"transactions": out, "next_position": position}, nil
}

// matcher tells which transactions a list is about; empty: all.
func matcher(st, t, from, to string) (func(*core.Transaction) bool, error) {
	begin, err := number64(from, "createTimeStart", 0, 1<<52)
	if err != nil {
		return nil, err
	}
	end, err := number64(to, "createTimeEnd", 1<<52, 1<<52)
	if err != nil {
		return nil, err
	}
	return func(tx *core.Transaction) bool {
		if tx.Key == "" {
			return false
		}
		g := global{Transaction: *tx}
		for _, of := range []transType{saga, msg, tcc, xa, workflow} {
			if tx.Name == nameOf(of, tx.Key) {
				g.note.Type = of
			}
		}
		ms := tx.XID.Begin().UnixMilli()
		return g.note.Type != "" && ms >= begin && ms <= end &&
			(st == "" || st == string(g.status())) && (t == "" || t == string(g.note.Type))
	}, nil
}

// number64 reads a number of a query.
func number64(s, field string, def, most int64) (int64, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, wrong(field, "%.40q; want a number from 0 to %d", s, most)
	}
	return n, nil
}

func (s *Server) resetCronTime(r *http.Request) (any, error) {
	q := r.URL.Query()
	timeout, err := number64(q.Get("timeout"), "timeout", 3*int64(defaultTimeout/time.Second), maxSeconds)
	if err != nil {
		return nil, err
	}
	limit, err := number64(q.Get("limit"), "limit", 100, maxList)
	if err != nil {
		return nil, err
	}
	done, more, err := s.svc.retryLate(r.Context(), seconds(timeout), int(limit))
	return map[string]any{"has_remaining": more, "succeed_count": done}, err
}

func (s *Server) scanKV(r *http.Request) (any, error) {
	q := r.URL.Query()
	limit, err := number64(q.Get("limit"), "limit", 100, maxList)
	if err != nil {
		return nil, err
	}
	out, next := []kv{}, ""
	if q.Get("cat") == topicsCat {
		if out, next, err = s.svc.topics.list(r.Context(), q.Get("position"), int(limit)); err != nil {
			return nil, err
		}
	}
	return map[string]any{"kv": out, "next_position": next}, nil
}

func (s *Server) queryKV(r *http.Request) (any, error) {
	q := r.URL.Query()
	out := []kv{}
	var err error
	switch key := q.Get("key"); {
	case q.Get("cat") != topicsCat:
	case key == "":
		out, _, err = s.svc.topics.list(r.Context(), "", maxList)
	default:
		var k *kv
		if k, err = s.svc.topics.get(key); k != nil {
			out = append(out, *k)
		}
	}
	return map[string]any{"kv": out}, err
}

// rpcRequest is a request over JSON-RPC 2.0.
type rpcRequest struct {
	Jsonrpc string          `json:"jsonrpc"`
	ID      string          `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type rpcAnswer struct {
	Jsonrpc string    `json:"jsonrpc"`
	ID      string    `json:"id"`
	Error   *rpcError `json:"error"`
	Result  any       `json:"result"`
}

// The codes of JSON-RPC 2.0, and DTM's own.
const (
	rpcParse      = -32700
	rpcInvalid    = -32600
	rpcNoMethod   = -32601
	rpcBadParams  = -32602
	rpcInternal   = -32603
	rpcFailure    = -32901
	rpcStillGoing = -32902
)

func (s *Server) jsonRPC(w http.ResponseWriter, r *http.Request) int {
	var in rpcRequest
	b, err := body(r)
	if err == nil {
		err = json.Unmarshal(b, &in)
	}
	answer := rpcAnswer{Jsonrpc: "2.0", ID: in.ID}
	fail := func(code int, format string, args ...any) int {
		answer.Error = &rpcError{code, fmt.Sprintf(format, args...)}
		status := http.StatusOK
		if code == rpcParse {
			status = http.StatusBadRequest
		}
		return writeJSON(w, status, answer)
	}
	switch {
	case err != nil:
		return fail(rpcParse, "Parse json error: %v", err)
	case in.ID == "" || in.Jsonrpc != "2.0":
		return fail(rpcInvalid, "Bad json request: want jsonrpc 2.0 and an id that is a text and not empty")
	}
	method := s.rpcMethods()[in.Method]
	if method == nil {
		return fail(rpcNoMethod, "Method not found: %.100s", in.Method)
	}
	if answer.Result, err = method(r.Context(), in.Params); err != nil {
		refused := refusalOf(err)
		code := map[kind]int{failure: rpcFailure, ongoing: rpcStillGoing, invalid: rpcBadParams}[refused.kind]
		if code == 0 {
			code = rpcInternal
		}
		return fail(code, "%s", refused.text)
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *Server) rpcMethods() map[string]func(context.Context, []byte) (any, error) {
	trans := func(f func(context.Context, *request) error) func(context.Context, []byte) (any, error) {
		return func(ctx context.Context, params []byte) (any, error) {
			r, err := parseJSON(params)
			if err != nil {
				return nil, err
			}
			return nil, f(ctx, r)
		}
	}
	return map[string]func(context.Context, []byte) (any, error){
		"newGid":         func(context.Context, []byte) (any, error) { return map[string]string{"gid": newGid()}, nil },
		"prepare":        trans(s.svc.prepare),
		"submit":         trans(s.svc.submit),
		"abort":          trans(s.svc.abort),
		"registerBranch": func(ctx context.Context, params []byte) (any, error) { return nil, s.registerJSON(ctx, params) },
	}
}
