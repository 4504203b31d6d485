/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * rounds FS: layout changes under full RDMA write load, and nothing lost.
 *
 * This process is the owner and the only one that uses the library. The peer (rt_peer.c)
 * streams writes into the leased file; the opener (watch.c) truncates it to half, opens it
 * for writing, or truncates and grows it, in turn, watches it, and judges. Every other
 * three rounds the peer is deaf: nobody tells it to stop, the fence cuts it off in full
 * flight, and its connection dies; otherwise it stops first and its connection lives. A
 * deaf peer's last writes go to the half that survives: a completion it polled too late
 * would say nothing about the other one.
 *
 * Three arms: restored by hand, restored automatically, and the control without a guard,
 * which must lose writes (pinned) or change the file behind the opener's back (staged).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <pinlease.h>

#include "rounds.h"
#include "watch.h"

#define SLOTS	      128u
#define FULL	      (SLOTS * (uint64_t)RT_SLOT)
#define ACKED_WRITES  200u
#define SYNC_EVERY_NS 20000000u
#define PATIENCE_NS   20000000000u
#define DEADLINE_MS   10000u	/* who stops does so in time, though the machine may stand still */
#define STILL_NS      25000000u	/* how long nothing may change before a restore by hand */
#define UNGUARDED_NS  80000000u	/* how long an unguarded file is watched: four syncs */

enum arm { ARM_MANUAL, ARM_AUTOMATIC, ARM_CONTROL };

struct owner {
	enum arm arm;
	struct kt_rdma dev;
	struct kt_qp qp;
	struct rt_peer *peer;
	struct watch *watch;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	bool deaf;		/* this round nobody tells the peer */
	bool ack_due;
	uint32_t ack_gen;
	unsigned int broken, revoked, restored;	/* events of this round */
	uint64_t sync_at;
	/* of the arm */
	unsigned int syncs, syncs_refused, held, looks, missing, kept, lost_connections;
	uint64_t changed, acked, longest_ns;
};

static void owner_sync(struct owner *o)
{
	int r = pinlease_sync(o->lease, 0, 0, 0);

	rt_assert(!r || r == -EAGAIN, "sync: %s", strerror(-r));
	if (r)
		o->syncs_refused++;
	else
		o->syncs++;
	o->sync_at = kt_now() + SYNC_EVERY_NS;
}

static void owner_view(struct owner *o)
{
	int r;

	o->view = (struct pinlease_view){ .size = sizeof(o->view) };
	r = pinlease_view_get(o->lease, 0, &o->view);
	rt_assert(!r, "view: %s", strerror(-r));
}

static void owner_event(struct owner *o, const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		o->broken++;
		o->ack_due = true;
		o->ack_gen = ev->gen;
		if (!o->deaf)
			rt_peer_order(o->peer, RT_REST);
		break;
	case PINLEASE_EV_REVOKED:
		o->revoked++;
		break;
	case PINLEASE_EV_RESTORED:
		o->restored++;
		break;
	default:
		rt_die(__FILE__, __LINE__, "event %u, err %d, %llu bytes lost", ev->type, ev->err,
		       (unsigned long long)ev->lost_bytes);
	}
}

/* One turn of the owner's event loop. */
static void owner_turn(struct owner *o)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(o->ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };
	int r;

	poll(&pfd, 1, 1);
	while ((r = pinlease_ctx_next_event(o->ctx, &ev)) == 1)
		owner_event(o, &ev);
	rt_assert(!r, "next_event: %s", strerror(-r));
	if (o->ack_due && (o->deaf || atomic_load(&o->peer->state) != RT_STREAMING)) {
		r = pinlease_ack(o->lease, o->ack_gen);
		rt_assert(!r, "ack: %s", strerror(-r));
		o->ack_due = false;
	}
	if (kt_now() >= o->sync_at)
		owner_sync(o);
}

#define owner_until(o, cond, what)                                                                           \
	do {                                                                                                 \
		uint64_t until_ns = kt_now() + PATIENCE_NS;                                                  \
		while (!(cond)) {                                                                            \
			owner_turn(o);                                                                       \
			rt_assert(kt_now() < until_ns, "waited in vain for: %s", what);                      \
		}                                                                                            \
	} while (0)

static void owner_open(struct owner *o, enum arm arm, const char *path)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = PINLEASE_WRITE };
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = o->dev.pd, .deadline_ms = DEADLINE_MS,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ,
				    .flags = PINLEASE_L_ACK };
	struct pinlease_why why = { 0 };
	int r;

	o->arm = arm;
	fo.guard = arm == ARM_CONTROL ? PINLEASE_GUARD_NONE : PINLEASE_GUARD_AUTO;
	lo.flags |= arm == ARM_MANUAL ? PINLEASE_L_MANUAL : 0;
	o->watch->fd = open(path, O_RDWR | O_CLOEXEC);
	rt_assert(o->watch->fd >= 0, "open: %s", strerror(errno));
	r = pinlease_file_attach(o->ctx, o->watch->fd, &fo, &why, &o->file);
	rt_assert(!r, "attach: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(o->file, 0, FULL, &lo, &why, &o->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	owner_view(o);
	rt_assert(o->view.len == FULL, "the lease is %llu bytes", (unsigned long long)o->view.len);
	rt_assert((o->view.guard == PINLEASE_GUARD_NONE) == (arm == ARM_CONTROL), "guard %u", o->view.guard);
	if (arm != ARM_CONTROL)
		rt_assert(fcntl(o->watch->fd, F_GETLEASE) == F_WRLCK, "the lease is not held");
}

