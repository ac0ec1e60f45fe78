import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import feign.Feign;
import feign.jackson.JacksonDecoder;
import feign.jackson.JacksonEncoder;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URLDecoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Deque;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.logging.Level;
import java.util.logging.Logger;
import pub.dtm.client.DtmClient;
import pub.dtm.client.barrier.BranchBarrier;
import pub.dtm.client.exception.FailureException;
import pub.dtm.client.interfaces.stub.IDtmServerStub;
import pub.dtm.client.saga.Saga;
import pub.dtm.client.stub.DtmFeignClient;
import pub.dtm.client.tcc.Tcc;
import pub.dtm.client.utils.JsonUtils;

/**
 * Runs DTM's Java client against a server and checks every call which that server makes.
 *
 * <pre>Scenarios --dtm http://127.0.0.1:36789/api/dtmsvr</pre>
 *
 * The branches are served here, on a free port of the loopback interface. One line a scenario goes to
 * standard output; the exit code is 1 if one of them failed. The client has no messages, its sagas no
 * retry interval and its barrier nothing but MySQL, for which H2 stands in.
 */
public final class Scenarios {
    /** How long a transaction may take to end. The longest one waits for the server to ask again. */
    static final Duration PATIENCE = Duration.ofSeconds(60);

    static final Answer SUCCESS = new Answer(200, "{\"dtm_result\":\"SUCCESS\"}");
    static final Answer FAILURE = new Answer(409, "{\"dtm_result\":\"FAILURE\",\"message\":\"not enough\"}");
    static final Answer BROKEN = new Answer(500, "{\"message\":\"the connection broke\"}");
    /** What an old branch says: the code is 200, the text counts. */
    static final Answer OLD_FAILURE = new Answer(200, "{\"dtm_result\":\"FAILURE\"}");

    // Text outside ASCII, a number that no double holds, and spaces: a payload has to arrive as it was sent.
    static final Map<String, Object> OUT = payload("amount", 30, "note", "Zürich – 東京", "account", 9007199254740993L);
    static final Map<String, Object> IN = payload("amount", 30, "from", payload("account", "a b", "empty", ""),
            "rates", Arrays.asList(1.10, 0.0, null));

