/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * deadline FS: an application that never ends its DMA. lease-break-time is 3 s; the
 * library fences and lets go before that, so F_UNLCK answers 0; nothing that the peer
 * posts afterwards succeeds; REVOKED says how many operations were cut off; and when
 * those are ended at last, the generation that runs by then does not notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <pinlease.h>

#include "kt.h"
#include "rt.h"

#define SLOTS	     64u
#define FULL	     (SLOTS * (uint64_t)RT_SLOT)
#define ACKED_WRITES 200u
#define BREAK_TIME_S 6u
#define CUT_OFF	     7u
#define LONG_MS	     KT_LONG
#define SHORT_MS     300u

struct owner {
	char path[KT_PATH_MAX];
	struct kt_rdma dev;
	struct kt_qp qp;
	struct rt_peer *peer;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
};

static unsigned int unlocks;	/* F_UNLCK asked for, and its last answer */
static int unlock_answer;

int __real_pl_sys_set_lease(int fd, int type);
int __wrap_pl_sys_set_lease(int fd, int type);

int __wrap_pl_sys_set_lease(int fd, int type)
{
	int r = __real_pl_sys_set_lease(fd, type);

	if (type == F_UNLCK) {
		unlock_answer = r;
		unlocks++;
	}
	return r;
}

static struct pinlease_event expect(struct owner *o, uint32_t type)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(o->ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };
	int r = pinlease_ctx_next_event(o->ctx, &ev);

	if (!r) {
		rt_assert(poll(&pfd, 1, LONG_MS) == 1, "no event, %u expected", type);
		r = pinlease_ctx_next_event(o->ctx, &ev);
	}
	rt_assert(r == 1 && ev.type == type, "event %u (err %d), %u expected", ev.type, ev.err, type);
	return ev;
}

static struct pinlease_lease_info info(struct owner *o)
{
	struct pinlease_lease_info i = { .size = sizeof(i) };

	rt_assert(!pinlease_lease_info(o->lease, &i), "lease_info");
	return i;
}