static void owner_close(struct owner *o)
{
	int r;

	rt_peer_order(o->peer, RT_REST);
	owner_until(o, atomic_load(&o->peer->state) != RT_STREAMING, "the peer at rest");
	r = pinlease_release(o->lease);
	rt_assert(!r, "release: %s", strerror(-r));
	r = pinlease_file_close(o->file);
	rt_assert(!r, "file_close: %s", strerror(-r));
	close(o->watch->fd);
}

/* The peer gets the keys of this generation, and a connection if it has none. */
static void round_start(struct owner *o, unsigned int round)
{
	uint64_t before = atomic_load(&o->peer->acked);
	struct watch *w = o->watch;

	w->change = round % WATCH_CHANGES;
	o->deaf = o->arm != ARM_CONTROL && round / WATCH_CHANGES % 2 == 1;
	o->broken = o->revoked = o->restored = 0;
	if (!o->qp.qp || atomic_load(&o->peer->error))
		rt_peer_connect(o->peer, &o->dev, &o->qp);
	o->peer->addr = o->view.iova;
	o->peer->rkey = o->view.rkey;
	o->peer->slots = (uint32_t)(o->view.len / RT_SLOT);
	rt_assert(o->peer->slots * 2 >= SLOTS, "only %u of %u slots survive", o->peer->slots, SLOTS);
	if (o->deaf && w->change != WATCH_OPEN)
		o->peer->slots = SLOTS / 2;
	rt_peer_order(o->peer, RT_STREAM);
	owner_until(o, atomic_load(&o->peer->acked) >= before + ACKED_WRITES || atomic_load(&o->peer->error),
		    "acknowledged writes");
	rt_assert(!atomic_load(&o->peer->error), "completion status %u under load",
		  atomic_load(&o->peer->error));
	atomic_store(&w->may_change, 0);
	atomic_store(&w->state, WATCH_READY);
	atomic_store(&w->order, WATCH_GO);
}

