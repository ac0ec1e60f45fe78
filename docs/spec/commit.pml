/*
 * The commit protocol: one transaction with N branches, each in a database of its own,
 * a coordinator whose log loses its tail in a crash, the service that began the
 * transaction, an operator, deadlines and third parties. README.md here says how to run
 * it, what stands for what, and what it came to.
 *
 * Without -DPLANT_... every assertion holds, and every run ends settled.
 */

#ifndef N
#define N 2          /* branches */
#endif
#ifndef CRASHES
#define CRASHES 1    /* of the coordinator */
#endif
#ifndef DEATHS
#define DEATHS 1     /* of services, with their open local transactions */
#endif
#ifndef LOSSES
#define LOSSES 1     /* of messages */
#endif

/* Outcomes. No record means undecided, never rolled back (C1). */
#define UNDECIDED 0
#define COMMIT    1
#define ROLLBACK  2

/* The registration of a branch, as its service sees it. */
#define R_NONE    0
#define R_SENT    1
#define R_ACKED   2
#define R_REFUSED 3

/* The local transaction of a branch, and its fence row: one local commit makes both. */
#define L_NONE    0   /* no fence */
#define L_OPEN    1   /* written, not committed */
#define L_LIVE    2   /* committed: fence live, intents there */
#define L_ABORTED 3   /* its own ROLLBACK: may be withdrawn */
#define L_DEAD    4   /* gone, and nobody will say so */
#define L_TOMB    5   /* tombstone */
#define L_KEPT    6   /* settled: commit */
#define L_UNDONE  7   /* settled: rollback */

/* Votes. */
#define V_NONE      0
#define V_YES       1
#define V_NO        2
#define V_WITHDRAWN 3

/* Records. Each transaction has each at most once, so the tail has room for all. */
#define K_BEGIN    1
#define K_REGISTER 2
#define K_VOTE     3   /* + vote - V_YES: 3, 4, 5 */
#define K_DECIDE   6   /* + outcome - COMMIT: 6, 7 */
#define K_DONE     8
#define TAIL       (2 + 3 * N)

/* What the log says: up to where it is durable, and with its tail, as the machine does. */
typedef Log { bit begun; bit reg[N]; byte vote[N]; byte outcome; bit done[N] };
Log dur, mem;
byte tail[TAIL], tailof[TAIL], tails;

bit  collecting;      /* commit was asked for, in this incarnation */
byte crashes = CRASHES, deaths = DEATHS, losses = LOSSES;

byte told;            /* the outcome that anybody was told */

bit  tm_begun, tm_commits, tm_over;
bit  gone;            /* somebody was told that the transaction is not known */

byte reg[N], ltx[N], vote[N];  /* vote: what is under way from the service */
bit  voted[N];

/* Messages. They are not consumed: each may come late, again, and from an earlier
   incarnation. Only a loss takes one away, and it can be sent again. */
bit  settle_c[N], settle_r[N];  /* Settle to the database */
bit  settled[N];                /* its answer */
bit  ask[N], yes[N], no[N];     /* AskVote, and its answers */
bit  third_c[N], third_r[N];    /* what a third party was told */

/* A record: machine.append and Fold. */
inline fold(log, k, b) {
	if
	:: k == K_BEGIN                       -> assert(!gone); log.begun = 1
	:: k == K_REGISTER                    -> log.reg[b] = 1
	:: k >= K_VOTE && k < K_DECIDE        -> assert(log.vote[b] == V_NONE && log.outcome == UNDECIDED); log.vote[b] = k - K_VOTE + V_YES
	:: k == K_DECIDE || k == K_DECIDE + 1 -> assert(log.outcome == UNDECIDED); log.outcome = k - K_DECIDE + COMMIT
	:: k == K_DONE                        -> log.done[b] = 1
	fi
}

inline append(k, b) {
	fold(mem, k, b);
	tail[tails] = k; tailof[tails] = b; tails++
}

/* The first n records of the tail become durable, and the tail is gone: a force if n is
   all of them, a crash otherwise. */
inline harden(n) {
	i = 0;
	do
	:: i < tails ->
		if
		:: i < n -> fold(dur, tail[i], tailof[i])
		:: else
		fi;
		tail[i] = 0; tailof[i] = 0; i++
	:: else -> break
	od;
	tails = 0; i = 0
}

/* Whether what the machine knows may be revealed: a message waits for the log (C1). */
#ifdef PLANT_UNFORCED_DECISION
#define DURABLE (mem.outcome != UNDECIDED)
#else
#define DURABLE (mem.outcome != UNDECIDED && dur.outcome == mem.outcome)
#endif

