/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * peer_kill FS: peers that are killed in the middle of their writes, one after the other. The
 * owner's lease is as before: ACTIVE, of the same generation, with the same key, which the next peer
 * writes with; the account holds what the owner had begun, and nothing else; descriptors and
 * pinned memory are those of before. What was acknowledged to the dead is in the file after a
 * break, which does not wait for a grant whose connection is known to be dead.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <pinlease/peers.h>

#include "kt.h"
#include "rounds.h"
#include "rt.h"

#define SLOTS	    64u
#define FULL	    (SLOTS * (uint64_t)RT_SLOT)
#define WRITES	    100u /* acknowledged, before the kill */
#define LONG_MS	    KT_LONG
#define DEADLINE_MS 30000u /* of a break that waits for what nobody returns */

struct owner {
	char path[KT_PATH_MAX];
	struct kt_rdma dev;
	struct kt_qp qp;
	struct rt_peer *peer;
	struct kt_call *call;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	struct pinlease_grant *grant;
	uint32_t gen; /* of what is begun */
};

static void owner_open(struct owner *o)
{
	struct pinlease_opts lo = { .size = sizeof(lo),
				    .pd = o->dev.pd,
				    .ibv_access = IBV_ACCESS_REMOTE_WRITE,
				    .flags = PINLEASE_L_MANUAL,
				    .deadline_ms = DEADLINE_MS };
	struct pinlease_why why = { 0 };
	int r = pinlease_ctx_new(NULL, &o->ctx);

	rt_assert(!r, "ctx_new: %s", strerror(-r));
	r = pinlease_file_open(o->ctx, o->path, NULL, &why, &o->file);
	rt_assert(!r, "file_open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(o->file, 0, FULL, &lo, &why, &o->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
}

static struct pinlease_lease_info info(struct owner *o)
{
	struct pinlease_lease_info i = { .size = sizeof(i) };

	rt_assert(!pinlease_lease_info(o->lease, &i), "lease_info");
	return i;
}

static struct pinlease_view view(struct owner *o)
{
	struct pinlease_view v = { .size = sizeof(v) };

	rt_assert(!pinlease_view_get(o->lease, 0, &v), "view_get");
	return v;
}

/* What must be the same whatever became of a peer. */
struct mark {
	unsigned int fds;
	long pinned_kib;
	uint32_t registrations;
};

static struct mark mark(struct owner *o)
{
	struct mark m = { .pinned_kib = kt_pinned_kib(), .registrations = info(o).registrations };
	int fd;

	for (fd = 0; fd < 1024; fd++)
		m.fds += fcntl(fd, F_GETFD) >= 0;
	return m;
}

static void expect_same(const struct mark *a, const struct mark *b)
{
	rt_assert(a->fds == b->fds && a->pinned_kib == b->pinned_kib && a->registrations == b->registrations,
		  "descriptors %u and %u, pinned %ld and %ld KiB, registrations %u and %u", a->fds, b->fds,
		  a->pinned_kib, b->pinned_kib, a->registrations, b->registrations);
}

/* It streams by the key that the first peer had, too; the owner has begun once for it, and granted it all. */
static void peer_starts(struct owner *o)
{
	const struct pinlease_grant_opts go = { .size = sizeof(go), .len = FULL };
	uint64_t before = atomic_load(&o->peer->acked), until;
	unsigned char text[PINLEASE_MESSAGE_MAX];
	struct rt_peer *p = o->peer;

	atomic_store(&p->order, RT_REST);
	atomic_store(&p->state, RT_NEW);
	o->call = rt_peer_start(p);
	p->addr = o->view.iova;
	p->rkey = o->view.rkey;
	p->slots = SLOTS;
	rt_peer_connect(p, &o->dev, &o->qp);
	rt_assert(!pinlease_grant_new(o->lease, &go, &o->grant), "grant_new");
	/* Out from now on: a break waits for it. */
	rt_assert(pinlease_grant_descriptor(o->grant, text, sizeof(text)) > 0, "grant_descriptor");
	rt_assert(!pinlease_dma_begin(o->lease, 1, &o->gen), "dma_begin");
	rt_peer_order(p, RT_STREAM);
	until = kt_now() + LONG_MS * 1000000ull;
	while (atomic_load(&p->acked) < before + WRITES) {
		rt_assert(!atomic_load(&p->error) && kt_now() < until, "no acknowledged writes");
		usleep(1000);
	}
}

/* In the middle of a write: it never rests while it streams, and has RT_DEPTH of them in flight. */
static void peer_dies(struct owner *o, unsigned int round)
{
	struct pinlease_lease_info i;
	uint32_t slot, open = 0;

	usleep(round * 997 % 5000);
	kt_call_kill(o->call);
	rt_assert(WIFSIGNALED(o->call->status) && WTERMSIG(o->call->status) == SIGKILL, "status %#x",
		  (unsigned int)o->call->status);
	kt_call_end(o->call);
	rt_assert(atomic_load(&o->peer->state) == RT_STREAMING, "it was not writing");
	for (slot = 0; slot < SLOTS; slot++)
		open += atomic_load(&o->peer->slot[slot].posted) != atomic_load(&o->peer->slot[slot].acked);
	rt_assert(open, "no write was in flight");
	i = info(o);
	rt_assert(i.state == PINLEASE_ACTIVE && i.gen == o->gen && i.in_flight == 2 && !i.late && !i.breaks,
		  "state %u, gen %u, in flight %llu, late %llu, %llu breaks", i.state, i.gen,
		  (unsigned long long)i.in_flight, (unsigned long long)i.late, (unsigned long long)i.breaks);
	rt_assert(view(o).rkey == o->view.rkey && view(o).iova == o->view.iova, "another key");
}

/* The owner sees the connection die, and takes back what it had given. */
static void peer_is_gone(struct owner *o)
{
	struct pinlease_lease_info i;

	pinlease_dma_end(o->lease, 1, o->gen);
	rt_assert(!pinlease_grant_disconnected(o->grant), "grant_disconnected");
	i = info(o);
	rt_assert(!i.in_flight && !i.late, "in flight %llu, late %llu", (unsigned long long)i.in_flight,
		  (unsigned long long)i.late);
	rt_assert(!pinlease_grant_free(o->grant), "grant_free");
}

static void killed(struct owner *o, unsigned int rounds)
{
	struct mark before, after;
	unsigned int round;

	for (round = 0; round < rounds; round++) {
		peer_starts(o);
		before = mark(o);
		peer_dies(o, round);
		peer_is_gone(o);
		after = mark(o);
		expect_same(&before, &after);
	}
}

/* The last one dies with its grant, and the break comes before the owner has taken that back. */
static void break_over_the_dead(struct owner *o)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(o->ctx), .events = POLLIN };
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct kt_call *opener;
	uint64_t ms;

	peer_starts(o);
	peer_dies(o, 0);
	pinlease_dma_end(o->lease, 1, o->gen);
	rt_assert(!pinlease_grant_disconnected(o->grant), "grant_disconnected");
	opener = kt_open(o->path, O_RDONLY);
	rt_assert(opener && kt_call_done(opener, LONG_MS) && opener->ret >= 0, "the opener");
	ms = kt_call_ns(opener) / 1000000;
	rt_assert(ms < DEADLINE_MS / 2, "held up for %llu ms by a dead peer", (unsigned long long)ms);
	kt_call_end(opener);
	/* The opener is let on a little before that is said. */
	while (ev.type != PINLEASE_EV_REVOKED) {
		rt_assert(poll(&pfd, 1, LONG_MS) == 1, "no REVOKED");
		rt_assert(pinlease_ctx_next_event(o->ctx, &ev) == 1 && ev.type != PINLEASE_EV_LOST,
			  "event %u", ev.type);
	}
	rt_assert(!pinlease_grant_free(o->grant), "grant_free");
	printf("a break after the last: %llu ms\n", (unsigned long long)ms);
}