static void round_restore(struct owner *o)
{
	struct pinlease_why why = { 0 };
	uint64_t still = kt_now() + STILL_NS;
	int r;

	if (o->arm == ARM_MANUAL) {
		owner_until(o, kt_now() >= still, "stillness");
		atomic_store(&o->watch->may_change, 1);
		owner_until(o, atomic_load(&o->watch->state) == WATCH_TOLD, "the opener's judgement");
		r = pinlease_restore(o->lease, &why);
		rt_assert(!r, "restore: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	}
	owner_until(o, o->restored >= o->broken, "RESTORED");
	atomic_store(&o->watch->may_change, 1);
	owner_view(o);
}

static void round_check(struct owner *o, unsigned int round)
{
	const struct watch *w = o->watch;
	uint64_t ns = atomic_load(&w->returned_ns) - atomic_load(&w->called_ns);

	o->held += w->held;
	o->looks += w->looks;
	o->missing += w->missing;
	o->changed += w->changed;
	o->longest_ns = ns > o->longest_ns ? ns : o->longest_ns;
	if (w->missing || w->changed)
		printf("  round %u (%s%s): %u writes missing, %llu bytes changed after the opener went on\n",
		       round, watch_name(w->change), o->deaf ? ", deaf peer" : "", w->missing,
		       (unsigned long long)w->changed);
}

static void round_guarded(struct owner *o, unsigned int round)
{
	struct watch *w = o->watch;

	round_start(o, round);
	owner_until(o, atomic_load(&w->state) == WATCH_LOOKING, "the opener's return");
	owner_until(o, o->revoked, "REVOKED");
	rt_assert(o->broken, "no BREAK");
	round_restore(o);
	owner_until(o, atomic_load(&w->state) == WATCH_TOLD, "the opener's judgement");
	if (o->deaf)
		rt_assert(atomic_load(&o->peer->error), "a deaf peer kept its connection");
	else
		rt_assert(!atomic_load(&o->peer->error), "a peer that stopped got status %u",
			  atomic_load(&o->peer->error));
	o->kept += !o->deaf;
	o->lost_connections += o->deaf;
	rt_assert(w->held * 2 >= SLOTS / 2, "only %u slots hold an acknowledged write", w->held);
	round_check(o, round);
}

static void round_unguarded(struct owner *o, unsigned int round)
{
	struct watch *w = o->watch;
	uint64_t until;

	w->judge_last = 1;
	round_start(o, round);
	owner_until(o, atomic_load(&w->state) == WATCH_LOOKING, "the opener's return");
	until = kt_now() + UNGUARDED_NS;
	owner_until(o, kt_now() >= until, "time");
	rt_peer_order(o->peer, RT_REST);
	owner_until(o, atomic_load(&o->peer->state) != RT_STREAMING, "the peer at rest");
	owner_sync(o);
	atomic_store(&w->may_change, 1);
	owner_until(o, atomic_load(&w->state) == WATCH_TOLD, "the opener's judgement");
	rt_assert(!o->broken, "an unguarded lease was broken");
	round_check(o, round);
	w->judge_last = 0;
}

static void arm_report(const struct owner *o, const char *fs, const char *arm, unsigned int rounds)
{
	static const char *const mode[] = { "auto", "pinned", "odp", "staged" };

	printf("%s %s, %s: %u rounds, %llu writes acknowledged, %u missing, %llu bytes changed early, "
	       "%u slots held, %u looks, %u syncs (%u refused), connection kept %u, lost %u, "
	       "opener held up at most %llu ms\n",
	       fs, mode[o->view.mode], arm, rounds, (unsigned long long)o->acked, o->missing,
	       (unsigned long long)o->changed, o->held, o->looks, o->syncs, o->syncs_refused, o->kept,
	       o->lost_connections, (unsigned long long)(o->longest_ns / 1000000));
}

static void arm_run(struct owner *o, enum arm arm, const char *fs, const char *dir)
{
	static const char *const name[] = { "restored by hand", "restored automatically",
					    "control, no guard" };
	unsigned int i, rounds = pl_rounds(arm == ARM_CONTROL ? PL_R_unguarded_rounds : PL_R_truncate_rounds);
	uint64_t before = atomic_load(&o->peer->acked);
	struct kt_call *opener;

	o->syncs = o->syncs_refused = o->held = o->looks = o->missing = o->kept = o->lost_connections = 0;
	o->changed = o->longest_ns = 0;
	rt_assert(!kt_file(o->watch->path, dir, name[arm], FULL), "no file");
	memset(o->peer->slot, 0, sizeof(o->peer->slot));
	owner_open(o, arm, o->watch->path);
	atomic_store(&o->watch->order, WATCH_REST);
	opener = watch_start(o->watch);
	for (i = 0; i < rounds && !(arm == ARM_CONTROL && (o->missing || o->changed)); i++) {
		if (arm != ARM_CONTROL)
			round_guarded(o, i);
		else
			round_unguarded(o, i);
	}
	atomic_store(&o->watch->order, WATCH_LEAVE);
	rt_assert(kt_call_done(opener, KT_LONG) && !opener->ret, "the opener");
	kt_call_end(opener);
	o->acked = atomic_load(&o->peer->acked) - before;
	arm_report(o, fs, name[arm], i);
	owner_close(o);
}

/* Nothing lost, and not because nothing happened. */
static void arm_judge(const struct owner *o)
{
	rt_assert(!o->missing && !o->changed, "%u missing, %llu bytes changed", o->missing,
		  (unsigned long long)o->changed);
	rt_assert(o->looks && o->syncs && o->syncs_refused && o->kept && o->lost_connections,
		  "something was never tried");
}

int main(int argc, char **argv)
{
	struct owner o = { 0 };
	struct kt_call *peer;
	struct kt_fs fs;
	int r;

	rt_assert(argc == 2, "usage: rounds FILESYSTEM");
	kt_init();
	rt_require();
	r = kt_fs_make(&fs, argv[1], 64);
	rt_assert(!r, "no %s: %s", argv[1], strerror(-r));
	o.peer = kt_shared(sizeof(*o.peer));
	o.watch = kt_shared(sizeof(*o.watch));
	rt_assert(o.peer && o.watch, "out of shared memory");
	o.watch->peer = o.peer;
	o.watch->owner = getpid();
	o.watch->full = FULL;
	peer = rt_peer_start(o.peer);
	rt_open(&o.dev);
	r = pinlease_ctx_new(NULL, &o.ctx);
	rt_assert(!r, "ctx_new: %s", strerror(-r));

	arm_run(&o, ARM_MANUAL, argv[1], fs.dir);
	arm_judge(&o);
	arm_run(&o, ARM_AUTOMATIC, argv[1], fs.dir);
	arm_judge(&o);
	arm_run(&o, ARM_CONTROL, argv[1], fs.dir);
	if (o.view.mode == PINLEASE_MODE_PINNED)
		rt_assert(o.missing, "the unguarded pin lost nothing: this test proves nothing");
	else
		rt_assert(o.changed, "the unguarded file did not change: this test proves nothing");

	rt_peer_order(o.peer, RT_LEAVE);
	kt_call_end(peer);
	r = pinlease_ctx_free(o.ctx);
	rt_assert(!r, "ctx_free: %s", strerror(-r));
	return 0;
}
