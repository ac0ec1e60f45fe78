"""Runs DTM's Python client against a server and checks every call which that server makes.

    scenarios.py --dtm http://127.0.0.1:36789/api/dtmsvr

The branches are served here, on a free port of the loopback interface. One line a scenario goes to
standard output; the exit code is 1 if one of them failed. The client's barrier is left out, since it
speaks MySQL only.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dtmcli import msg, saga, tcc, utils

# How long a transaction may take to end. The longest ones wait for the server to ask, twice.
PATIENCE = 40.0

SUCCESS = (200, '{"dtm_result":"SUCCESS"}')
FAILURE = (409, '{"dtm_result":"FAILURE","message":"not enough"}')
ONGOING = (425, '{"dtm_result":"ONGOING"}')
# What a branch of the client's own age says: the code is 200, the text counts.
OLD_FAILURE = (200, '{"dtm_result":"FAILURE"}')

# Text outside ASCII, a number that no float holds, and spaces: a payload has to arrive as it was sent.
OUT = {"amount": 30, "note": "Zürich – 東京", "account": 9007199254740993}
IN = {"amount": 30, "from": {"account": "a b", "empty": ""}, "rates": [1.10, 0.0, None]}


@dataclass
class Call:
    """A request that reached a branch."""

    method: str
    path: str
    query: str
    headers: object
    body: bytes

    def __str__(self):
        return f"{self.method} {self.path}?{self.query} {self.body.decode(errors='replace')}"


@dataclass
class Want:
    """A call that has to come. Nothing else may be in its query than what is said here."""

    op: str
    branch: str
    name: str
    payload: object = None
    client: bool = False  # made by the client, not by the server
    query: dict = field(default_factory=dict)
    headers: dict = field(default_factory=dict)


class Branches:
    """The branches of all scenarios, and what they were asked."""

    def __init__(self):
        self.lock = threading.Lock()
        self.calls = []
        self.answers = {}
        branches = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self):
                length = int(self.headers.get("Content-Length") or 0)
                path, _, query = self.path.partition("?")
                call = Call(self.command, path, query, self.headers, self.rfile.read(length))
                status, text = branches.answer(call)
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = serve

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.base = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, call):
        with self.lock:
            self.calls.append(call)
            answer = self.answers.get(call.path, SUCCESS)
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer(call) if callable(answer) else answer

    def under(self, prefix):
        with self.lock:
            return [c for c in self.calls if c.path.startswith(prefix)]


class Wrong(Exception):
    """Something is not as it has to be."""


def need(condition, text):
    if not condition:
        raise Wrong(text)


class Scenario:
    def __init__(self, dtm, branches, name, trans_type):
        self.dtm, self.branches, self.trans_type = dtm, branches, trans_type
        self.prefix = "/" + name.replace(" ", "-") + "/"
        self.gid = utils.gen_gid(dtm)
        self.checked = None

    def url(self, name, query=""):
        return self.branches.base + self.prefix + name + query

    def answer(self, name, *answers):
        with self.branches.lock:
            self.branches.answers[self.prefix + name] = list(answers)

    def calls(self):
        return self.branches.under(self.prefix)

    def transaction(self):
        with urllib.request.urlopen(f"{self.dtm}/query?gid={urllib.parse.quote(self.gid)}", timeout=10) as r:
            return json.load(r)["transaction"]

    def ends(self, status):
        """Waits for the end of the transaction."""
        deadline = time.monotonic() + PATIENCE
        while True:
            t = self.transaction()
            need(t is not None, f"the server does not know {self.gid}")
            if t["status"] in ("succeed", "failed"):
                break
            need(time.monotonic() < deadline, f"still {t['status']} after {PATIENCE:.0f} s; calls: {self.listing()}")
            time.sleep(0.05)
        need(t["status"] == status, f"ended as {t['status']}, want {status}; calls: {self.listing()}")
        need(t["gid"] == self.gid and t["trans_type"] == self.trans_type, f"query answers {t}")

    def listing(self):
        return "".join(f"\n    {c}" for c in self.calls()) or "none"

    def expect(self, *wants):
        """Compares the calls with the wanted ones. A set among them may come in any order."""
        calls = self.calls()
        count = sum(len(w) if isinstance(w, (list, tuple)) else 1 for w in wants)
        need(len(calls) == count, f"{len(calls)} calls, want {count}: {self.listing()}")
        at = 0
        for want in wants:
            if isinstance(want, Want):
                self.compare(calls[at], want)
                at += 1
                continue
            some = sorted(calls[at:at + len(want)], key=lambda c: c.path)
            for call, w in zip(some, sorted(want, key=lambda w: w.name)):
                self.compare(call, w)
            at += len(want)
        self.checked = count

    def compare(self, call, want):
        def same(what, got, wanted):
            need(got == wanted, f"{what} is {got!r}, want {wanted!r}, in {call}; all calls: {self.listing()}")

        same("path", call.path, self.prefix + want.name)
        same("method", call.method, "GET" if want.payload is None else "POST")
        query = {"gid": self.gid, "trans_type": self.trans_type, "branch_id": want.branch, "op": want.op}
        query.update(want.query)
        got = urllib.parse.parse_qsl(call.query, keep_blank_values=True, strict_parsing=True)
        same("query", sorted(got), sorted(query.items()))
        if want.payload is None:
            same("body", call.body, b"")
        elif want.client:
            same("body", json.loads(call.body), want.payload)
        else:
            same("body", call.body, json.dumps(want.payload).encode())
        if want.payload is not None:
            same("content type", (call.headers.get("Content-Type") or "").split(";")[0], "application/json")
        for name, value in want.headers.items():
            same(f"header {name}", call.headers.get(name), value)


def raises(kind, f):
    try:
        f()
    except kind as err:
        need(type(err) is kind, f"{type(err).__name__}: {err}, want {kind.__name__}")
        return
    raise Wrong(f"no {kind.__name__} was raised")


@contextlib.contextmanager
def quiet():
    """Swallows the stack that the client prints for a transaction that it aborts."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