static void judge(struct owner *o)
{
	static uint64_t image[FULL / sizeof(uint64_t)];
	unsigned int missing, held;
	int fd = open(o->path, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, image, sizeof(image), 0);

	rt_assert(n == (ssize_t)FULL, "the file has %zd bytes", n);
	close(fd);
	missing = rt_missing(o->peer, image, (size_t)n, RT_ALL, 0, &held);
	rt_assert(!missing && held == SLOTS, "%u writes missing, %u slots held", missing, held);
}

int main(int argc, char **argv)
{
	unsigned int rounds = (unsigned int)pl_rounds(PL_R_peer_kills);
	static struct owner o;
	struct kt_fs fs;
	int r;

	rt_assert(argc == 2, "usage: peer_kill FILESYSTEM");
	kt_init();
	rt_require();
	r = kt_fs_make(&fs, argv[1], 32);
	if (r)
		kt_skip("cannot mount %s: %s", argv[1], strerror(-r));
	rt_assert(!kt_file(o.path, fs.dir, "file", FULL), "no file");
	o.peer = kt_shared(sizeof(*o.peer));
	rt_assert(o.peer, "no shared memory");
	rt_open(&o.dev);
	o.dev.patient = o.peer->patient = true;
	owner_open(&o);
	o.view = view(&o);
	killed(&o, rounds);
	break_over_the_dead(&o);
	rt_assert(!pinlease_release(o.lease) && !pinlease_file_close(o.file), "release");
	rt_assert(!pinlease_ctx_free(o.ctx), "ctx_free");
	judge(&o);
	printf("%s: %u peers killed, %llu writes acknowledged to them, 0 missing\n", argv[1], rounds + 1,
	       (unsigned long long)atomic_load(&o.peer->acked));
	kt_qp_drop(&o.qp);
	kt_rdma_close(&o.dev);
	return 0;
}