/* Somebody is told the outcome: one decision, and commit only over local commits. */
inline tell() {
	assert(told == UNDECIDED || told == mem.outcome);
	told = mem.outcome;
	j = 0;
	do
	:: j < N ->
		assert(told != COMMIT || !mem.reg[j] ||
			(mem.vote[j] == V_YES && (ltx[j] == L_LIVE || ltx[j] == L_KEPT)) ||
			(mem.vote[j] == V_WITHDRAWN && ltx[j] != L_LIVE && ltx[j] != L_OPEN));
		j++
	:: else -> break
	od;
	j = 0
}

#define IN(b) (!mem.reg[b] || mem.vote[b] == V_YES || mem.vote[b] == V_WITHDRAWN)
#if N == 1
#define ALL_IN IN(0)
#elif N == 2
#define ALL_IN (IN(0) && IN(1))
#else
#define ALL_IN (IN(0) && IN(1) && IN(2))
#endif

#define OPEN (mem.begun && mem.outcome == UNDECIDED)

/* ---- the coordinator ---- */

proctype Coordinator() {
	byte i, j, keep;
end:
	do
	/* begin: appended, not forced */
	:: atomic { !tm_begun -> append(K_BEGIN, 0); tm_begun = 1 }

	/* commit: decided at once, or votes are gathered */
	:: atomic { tm_commits && OPEN && !collecting && !tm_over -> collecting = 1 }
	:: atomic { collecting && OPEN && ALL_IN -> append(K_DECIDE, 0) }
	/* the answer to whoever asked */
	:: atomic { tm_commits && !tm_over && DURABLE -> tell(); tm_over = 1 }
	:: atomic { tm_commits && !tm_over && tm_begun && !mem.begun ->
#ifndef PLANT_UNKNOWN_UNDOES
		assert(told == UNDECIDED);
#endif
		gone = 1; tm_over = 1 }

	/* rollback: the deadline may pass at any moment; an operator or the TM may ask */
	:: atomic { OPEN -> append(K_DECIDE + 1, 0) }

	/* group commit: the log becomes durable at any moment */
	:: atomic { tails > 0 -> harden(tails) }

	/* a crash loses any part of the tail; sessions end, and clients ask again */
	:: atomic { crashes > 0 && tm_begun ->
		crashes--;
		keep = 0;
		do
		:: keep < tails -> keep++
		:: break
		od;
		harden(keep); keep = 0;
#ifdef PLANT_UNKNOWN_UNDOES
		dur.begun = 0; dur.outcome = 0; j = 0;
		do
		:: j < N -> dur.reg[j] = 0; dur.vote[j] = 0; dur.done[j] = 0; j++
		:: else -> break
		od;
		j = 0;
#else
		assert(told == UNDECIDED || dur.outcome == told);
#endif
		collecting = 0;
		mem.begun = dur.begun; mem.outcome = dur.outcome;
		j = 0;
		do
		:: j < N ->
			mem.reg[j] = dur.reg[j]; mem.vote[j] = dur.vote[j]; mem.done[j] = dur.done[j];
#ifndef PLANT_UNKNOWN_UNDOES
			assert(reg[j] != R_ACKED || dur.reg[j]); /* what was answered is there */
#endif
			j++
		:: else -> break
		od;
		j = 0 }
	od
}