# The scenarios. The first word of a name is the type of the transaction.


def two_steps(s):
    t = saga.Saga(s.dtm, s.gid)
    t.add(OUT, s.url("out"), s.url("out-undo"))
    t.add(IN, s.url("in"), s.url("in-undo"))
    return t


UNDONE = [
    Want("action", "01", "out", OUT),
    Want("action", "02", "in", IN),
    # The refused branch is compensated, too.
    Want("compensate", "02", "in-undo", IN),
    Want("compensate", "01", "out-undo", OUT),
]


def saga_succeeds(s):
    two_steps(s).submit()
    s.ends("succeed")
    s.expect(Want("action", "01", "out", OUT), Want("action", "02", "in", IN))


def saga_is_refused(s):
    s.answer("in", FAILURE)
    two_steps(s).submit()
    s.ends("failed")
    s.expect(*UNDONE)


def saga_is_refused_by_text(s):
    s.answer("in", OLD_FAILURE)
    two_steps(s).submit()
    s.ends("failed")
    s.expect(*UNDONE)


def saga_waits_for_its_end(s):
    t = two_steps(s)
    t.trans_base.wait_result = True
    t.submit()
    need(s.transaction()["status"] == "succeed", "submit came back before the end")
    s.ends("succeed")
    s.expect(Want("action", "01", "out", OUT), Want("action", "02", "in", IN))


def saga_waits_for_its_refusal(s):
    s.answer("in", FAILURE)
    t = two_steps(s)
    t.trans_base.wait_result = True
    raises(utils.DTMFailureError, t.submit)
    need(s.transaction()["status"] == "failed", "submit came back before the end")
    s.ends("failed")
    s.expect(*UNDONE)


def saga_is_submitted_twice(s):
    t = two_steps(s)
    t.trans_base.wait_result = True
    t.submit()
    # Too late: it has ended.
    raises(utils.DTMFailureError, t.submit)
    s.ends("succeed")
    s.expect(Want("action", "01", "out", OUT), Want("action", "02", "in", IN))