static void owner_open(struct owner *o)
{
	struct pinlease_opts lo = { .size = sizeof(lo), .pd = o->dev.pd,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	int r;

	r = pinlease_ctx_new(NULL, &o->ctx);
	rt_assert(!r, "ctx_new: %s", strerror(-r));
	r = pinlease_file_open(o->ctx, o->path, NULL, &why, &o->file);
	rt_assert(!r, "file_open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(o->file, 0, FULL, &lo, &why, &o->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

static void peer_start(struct owner *o)
{
	struct pinlease_view view = { .size = sizeof(view) };
	uint64_t before = atomic_load(&o->peer->acked), until = kt_now() + LONG_MS * 1000000ull;

	rt_assert(!pinlease_view_get(o->lease, 0, &view), "view_get");
	o->peer->addr = view.iova;
	o->peer->rkey = view.rkey;
	o->peer->slots = (uint32_t)(view.len / RT_SLOT);
	rt_peer_connect(o->peer, &o->dev, &o->qp);
	rt_peer_order(o->peer, RT_STREAM);
	while (atomic_load(&o->peer->acked) < before + ACKED_WRITES) {
		rt_assert(!atomic_load(&o->peer->error) && kt_now() < until, "no acknowledged writes");
		usleep(1000);
	}
}

/* Held up to the deadline, not to the expiry, and cut off there. Answers the generation that was. */
static uint32_t break_with_stuck_dma(struct owner *o)
{
	struct pinlease_event ev;
	struct kt_call *opener;
	uint64_t held_ms;
	uint32_t gen;

	rt_assert(!pinlease_dma_begin(o->lease, CUT_OFF, &gen), "dma_begin");
	opener = kt_truncate(o->path, FULL / 2);
	rt_assert(opener, "no opener");
	ev = expect(o, PINLEASE_EV_BREAK);
	rt_assert(ev.gen == gen && ev.deadline_ns < kt_now() + BREAK_TIME_S * 1000000000ull,
		  "the deadline is not before the expiry");
	rt_assert(kt_call_blocked(opener, SHORT_MS), "the opener was not held up");
	rt_assert(atomic_load(&o->peer->state) == RT_STREAMING, "no load up to the deadline");
	rt_assert(kt_call_done(opener, LONG_MS) && !opener->ret, "the opener: %d", opener->ret);
	held_ms = kt_call_ns(opener) / 1000000;
	rt_assert(held_ms < BREAK_TIME_S * 1000, "held up for %llu ms: that was the expiry",
		  (unsigned long long)held_ms);
	ev = expect(o, PINLEASE_EV_REVOKED);
	rt_assert(unlocks == 1 && !unlock_answer, "%u F_UNLCK, answer %d", unlocks, unlock_answer);
	rt_assert(ev.gen == gen && ev.in_flight == CUT_OFF, "gen %u, %llu in flight", ev.gen,
		  (unsigned long long)ev.in_flight);
	rt_assert(rt_peer_reached(o->peer, RT_DEAD, LONG_MS), "the peer kept its connection");
	rt_assert(!rt_peer_late(o->peer, opener->end_ns), "%llu writes landed afterwards",
		  (unsigned long long)rt_peer_late(o->peer, opener->end_ns));
	printf("held up for %llu ms, %u operations cut off, 0 late writes\n", (unsigned long long)held_ms,
	       CUT_OFF);
	kt_call_end(opener);
	return gen;
}

static void end_late(struct owner *o, uint32_t gen)
{
	struct pinlease_lease_info i = info(o);
	uint32_t now;

	rt_assert(i.gen == gen + 1 && i.late == CUT_OFF && !i.in_flight, "gen %u, late %llu, in flight %llu",
		  i.gen, (unsigned long long)i.late, (unsigned long long)i.in_flight);
	rt_assert(!pinlease_dma_begin(o->lease, 2, &now) && now == gen + 1, "begin in the new generation");
	pinlease_dma_end(o->lease, CUT_OFF - 1, gen);
	i = info(o);
	rt_assert(i.late == 1 && i.in_flight == 2, "late %llu, in flight %llu", (unsigned long long)i.late,
		  (unsigned long long)i.in_flight);
	pinlease_dma_end(o->lease, 1, gen);
	pinlease_dma_end(o->lease, 2, now);
	i = info(o);
	rt_assert(!i.late && !i.in_flight, "late %llu, in flight %llu", (unsigned long long)i.late,
		  (unsigned long long)i.in_flight);
}

/* What the late ends might have spoiled: a break of an idle generation is answered at once. */
static void break_idle(struct owner *o)
{
	int r;

	peer_start(o);
	r = kt_truncate_now(o->path, FULL / 2, LONG_MS);
	rt_assert(!r, "the second truncate: %s", strerror(-r));
	expect(o, PINLEASE_EV_BREAK);
	/* Nobody was waited for till the deadline. */
	rt_assert(!expect(o, PINLEASE_EV_REVOKED).in_flight, "something in flight");
	expect(o, PINLEASE_EV_RESTORED);
	rt_assert(rt_peer_reached(o->peer, RT_DEAD, LONG_MS), "the peer kept its connection");
}

static void judge(struct owner *o)
{
	static uint64_t image[FULL / sizeof(uint64_t)];
	unsigned int missing, held;
	ssize_t n;
	int fd;

	fd = open(o->path, O_RDONLY | O_CLOEXEC);
	n = pread(fd, image, sizeof(image), 0);
	rt_assert(n == (ssize_t)(FULL / 2), "the file has %zd bytes", n);
	close(fd);
	missing = rt_missing(o->peer, image, (size_t)n, FULL / 2, RT_ALL, &held);
	rt_assert(!missing && held == SLOTS / 2, "%u writes missing, %u slots held", missing, held);
}

int main(int argc, char **argv)
{
	static struct owner o;
	struct kt_call *peer;
	struct kt_fs fs;
	uint32_t gen;
	int r;

	rt_assert(argc == 2, "usage: deadline FILESYSTEM");
	kt_init();
	rt_require();
	r = kt_fs_make(&fs, argv[1], 64);
	rt_assert(!r, "no %s: %s", argv[1], strerror(-r));
	rt_assert(!kt_break_time(BREAK_TIME_S), "lease-break-time");
	rt_assert(!kt_file(o.path, fs.dir, "stuck", FULL), "no file");
	o.peer = kt_shared(sizeof(*o.peer));
	rt_assert(o.peer, "out of shared memory");
	peer = rt_peer_start(o.peer);
	rt_open(&o.dev);
	owner_open(&o);
	peer_start(&o);
	gen = break_with_stuck_dma(&o);
	expect(&o, PINLEASE_EV_RESTORED);
	end_late(&o, gen);
	break_idle(&o);
	rt_assert(!pinlease_release(o.lease) && !pinlease_file_close(o.file) && !pinlease_ctx_free(o.ctx),
		  "free");
	judge(&o);
	rt_peer_order(o.peer, RT_LEAVE);
	kt_call_end(peer);
	return 0;
}