/* The same, as far as one branch is concerned. */
proctype CoordinatorFor(byte b) {
	byte j;
end:
	do
	/* register: never makes a transaction anew; forced before it is answered (C6, C8) */
	:: atomic { reg[b] == R_SENT && OPEN && !mem.reg[b] -> append(K_REGISTER, b) }
#ifdef PLANT_UNFORCED_REGISTER
	:: atomic { reg[b] == R_SENT && OPEN && mem.reg[b] -> reg[b] = R_ACKED }
#else
	:: atomic { reg[b] == R_SENT && OPEN && mem.reg[b] && dur.reg[b] -> reg[b] = R_ACKED }
#endif
	:: atomic { reg[b] == R_SENT && DURABLE -> tell(); reg[b] = R_REFUSED }
#ifdef PLANT_RECREATE
	:: atomic { reg[b] == R_SENT && tm_begun && !mem.begun -> append(K_BEGIN, 0); append(K_REGISTER, b) }
#else
	:: atomic { reg[b] == R_SENT && tm_begun && !mem.begun -> reg[b] = R_REFUSED }
#endif

	/* castVote, answered: the first one counts, and is not forced; no decides */
	:: atomic { vote[b] != V_NONE ->
		if
		:: OPEN && mem.reg[b] && mem.vote[b] == V_NONE ->
			append(K_VOTE + vote[b] - V_YES, b);
			if
			:: vote[b] == V_NO -> append(K_DECIDE + 1, 0)
			:: else
			fi
		:: else
		fi;
		vote[b] = V_NONE }
	:: atomic { yes[b] && OPEN && mem.reg[b] && mem.vote[b] == V_NONE -> append(K_VOTE, b) }
	:: atomic { no[b] && OPEN && mem.reg[b] && mem.vote[b] == V_NONE -> append(K_VOTE + 1, b); append(K_DECIDE + 1, 0) }

	/* askVotes: what is missing is asked for, again after a crash */
	:: atomic { collecting && OPEN && mem.reg[b] && mem.vote[b] == V_NONE && tails == 0 && !ask[b] -> ask[b] = 1 }

	/* command, dueLegs: Settle until it is done */
#ifdef PLANT_NO_RETRY
	:: atomic { DURABLE && mem.reg[b] && !mem.done[b] && !settle_c[b] && !settle_r[b] && losses == LOSSES ->
#else
	:: atomic { DURABLE && mem.reg[b] && !mem.done[b] && !settle_c[b] && !settle_r[b] ->
#endif
		tell();
		if
		:: mem.outcome == COMMIT -> settle_c[b] = 1
		:: else -> settle_r[b] = 1
		fi }
	/* settled: not forced */
	:: atomic { settled[b] && mem.outcome != UNDECIDED && mem.reg[b] && !mem.done[b] -> append(K_DONE, b) }

	/* get, wait: a third party that met an intent asks for the outcome */
#ifndef PLANT_ROLLBACK_BESIDE /* which third parties would make good */
	:: atomic { ltx[b] == L_LIVE && DURABLE && mem.reg[b] && !third_c[b] && !third_r[b] ->
		tell();
		if
		:: mem.outcome == COMMIT -> third_c[b] = 1
		:: else -> third_r[b] = 1
		fi }
#endif
#ifdef PLANT_UNKNOWN_UNDOES
	:: atomic { ltx[b] == L_LIVE && !mem.begun && !third_r[b] -> third_r[b] = 1 }
#endif
	od
}

/* ---- the service that began it ---- */

proctype Manager() {
end:
	do
	:: atomic { tm_begun && !tm_commits -> tm_commits = 1 }
	od
}

/* ---- the service of a branch ---- */

proctype Service(byte b) {
end:
	do
	:: atomic { tm_begun && reg[b] == R_NONE -> reg[b] = R_SENT }
	/* first captured write: a fence that is there already refuses it */
	:: atomic { ltx[b] == L_NONE && (reg[b] == R_SENT || reg[b] == R_ACKED) -> ltx[b] = L_OPEN }
	/* local commit: only after the answer to the registration (C8) */
#ifdef PLANT_EARLY_COMMIT
	:: atomic { ltx[b] == L_OPEN && (reg[b] == R_ACKED || reg[b] == R_SENT) -> assert(told != COMMIT); ltx[b] = L_LIVE }
#else
	:: atomic { ltx[b] == L_OPEN && reg[b] == R_ACKED -> assert(told != COMMIT); ltx[b] = L_LIVE }
#endif
	:: atomic { ltx[b] == L_OPEN && reg[b] == R_ACKED -> ltx[b] = L_ABORTED }
	:: atomic { ltx[b] == L_OPEN && reg[b] == R_REFUSED -> ltx[b] = L_DEAD }
	/* votes are facts (H5) */
	:: atomic { !voted[b] && reg[b] == R_ACKED && (ltx[b] == L_LIVE || ltx[b] == L_KEPT || ltx[b] == L_UNDONE) -> voted[b] = 1; vote[b] = V_YES }
	:: atomic { !voted[b] && reg[b] == R_ACKED && ltx[b] == L_ABORTED -> voted[b] = 1; vote[b] = V_WITHDRAWN }
	:: atomic { !voted[b] && reg[b] == R_ACKED && ltx[b] == L_OPEN -> voted[b] = 1; ltx[b] = L_TOMB; vote[b] = V_NO }
#ifdef PLANT_OPINION
	:: atomic { !voted[b] && reg[b] == R_ACKED && ltx[b] == L_OPEN -> voted[b] = 1; vote[b] = V_YES }
#endif
#ifdef PLANT_EARLY_WITHDRAWAL
	:: atomic { !voted[b] && reg[b] == R_ACKED && ltx[b] == L_OPEN -> voted[b] = 1; vote[b] = V_WITHDRAWN }
#endif
	od
}

/* ---- a database, and whoever settles in it ---- */

#define NO_FENCE (ltx[b] == L_NONE || ltx[b] == L_ABORTED || ltx[b] == L_DEAD)

inline keep_changes() {
	assert(told == COMMIT && ltx[b] != L_UNDONE);
	assert(mem.vote[b] != V_YES || ltx[b] == L_LIVE || ltx[b] == L_KEPT);
	if
	:: ltx[b] == L_LIVE -> ltx[b] = L_KEPT
	:: else
	fi
}

inline undo_changes() {
	assert(told == ROLLBACK && ltx[b] != L_KEPT);
	if
	:: ltx[b] == L_LIVE -> ltx[b] = L_UNDONE
	:: NO_FENCE -> ltx[b] = L_TOMB
	:: else
	fi
}

proctype Database(byte b) {
end:
	do
	/* ask: an open local transaction gives no answer; without a fence a tombstone does */
	:: atomic { ask[b] && NO_FENCE -> ltx[b] = L_TOMB; no[b] = 1 }
	:: atomic { ask[b] && (ltx[b] == L_TOMB || ltx[b] == L_UNDONE) && !no[b] -> no[b] = 1 }
	:: atomic { ask[b] && (ltx[b] == L_LIVE || ltx[b] == L_KEPT) && !yes[b] -> yes[b] = 1 }

	/* settle: all of the transaction here, in one local transaction */
#ifdef PLANT_DONE_FIRST
	:: atomic { (settle_c[b] || settle_r[b]) && !settled[b] -> settled[b] = 1 }
#else
	:: atomic { settle_c[b] && (ltx[b] == L_LIVE || !settled[b]) -> keep_changes(); settled[b] = 1 }
	:: atomic { settle_r[b] && ltx[b] != L_OPEN && (ltx[b] == L_LIVE || NO_FENCE || !settled[b]) -> undo_changes(); settled[b] = 1 }
#endif
#ifdef PLANT_ROLLBACK_BESIDE
	:: atomic { settle_r[b] && ltx[b] == L_OPEN && !settled[b] -> settled[b] = 1; settle_r[b] = 0 }
#endif
#ifndef PLANT_DONE_FIRST
	:: atomic { third_c[b] && ltx[b] == L_LIVE -> keep_changes() }
	:: atomic { third_r[b] && (ltx[b] == L_LIVE || NO_FENCE) -> undo_changes() }
#endif
	od
}

/* ---- what goes wrong besides ---- */

proctype Faults(byte b) {
end:
	do
	:: atomic { deaths > 0 && ltx[b] == L_OPEN -> deaths--; ltx[b] = L_DEAD }
	:: atomic { losses > 0 && vote[b] != V_NONE -> losses--; vote[b] = V_NONE }
	:: atomic { losses > 0 && ask[b] -> losses--; ask[b] = 0 }
	:: atomic { losses > 0 && yes[b] -> losses--; yes[b] = 0 }
	:: atomic { losses > 0 && no[b] -> losses--; no[b] = 0 }
	:: atomic { losses > 0 && (settle_c[b] || settle_r[b]) -> losses--; settle_c[b] = 0; settle_r[b] = 0 }
	:: atomic { losses > 0 && settled[b] -> losses--; settled[b] = 0 }
	:: atomic { losses > 0 && reg[b] == R_ACKED && (ltx[b] == L_NONE || ltx[b] == L_OPEN) -> losses--; reg[b] = R_SENT }
	od
}

init {
	byte b;
	atomic {
		run Coordinator();
		run Manager();
		b = 0;
		do
		:: b < N ->
			run CoordinatorFor(b);
			run Service(b);
			run Database(b);
			run Faults(b);
			b++
		:: else -> break
		od;
		b = 0
	}
}

/* Every run ends with everything settled and answered, and nothing undecided. */
#define SETTLED(b) (ltx[b] != L_OPEN && ltx[b] != L_LIVE && (!mem.reg[b] || mem.done[b]))
#if N == 1
#define OVER (tm_over && (!mem.begun || mem.outcome != UNDECIDED) && SETTLED(0))
#elif N == 2
#define OVER (tm_over && (!mem.begun || mem.outcome != UNDECIDED) && SETTLED(0) && SETTLED(1))
#else
#define OVER (tm_over && (!mem.begun || mem.outcome != UNDECIDED) && SETTLED(0) && SETTLED(1) && SETTLED(2))
#endif

ltl ends_settled { <> [] OVER }