def saga_is_asked_again(s):
    s.answer("out", ONGOING, SUCCESS)
    s.answer("in", FAILURE)
    # The answer to a compensation cannot be no.
    s.answer("in-undo", ONGOING, SUCCESS)
    t = two_steps(s)
    t.trans_base.retry_interval = 1
    t.submit()
    s.ends("failed")
    s.expect(UNDONE[0], *UNDONE[:3], *UNDONE[2:])


def saga_passes_headers_and_queries(s):
    t = saga.Saga(s.dtm, s.gid)
    t.add(OUT, s.url("out", "?shop=a%20b&shop2="), s.url("out-undo"))
    t.trans_base.branch_headers = {"X-Tenant": "blue", "Authorization": "Bearer t"}
    t.submit()
    s.ends("succeed")
    s.expect(Want("action", "01", "out", OUT, query={"shop": "a b", "shop2": ""},
                  headers={"X-Tenant": "blue", "Authorization": "Bearer t"}))


def tcc_branch(s, t, payload, name):
    return t.call_branch(payload, s.url(name + "-try"), s.url(name + "-confirm"), s.url(name + "-cancel"))


def tried(branch, name, payload):
    return Want("try", branch, name + "-try", payload, client=True)


def tcc_succeeds(s):
    def body(t):
        tcc_branch(s, t, OUT, "out")
        tcc_branch(s, t, IN, "in")

    got = tcc.tcc_global_transaction(s.dtm, s.gid, body)
    need(got == s.gid, f"the client returns {got!r}")
    s.ends("succeed")
    s.expect(tried("01", "out", OUT), tried("02", "in", IN),
             [Want("confirm", "01", "out-confirm", OUT), Want("confirm", "02", "in-confirm", IN)])


def tcc_is_cancelled(s):
    s.answer("in-try", FAILURE)

    def body(t):
        tcc_branch(s, t, OUT, "out")
        tcc_branch(s, t, IN, "in")

    with quiet():
        got = tcc.tcc_global_transaction(s.dtm, s.gid, body)
    need(got == "", f"the client returns {got!r}")
    s.ends("failed")
    s.expect(tried("01", "out", OUT), tried("02", "in", IN),
             [Want("cancel", "01", "out-cancel", OUT), Want("cancel", "02", "in-cancel", IN)])


def tcc_nests(s):
    def inner(call):
        q = dict(urllib.parse.parse_qsl(call.query))
        tcc_branch(s, tcc.tcc_from_req(s.dtm, q["gid"], q["branch_id"]), IN, "in")
        return SUCCESS

    s.answer("out-try", inner)
    tcc.tcc_global_transaction(s.dtm, s.gid, lambda t: tcc_branch(s, t, OUT, "out"))
    s.ends("succeed")
    s.expect(tried("01", "out", OUT), tried("0101", "in", IN),
             [Want("confirm", "01", "out-confirm", OUT), Want("confirm", "0101", "in-confirm", IN)])


def tcc_refuses_late_branches(s):
    kept = []
    tcc.tcc_global_transaction(s.dtm, s.gid, lambda t: (kept.append(t), tcc_branch(s, t, OUT, "out")))
    raises(utils.DTMFailureError, lambda: tcc_branch(s, kept[0], IN, "in"))
    s.ends("succeed")
    s.expect(tried("01", "out", OUT), Want("confirm", "01", "out-confirm", OUT))


def two_messages(s):
    return msg.Msg(s.dtm, s.gid).add(OUT, s.url("out")).add(IN, s.url("in"))


SENT = [Want("action", "01", "out", OUT), Want("action", "02", "in", IN)]


def msg_is_sent(s):
    m = two_messages(s)
    m.prepare(s.url("ask"))
    need(s.transaction()["status"] == "prepared", "it is not prepared")
    need(not s.calls(), f"called before the submit: {s.listing()}")
    m.submit()
    s.ends("succeed")
    s.expect(*SENT)