    static Map<String, Object> payload(Object... pairs) {
        Map<String, Object> m = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            m.put((String) pairs[i], pairs[i + 1]);
        }
        return m;
    }

    record Answer(int status, String body) {}

    /** What a branch does. */
    interface Branch {
        Answer answer(Call call) throws Exception;
    }

    /** A request that reached a branch. */
    record Call(String method, String path, String query, Headers headers, byte[] body) {
        @Override
        public String toString() {
            return method + " " + path + "?" + query + " " + new String(body, StandardCharsets.UTF_8);
        }

        /** The query as servlets give it. */
        Map<String, String[]> parameters() {
            Map<String, String[]> m = new TreeMap<>();
            for (String pair : (query == null ? "" : query).split("&")) {
                if (pair.isEmpty()) {
                    continue;
                }
                String[] kv = pair.split("=", 2);
                String key = URLDecoder.decode(kv[0], StandardCharsets.UTF_8);
                String value = kv.length < 2 ? "" : URLDecoder.decode(kv[1], StandardCharsets.UTF_8);
                String[] had = m.getOrDefault(key, new String[0]);
                String[] has = Arrays.copyOf(had, had.length + 1);
                has[had.length] = value;
                m.put(key, has);
            }
            return m;
        }
    }

    /** A call that has to come. Nothing else may be in its query than what is said here. */
    record Want(String op, String branch, String name, Object payload, boolean client, Map<String, String> query,
            Map<String, String> headers) {
        static Want server(String op, String branch, String name, Object payload) {
            return new Want(op, branch, name, payload, false, Map.of(), Map.of());
        }

        /** The call of a TCC's try, which the client makes itself. */
        static Want tried(String branch, String name, Object payload) {
            return new Want("try", branch, name + "-try", payload, true, Map.of(), Map.of());
        }

        Want with(Map<String, String> query, Map<String, String> headers) {
            return new Want(op, branch, name, payload, client, query, headers);
        }
    }

    /** Something is not as it has to be. */
    static final class Wrong extends RuntimeException {
        Wrong(String text) {
            super(text);
        }
    }

    static void need(boolean condition, String text) {
        if (!condition) {
            throw new Wrong(text);
        }
    }

    /** The branches of all scenarios, and what they were asked. */
    static final class Branches {
        final String base;
        private final List<Call> calls = new ArrayList<>();
        private final Map<String, Deque<Branch>> answers = new HashMap<>();
        private final HttpServer server;

        Branches() throws IOException {
            server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
            base = "http://127.0.0.1:" + server.getAddress().getPort();
            server.createContext("/", this::serve);
            server.setExecutor(Executors.newCachedThreadPool(r -> {
                Thread t = new Thread(r);
                t.setDaemon(true);
                return t;
            }));
            server.start();
        }

        private void serve(HttpExchange e) throws IOException {
            URI uri = e.getRequestURI();
            Call call = new Call(e.getRequestMethod(), uri.getPath(), uri.getRawQuery(), e.getRequestHeaders(),
                    e.getRequestBody().readAllBytes());
            Answer answer;
            try {
                answer = next(call).answer(call);
            } catch (Exception err) {
                answer = new Answer(500, "the branch failed: " + err);
            }
            byte[] body = answer.body().getBytes(StandardCharsets.UTF_8);
            e.getResponseHeaders().set("Content-Type", "application/json");
            e.sendResponseHeaders(answer.status(), body.length);
            e.getResponseBody().write(body);
            e.close();
        }

        private synchronized Branch next(Call call) {
            calls.add(call);
            Deque<Branch> some = answers.get(call.path());
            if (some == null) {
                return c -> SUCCESS;
            }
            return some.size() > 1 ? some.poll() : some.peek();
        }

        synchronized void answer(String path, List<Branch> some) {
            answers.put(path, new ArrayDeque<>(some));
        }

        synchronized List<Call> under(String prefix) {
            return calls.stream().filter(c -> c.path().startsWith(prefix)).toList();
        }
    }

    static final ObjectMapper JSON = new ObjectMapper();
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** One scenario: its paths, its transaction and what is expected of it. */
    static final class Scenario {
        final DtmClient client;
        final IDtmServerStub stub;
        final String type;
        final String prefix;
        private final String dtm;
        private final Branches branches;
        String gid;
        int checked = -1;

        Scenario(URI dtm, Branches branches, String name) {
            this.dtm = dtm.toString();
            this.branches = branches;
            client = new DtmClient(dtm.getAuthority());
            stub = Feign.builder().decoder(new JacksonDecoder()).encoder(new JacksonEncoder())
                    .target(DtmFeignClient.class, "http://" + dtm.getAuthority());
            type = name.split(" ")[0];
            prefix = "/" + name.replace(' ', '-') + "/";
        }

        String newGid() {
            gid = stub.newGid().getGid();
            return gid;
        }

        String url(String name) {
            return branches.base + prefix + name;
        }

        void answer(String name, Answer... some) {
            branches.answer(prefix + name, Arrays.stream(some).map(a -> (Branch) c -> a).toList());
        }

        void does(String name, Branch... some) {
            branches.answer(prefix + name, List.of(some));
        }

        List<Call> calls() {
            return branches.under(prefix);
        }

        String listing() {
            StringBuilder b = new StringBuilder();
            calls().forEach(c -> b.append("\n    ").append(c));
            return b.isEmpty() ? "none" : b.toString();
        }

        String status() throws Exception {
            HttpRequest r = HttpRequest.newBuilder(URI.create(dtm + "/query?gid=" + gid)).timeout(Duration.ofSeconds(10))
                    .build();
            JsonNode t = JSON.readTree(HTTP.send(r, HttpResponse.BodyHandlers.ofByteArray()).body()).path("transaction");
            need(t.isObject(), "the server does not know " + gid);
            need(t.path("gid").asText().equals(gid) && t.path("trans_type").asText().equals(type), "query answers " + t);
            return t.path("status").asText();
        }

        /** Waits for the end of the transaction. */
        void ends(String want) throws Exception {
            need(gid != null && !gid.isEmpty(), "the client has no gid");
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            String status = status();
            while (!status.equals("succeed") && !status.equals("failed")) {
                need(System.nanoTime() < deadline, "still " + status + " after " + PATIENCE + "; calls: " + listing());
                Thread.sleep(50);
                status = status();
            }
            need(status.equals(want), "ended as " + status + ", want " + want + "; calls: " + listing());
        }

        void expect(Want... wants) throws Exception {
            expect(List.of(wants), List.of());
        }

        /** Compares the calls with the wanted ones, the last of which may come in any order. */
        void expect(List<Want> ordered, List<Want> anyOrder) throws Exception {
            List<Call> calls = calls();
            int n = ordered.size();
            need(calls.size() == n + anyOrder.size(),
                    calls.size() + " calls, want " + (n + anyOrder.size()) + ": " + listing());
            for (int i = 0; i < n; i++) {
                compare(calls.get(i), ordered.get(i));
            }
            List<Call> rest = calls.subList(n, calls.size()).stream().sorted(Comparator.comparing(Call::path)).toList();
            List<Want> others = anyOrder.stream().sorted(Comparator.comparing(Want::name)).toList();
            for (int i = 0; i < rest.size(); i++) {
                compare(rest.get(i), others.get(i));
            }
            checked = calls.size();
        }

        private void compare(Call call, Want want) throws Exception {
            same(call, "path", call.path(), prefix + want.name());
            same(call, "method", call.method(), "POST");
            Map<String, String> query = new TreeMap<>(want.query());
            query.putAll(Map.of("gid", gid, "trans_type", type, "branch_id", want.branch(), "op", want.op()));
            Map<String, String> got = new TreeMap<>();
            call.parameters().forEach((k, v) -> got.put(k, String.join(" and ", v)));
            same(call, "query", got, query);
            String body = new String(call.body(), StandardCharsets.UTF_8);
            same(call, "body", body, JsonUtils.toJson(want.payload()));
            String type = Objects.requireNonNullElse(call.headers().getFirst("Content-Type"), "").split(";")[0];
            same(call, "content type", type, "application/json");
            want.headers().forEach((k, v) -> same(call, "header " + k, call.headers().getFirst(k), v));
        }

        private void same(Call call, String what, Object got, Object want) {
            need(Objects.equals(got, want),
                    what + " is " + got + ", want " + want + ", in " + call + "; all calls: " + listing());
        }
    }

    /** Something that may throw. */
    interface Step {
        void run() throws Exception;
    }

    static <E extends Exception> E raises(Class<E> kind, Step step) throws Exception {
        try {
            step.run();
        } catch (Exception err) {
            if (err.getClass() != kind) {
                throw err;
            }
            return kind.cast(err);
        }
        throw new Wrong("no " + kind.getSimpleName() + " was thrown");
    }

    // The scenarios. The first word of a name is the type of the transaction.

    static final List<Want> DONE = List.of(Want.server("action", "01", "out", OUT), Want.server("action", "02", "in", IN));
    static final List<Want> UNDONE = List.of(Want.server("action", "01", "out", OUT),
            Want.server("action", "02", "in", IN),
            // The refused branch is compensated, too.
            Want.server("compensate", "02", "in-undo", IN), Want.server("compensate", "01", "out-undo", OUT));

    static Saga twoSteps(Scenario s, Saga saga) {
        return saga.add(s.url("out"), s.url("out-undo"), OUT).add(s.url("in"), s.url("in-undo"), IN);
    }

    static void sagaSucceeds(Scenario s) throws Exception {
        // The client asks for the gid itself.
        s.gid = twoSteps(s, s.client.newSaga()).submit();
        s.ends("succeed");
        s.expect(DONE, List.of());
    }

    static void sagaIsRefused(Scenario s) throws Exception {
        s.answer("in", FAILURE);
        String gid = twoSteps(s, s.client.newSaga(s.newGid())).submit();
        need(gid.equals(s.gid), "submit returns " + gid);
        s.ends("failed");
        s.expect(UNDONE, List.of());
    }

    static void sagaIsRefusedByText(Scenario s) throws Exception {
        s.answer("in", OLD_FAILURE);
        twoSteps(s, s.client.newSaga(s.newGid())).submit();
        s.ends("failed");
        s.expect(UNDONE, List.of());
    }

    static void sagaWaitsForItsEnd(Scenario s) throws Exception {
        twoSteps(s, s.client.newSaga(s.newGid())).enableWaitResult().submit();
        need(s.status().equals("succeed"), "submit came back before the end");
        s.ends("succeed");
        s.expect(DONE, List.of());
    }

    static void sagaWaitsForItsRefusal(Scenario s) throws Exception {
        s.answer("in", FAILURE);
        Saga saga = twoSteps(s, s.client.newSaga(s.newGid())).enableWaitResult();
        raises(FailureException.class, saga::submit);
        need(s.status().equals("failed"), "submit came back before the end");
        s.ends("failed");
        s.expect(UNDONE, List.of());
    }

    static void sagaIsSubmittedTwice(Scenario s) throws Exception {
        Saga saga = twoSteps(s, s.client.newSaga(s.newGid())).enableWaitResult();
        saga.submit();
        // Too late: it has ended.
        raises(FailureException.class, saga::submit);
        s.ends("succeed");
        s.expect(DONE, List.of());
    }

    static void sagaIsAskedAgain(Scenario s) throws Exception {
        s.answer("in", BROKEN, SUCCESS);
        twoSteps(s, s.client.newSaga(s.newGid())).submit();
        s.ends("succeed");
        s.expect(DONE.get(0), DONE.get(1), DONE.get(1));
    }

    static void sagaPassesHeadersAndQueries(Scenario s) throws Exception {
        Saga saga = s.client.newSaga(s.newGid()).add(s.url("out?shop=a%20b&shop2="), s.url("out-undo"), OUT);
        saga.getBranchHeaders().put("X-Tenant", "blue");
        saga.getBranchHeaders().put("Authorization", "Bearer t");
        saga.submit();
        s.ends("succeed");
        s.expect(Want.server("action", "01", "out", OUT).with(Map.of("shop", "a b", "shop2", ""),
                Map.of("X-Tenant", "blue", "Authorization", "Bearer t")));
    }

    /** Steps 0 and 1 are called at the same time, step 2 after both. The client counts from 0. */
    static void sagaKeepsItsOrders(Scenario s) throws Exception {
        CountDownLatch both = new CountDownLatch(2);
        Branch together = c -> {
            both.countDown();
            // Less than the server's patience with a branch.
            return both.await(2, TimeUnit.SECONDS) ? SUCCESS : FAILURE;
        };
        s.does("out", together);
        s.does("in", together);
        s.answer("last", FAILURE);
        // Undone in the other direction: the last one first.
        CountDownLatch last = new CountDownLatch(1);
        Branch after = c -> last.getCount() == 0 ? SUCCESS : BROKEN;
        s.does("last-undo", c -> {
            last.countDown();
            return SUCCESS;
        });
        s.does("out-undo", after);
        s.does("in-undo", after);
        twoSteps(s, s.client.newSaga(s.newGid())).add(s.url("last"), s.url("last-undo"), IN)
                .enableConcurrent().addBranchOrder(2, List.of(0, 1)).submit();
        s.ends("failed");
        List<Call> calls = s.calls();
        need(calls.size() == 6, "want 6 calls: " + s.listing());
        need(calls.get(2).path().endsWith("/last") && calls.get(3).path().endsWith("/last-undo"),
                "not in the order that was said: " + s.listing());
        s.expect(List.of(), List.of(UNDONE.get(0), UNDONE.get(1), UNDONE.get(2), UNDONE.get(3),
                Want.server("action", "03", "last", IN), Want.server("compensate", "03", "last-undo", IN)));
    }

    static void branch(Scenario s, Tcc tcc, Object payload, String name) throws Exception {
        tcc.callBranch(payload, s.url(name + "-try"), s.url(name + "-confirm"), s.url(name + "-cancel"));
    }

    static final List<Want> TRIED = List.of(Want.tried("01", "out", OUT), Want.tried("02", "in", IN));
    static final List<Want> CONFIRMED =
            List.of(Want.server("confirm", "01", "out-confirm", OUT), Want.server("confirm", "02", "in-confirm", IN));
    static final List<Want> CANCELLED =
            List.of(Want.server("cancel", "01", "out-cancel", OUT), Want.server("cancel", "02", "in-cancel", IN));

    static void tccSucceeds(Scenario s) throws Exception {
        // The client asks for the gid itself.
        s.gid = s.client.tccGlobalTransaction(tcc -> {
            branch(s, tcc, OUT, "out");
            branch(s, tcc, IN, "in");
        });
        s.ends("succeed");
        s.expect(TRIED, CONFIRMED);
    }

    static void tccIsCancelled(Scenario s) throws Exception {
        s.answer("in-try", FAILURE);
        raises(FailureException.class, () -> s.client.tccGlobalTransaction(s.newGid(), tcc -> {
            branch(s, tcc, OUT, "out");
            branch(s, tcc, IN, "in");
        }));
        s.ends("failed");
        s.expect(TRIED, CANCELLED);
    }

    static void tccRefusesLateBranches(Scenario s) throws Exception {
        Tcc[] kept = new Tcc[1];
        s.client.tccGlobalTransaction(s.newGid(), tcc -> {
            kept[0] = tcc;
            branch(s, tcc, OUT, "out");
        });
        raises(feign.FeignException.Conflict.class, () -> branch(s, kept[0], IN, "in"));
        s.ends("succeed");
        s.expect(TRIED.subList(0, 1), CONFIRMED.subList(0, 1));
    }

    static void tccIsPreparedOnce(Scenario s) throws Exception {
        s.client.tccGlobalTransaction(s.newGid(), tcc -> branch(s, tcc, OUT, "out"));
        s.ends("succeed");
        // Nothing of the second one is run: its gid is used up.
        raises(feign.FeignException.Conflict.class,
                () -> s.client.tccGlobalTransaction(s.gid, tcc -> branch(s, tcc, IN, "in")));
        s.expect(TRIED.subList(0, 1), CONFIRMED.subList(0, 1));
    }

    /** The barrier takes what the server says in the query: work is done once, and undone only where it was done. */
    static void tccIsGuardedByTheBarrier(Scenario s) throws Exception {
        try (Accounts accounts = new Accounts(s.prefix)) {
            // The first confirmation's answer gets lost.
            s.does("out-try", c -> accounts.add(c, "out", 30));
            s.does("out-confirm", c -> {
                accounts.add(c, "out", 1);
                return BROKEN;
            }, c -> accounts.add(c, "out", 1));
            s.client.tccGlobalTransaction(s.newGid(), tcc -> branch(s, tcc, OUT, "out"));
            s.ends("succeed");
            need(accounts.balance("out") == 31, "the balance is " + accounts.balance("out") + ", want 31");
            s.expect(TRIED.subList(0, 1), List.of(CONFIRMED.get(0), CONFIRMED.get(0)));
        }
    }

    static void tccCancelsOnlyWhatWasTried(Scenario s) throws Exception {
        try (Accounts accounts = new Accounts(s.prefix)) {
            s.does("out-try", c -> accounts.add(c, "out", 30));
            s.does("out-cancel", c -> accounts.add(c, "out", -30));
            s.answer("in-try", FAILURE);
            s.does("in-cancel", c -> accounts.add(c, "in", -30));
            raises(FailureException.class, () -> s.client.tccGlobalTransaction(s.newGid(), tcc -> {
                branch(s, tcc, OUT, "out");
                branch(s, tcc, IN, "in");
            }));
            s.ends("failed");
            need(accounts.balance("out") == 0 && accounts.balance("in") == 0,
                    "the balances are " + accounts.balance("out") + " and " + accounts.balance("in"));
            s.expect(TRIED, CANCELLED);
        }
    }

    /** A branch's database with the table of the barrier. */
    static final class Accounts implements AutoCloseable {
        private final String url;
        private final Connection open; // an H2 in memory lives as long as somebody has it open

        Accounts(String name) throws SQLException {
            url = "jdbc:h2:mem:" + name.replace("/", "") + ";MODE=MySQL";
            open = DriverManager.getConnection(url);
            try (Statement st = open.createStatement()) {
                st.execute("create table barrier(id bigint auto_increment primary key, trans_type varchar(45),"
                        + " gid varchar(128), branch_id varchar(128), op varchar(45), barrier_id varchar(45),"
                        + " reason varchar(45), unique(gid, branch_id, op, barrier_id))");
                st.execute("create table account(name varchar(10) primary key, balance bigint)");
                st.execute("insert into account values('out', 0), ('in', 0)");
            }
        }

        /** Adds to a balance, behind the client's barrier. */
        Answer add(Call call, String name, int amount) throws Exception {
            try (Connection c = DriverManager.getConnection(url)) {
                new BranchBarrier(call.parameters()).call(c, barrier -> {
                    try (Statement st = c.createStatement()) {
                        st.execute("update account set balance = balance + " + amount + " where name = '" + name + "'");
                    }
                });
            }
            return SUCCESS;
        }

        long balance(String name) throws SQLException {
            try (Statement st = open.createStatement();
                    ResultSet r = st.executeQuery("select balance from account where name = '" + name + "'")) {
                need(r.next(), "no account " + name);
                return r.getLong(1);
            }
        }

        @Override
        public void close() throws SQLException {
            open.close();
        }
    }

    /** Runs one scenario. */
    interface Body {
        void run(Scenario s) throws Exception;
    }

    static final Map<String, Body> SCENARIOS = new LinkedHashMap<>();

    static {
        SCENARIOS.put("saga succeeds", Scenarios::sagaSucceeds);
        SCENARIOS.put("saga is refused", Scenarios::sagaIsRefused);
        SCENARIOS.put("saga is refused by text", Scenarios::sagaIsRefusedByText);
        SCENARIOS.put("saga waits for its end", Scenarios::sagaWaitsForItsEnd);
        SCENARIOS.put("saga waits for its refusal", Scenarios::sagaWaitsForItsRefusal);
        SCENARIOS.put("saga is submitted twice", Scenarios::sagaIsSubmittedTwice);
        SCENARIOS.put("saga is asked again", Scenarios::sagaIsAskedAgain);
        SCENARIOS.put("saga passes headers and queries", Scenarios::sagaPassesHeadersAndQueries);
        SCENARIOS.put("saga keeps its orders", Scenarios::sagaKeepsItsOrders);
        SCENARIOS.put("tcc succeeds", Scenarios::tccSucceeds);
        SCENARIOS.put("tcc is cancelled", Scenarios::tccIsCancelled);
        SCENARIOS.put("tcc refuses late branches", Scenarios::tccRefusesLateBranches);
        SCENARIOS.put("tcc is prepared once", Scenarios::tccIsPreparedOnce);
        SCENARIOS.put("tcc is guarded by the barrier", Scenarios::tccIsGuardedByTheBarrier);
        SCENARIOS.put("tcc cancels only what was tried", Scenarios::tccCancelsOnlyWhatWasTried);
    }

    public static void main(String[] args) throws Exception {
        Map<String, String> flags = new HashMap<>();
        for (int i = 0; i + 1 < args.length; i += 2) {
            flags.put(args[i], args[i + 1]);
        }
        String only = Objects.requireNonNullElse(flags.remove("--only"), "");
        String dtm = flags.remove("--dtm");
        if (dtm == null || !flags.isEmpty() || args.length % 2 != 0) {
            System.err.println("usage: Scenarios --dtm http://HOST:PORT/api/dtmsvr [--only PART-OF-A-NAME]");
            System.exit(2);
        }
        URI uri = URI.create(dtm);
        if (!"/api/dtmsvr".equals(uri.getPath())) {
            System.err.println("--dtm " + dtm + ": the client asks under /api/dtmsvr only");
            System.exit(2);
        }
        OKHTTP.setLevel(Level.OFF); // the client leaves the answers of failed tries open
        Branches branches = new Branches();
        Map<String, Future<Result>> running = new LinkedHashMap<>();
        ExecutorService pool = Executors.newCachedThreadPool();
        SCENARIOS.forEach((name, body) -> {
            if (name.contains(only)) {
                running.put(name, pool.submit(() -> run(uri, branches, name, body)));
            }
        });
        int failed = running.isEmpty() ? 1 : 0;
        Map<String, Result> results = new LinkedHashMap<>();
        for (Map.Entry<String, Future<Result>> e : running.entrySet()) {
            results.put(e.getKey(), e.getValue().get());
        }
        for (Map.Entry<String, Result> e : results.entrySet()) {
            Result r = e.getValue();
            String wrong = r.wrong();
            if (wrong == null && r.scenario().calls().size() != r.scenario().checked) {
                wrong = "calls after its end: " + r.scenario().listing();
            }
            System.out.println(wrong == null ? String.format("ok   %s (%.1f s)", e.getKey(), r.nanos() / 1e9)
                    : "FAIL " + e.getKey() + ": " + wrong);
            failed += wrong == null ? 0 : 1;
        }
        if (results.isEmpty()) {
            System.out.println("FAIL no scenario has that name");
        }
        System.out.flush();
        System.exit(failed > 0 ? 1 : 0);
    }

    static final Logger OKHTTP = Logger.getLogger("okhttp3.OkHttpClient");

    record Result(Scenario scenario, String wrong, long nanos) {}

    static Result run(URI dtm, Branches branches, String name, Body body) {
        long began = System.nanoTime();
        Scenario s = new Scenario(dtm, branches, name);
        String wrong = null;
        try {
            s.stub.ping();
            body.run(s);
        } catch (Wrong err) {
            wrong = err.getMessage();
        } catch (Exception | StackOverflowError err) {
            StringWriter stack = new StringWriter();
            err.printStackTrace(new PrintWriter(stack));
            wrong = stack.toString();
        }
        return new Result(s, wrong, System.nanoTime() - began);
    }
}