def msg_is_done_and_sent(s):
    done = []

    def local(barrier):
        need((barrier.gid, barrier.branch_id, barrier.op) == (s.gid, "00", "msg"), "the barrier is another's")
        need(s.transaction()["status"] == "prepared", "it is not prepared")
        done.append(True)

    two_messages(s).set_wait_result().do_and_submit(s.url("ask"), local)
    need(done, "the local transaction was not run")
    s.ends("succeed")
    s.expect(*SENT)


def msg_is_dropped(s):
    def local(_):
        raise utils.DTMFailureError("no")

    raises(utils.DTMFailureError, lambda: two_messages(s).do_and_submit(s.url("ask"), local))
    s.ends("failed")
    s.expect()


def broken(_):
    raise RuntimeError("the connection broke in the commit")


def msg_is_dropped_after_a_doubt(s):
    s.answer("ask", FAILURE)
    raises(RuntimeError, lambda: two_messages(s).do_and_submit(s.url("ask"), broken))
    s.ends("failed")
    s.expect(Want("msg", "00", "ask", client=True, query={"dtm": s.dtm}))


def msg_is_sent_after_a_doubt(s):
    raises(RuntimeError, lambda: two_messages(s).do_and_submit(s.url("ask"), broken))
    s.ends("succeed")
    s.expect(Want("msg", "00", "ask", client=True, query={"dtm": s.dtm}), *SENT)


def left_alone(s):
    """Prepares and never comes back, as a program does that died."""
    m = two_messages(s)
    m.trans_base.timeout_to_fail = 1
    m.trans_base.retry_interval = 1
    m.prepare(s.url("ask", "?order=7"))


ASKED = Want("msg", "00", "ask", query={"order": "7"})


def msg_is_asked_for_and_dropped(s):
    s.answer("ask", FAILURE)
    left_alone(s)
    s.ends("failed")
    s.expect(ASKED)


def msg_is_asked_for_and_sent(s):
    s.answer("ask", ONGOING, SUCCESS)
    left_alone(s)
    s.ends("succeed")
    s.expect(ASKED, ASKED, *SENT)


SCENARIOS = [
    saga_succeeds, saga_is_refused, saga_is_refused_by_text, saga_waits_for_its_end, saga_waits_for_its_refusal,
    saga_is_submitted_twice, saga_is_asked_again, saga_passes_headers_and_queries,
    tcc_succeeds, tcc_is_cancelled, tcc_nests, tcc_refuses_late_branches,
    msg_is_sent, msg_is_done_and_sent, msg_is_dropped, msg_is_dropped_after_a_doubt, msg_is_sent_after_a_doubt,
    msg_is_asked_for_and_dropped, msg_is_asked_for_and_sent,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtm", required=True, help="http://HOST:PORT/api/dtmsvr")
    parser.add_argument("--only", default="", help="run the scenarios whose name has this in it")
    args = parser.parse_args()
    # All of this happens on one machine, whatever the environment says about proxies.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"
    branches = Branches()
    ran, failed = [], 0
    for f in SCENARIOS:
        name = f.__name__.replace("_", " ")
        if args.only not in name:
            continue
        began = time.monotonic()
        try:
            s = Scenario(args.dtm, branches, name, name.split()[0])
            ran.append((name, s))
            f(s)
            print(f"ok   {name} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception as err:
            failed += 1
            print(f"FAIL {name}: {err}", flush=True)
            if not isinstance(err, Wrong):
                traceback.print_exc()
    for name, s in ran:
        if s.checked is not None and len(s.calls()) != s.checked:
            failed += 1
            print(f"FAIL {name}: {len(s.calls()) - s.checked} more calls after its end: {s.listing()}", flush=True)
    if not ran:
        print("FAIL no scenario has that name", flush=True)
    sys.exit(1 if failed or not ran else 0)


if __name__ == "__main__":
    main()
