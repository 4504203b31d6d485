/* SPDX-License-Identifier: BSD-3-Clause */
/* The owner of a ladder, and the opener. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ladder_peer.h"

static int listen_on(uint16_t *port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	rt_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&at, sizeof(at)) && !listen(fd, 1) &&
			  !getsockname(fd, (struct sockaddr *)&at, &len),
		  "listen: %s", strerror(errno));
	*port = ntohs(at.sin_port);
	return fd;
}

static void link_start(struct ladder_link *k, uint32_t slots, bool tcp)
{
	int listener = -1;

	*k = (struct ladder_link){ .peer = kt_shared(sizeof(*k->peer)), .sock = -1 };
	rt_assert(k->peer, "out of shared memory");
	k->peer->books.slots = slots;
	atomic_store(&k->peer->order, LADDER_WRITE);
	if (tcp)
		listener = listen_on(&k->peer->port);
	k->call = ladder_peer_start(k->peer);
	if (!tcp)
		return;
	k->sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	rt_assert(k->sock >= 0, "accept: %s", strerror(errno));
	close(listener);
}

void ladder_setup(struct ladder *l, const char *fs, uint32_t peers, uint64_t full, bool tcp)
{
	struct ladder_opener *o;
	uint32_t i;
	int r;

	memset(l, 0, sizeof(*l));
	r = kt_fs_make(&l->fs, fs, 64);
	rt_assert(!r, "no %s: %s", fs, strerror(-r));
	o = l->opener = kt_shared(sizeof(*o));
	rt_assert(o, "out of shared memory");
	rt_assert(!kt_file(o->path, l->fs.dir, "shared", full), "no file");
	o->full = full;
	o->peers = l->links = peers;
	for (i = 0; i < peers; i++) {
		link_start(&l->link[i], (uint32_t)(full / peers / RT_SLOT), tcp);
		o->peer[i] = l->link[i].peer;
		o->off[i] = full / peers * i;
	}
	rt_open(&l->dev);
	r = pinlease_ctx_new(NULL, &l->ctx);
	rt_assert(!r, "ctx_new: %s", strerror(-r));
}

static void link_connect(struct ladder *l, struct ladder_link *k)
{
	int r = k->sock < 0 ? pinlease_carry_verbs(l->dev.pd, NULL, &k->carry)
			    : pinlease_carry_socket(k->sock, NULL, &k->carry);
	uint64_t until = kt_now() + LADDER_LONG_NS;

	rt_assert(!r, "no carrier: %s", strerror(-r));
	r = ladder_qp(&l->dev, k->carry, k->sock >= 0, &k->qp);
	rt_assert(!r, "no queue pair: %s", strerror(-r));
	while (!atomic_load(&k->peer->ready)) {
		rt_assert(kt_now() < until, "a peer did not start");
		usleep(1000);
	}
	k->peer->owner = k->qp.ep;
	rt_assert(!kt_qp_connect(&l->dev, &k->qp, &k->peer->self), "cannot connect to a peer");
	if (k->sock < 0)
		rt_assert(!pinlease_carry_start(k->carry, k->qp.qp), "carry_start");
	atomic_store(&k->peer->connect, 1);
	while (atomic_load(&k->peer->ready) != 2) {
		rt_assert(kt_now() < until, "a peer does not connect");
		usleep(1000);
	}
}

static void link_grant(struct ladder *l, uint32_t i)
{
	struct pinlease_grant_opts o = { .size = sizeof(o),
					 .off = l->opener->off[i],
					 .len = l->opener->full / l->links,
					 .user = &l->link[i] };
	int r = pinlease_grant_new(l->lease, &o, &l->link[i].grant);

	if (!r)
		r = pinlease_carry_add_grant(l->link[i].carry, l->link[i].grant);
	rt_assert(!r, "grant: %s", strerror(-r));
}

void ladder_open(struct ladder *l, uint32_t flags, uint32_t deadline_ms)
{
	struct pinlease_opts o = { .size = sizeof(o),
				   .pd = l->dev.pd,
				   .flags = flags,
				   .deadline_ms = deadline_ms,
				   .ibv_access = IBV_ACCESS_REMOTE_WRITE };
	struct pinlease_why why = { 0 };
	uint32_t i;
	int r;

	r = pinlease_file_open(l->ctx, l->opener->path, NULL, &why, &l->file);
	rt_assert(!r, "file_open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	r = pinlease_acquire(l->file, 0, l->opener->full, &o, &why, &l->lease);
	rt_assert(!r, "acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	for (i = 0; i < l->links; i++) {
		link_connect(l, &l->link[i]);
		link_grant(l, i);
	}
}

static void turn_links(struct ladder *l, bool tell)
{
	unsigned char buf[PINLEASE_CARRY_MAX];
	struct ladder_link *k;
	uint32_t kind;
	int r;

	for (k = l->link; k < l->link + l->links; k++) {
		if (k->dead)
			continue;
		r = tell ? pinlease_carry_tell(k->carry) : 0;
		while (!r && (r = pinlease_carry_recv(k->carry, buf, sizeof(buf), &kind)) > 0)
			rt_die(__FILE__, __LINE__, "a message of %d bytes", r);
		k->dead = r;
	}
}

static void turn_event(struct ladder *l, const struct pinlease_event *ev)
{
	switch (ev->type) {
	case PINLEASE_EV_BREAK:
		l->broken++;
		break;
	case PINLEASE_EV_REVOKED:
		l->revoked++;
		l->cut = ev->in_flight;
		l->revoked_ns = kt_now();
		break;
	case PINLEASE_EV_RESTORED:
		l->restored++;
		l->restored_ns = kt_now();
		l->pause_ns = l->restored_ns - l->revoked_ns;
		break;
	default:
		rt_die(__FILE__, __LINE__, "event %u, err %d", ev->type, ev->err);
	}
}

void ladder_turn(struct ladder *l)
{
	struct pollfd pfd[1 + LADDER_PEERS] = { { .fd = pinlease_ctx_fd(l->ctx), .events = POLLIN } };
	struct pinlease_event ev = { .size = sizeof(ev) };
	bool tell = false;
	uint32_t i;

	for (i = 0; i < l->links; i++)
		pfd[1 + i] =
			(struct pollfd){ .fd = l->link[i].dead ? -1 : pinlease_carry_fd(l->link[i].carry),
					 .events = POLLIN };
	poll(pfd, 1 + l->links, 1);
	while (pinlease_ctx_next_event(l->ctx, &ev) == 1) {
		turn_event(l, &ev);
		tell = true;
	}
	turn_links(l, tell);
}

/* While the file is open nothing is restored, so the books stand still but for completions of what landed. */
static int opener_main(const void *arg)
{
	struct ladder_opener *o = *(struct ladder_opener *const *)arg;
	uint32_t i, held, ms;
	uint64_t began = kt_now();
	char *image;
	int fd;

	fd = open(o->path, O_RDWR | O_CLOEXEC);
	rt_assert(fd >= 0, "open: %s", strerror(errno));
	ms = (uint32_t)((kt_now() - began) / 1000000);
	image = aligned_alloc(RT_SLOT, o->full);
	rt_assert(image && pread(fd, image, o->full, 0) == (ssize_t)o->full, "pread: %s", strerror(errno));
	o->missing = o->held = 0;
	for (i = 0; i < o->peers; i++) {
		o->missing += rt_missing(&o->peer[i]->books, image + o->off[i], o->full / o->peers, RT_ALL, 0,
					 &held);
		o->held += held;
	}
	free(image);
	close(fd);
	return (int)ms;
}

struct kt_call *ladder_break(struct ladder *l)
{
	struct kt_call *call;

	ladder_until(l, kt_now() >= l->restored_ns + l->pause_ns, "time to pass");
	call = kt_call_start(opener_main, &l->opener, sizeof(l->opener));
	rt_assert(call, "no process for the opener");
	return call;
}

unsigned int ladder_opener_ms(struct ladder *l, struct kt_call *call)
{
	unsigned int ms;

	ladder_until(l, kt_call_done(call, 0), "the opener");
	rt_assert(call->ret >= 0 && !l->opener->missing, "%u acknowledged writes are missing",
		  l->opener->missing);
	rt_assert(l->opener->held, "no slot holds an acknowledged write");
	ms = (unsigned int)call->ret;
	kt_call_end(call);
	return ms;
}

bool ladder_lives(const struct ladder_link *k)
{
	return !k->dead && !atomic_load(&k->peer->books.error) && !atomic_load(&k->peer->ended);
}

void ladder_load(struct ladder *l, uint64_t writes)
{
	struct ladder_link *k;
	uint64_t before;

	for (k = l->link; k < l->link + l->links; k++) {
		if (!ladder_lives(k) || atomic_load(&k->peer->order) != LADDER_WRITE)
			continue;
		before = atomic_load(&k->peer->books.acked);
		ladder_until(l, atomic_load(&k->peer->books.acked) >= before + writes || !ladder_lives(k),
			     "load");
		rt_assert(ladder_lives(k), "a peer died under load: %d, %u, %d", k->dead,
			  atomic_load(&k->peer->books.error), atomic_load(&k->peer->ended));
	}
}

void ladder_order(struct ladder *l, uint32_t peer, enum ladder_order order)
{
	struct ladder_peer *p = l->link[peer].peer;

	atomic_store(&p->quiet, 0);
	atomic_store(&p->order, order);
	if (order == LADDER_LISTEN)
		ladder_until(l, atomic_load(&p->quiet), "a peer at rest");
}

/* With no lease on it, the file has all that was acknowledged. */
static void last_look(struct ladder *l)
{
	struct kt_call *call = ladder_break(l);

	rt_assert(kt_call_done(call, KT_LONG) && call->ret >= 0 && !l->opener->missing && l->opener->held,
		  "%u acknowledged writes are missing after the release", l->opener->missing);
	kt_call_end(call);
}

void ladder_close(struct ladder *l)
{
	struct ladder_link *k;

	for (k = l->link; k < l->link + l->links; k++) {
		atomic_store(&k->peer->order, LADDER_LEAVE);
		rt_assert(kt_call_exited(k->call, 0) || kt_call_done(k->call, KT_LONG),
			  "a peer does not leave");
		kt_call_end(k->call);
		kt_qp_drop(&k->qp);
		rt_assert(!pinlease_carry_free(k->carry) && !pinlease_grant_free(k->grant), "free");
		if (k->sock >= 0)
			close(k->sock);
	}
	rt_assert(!pinlease_release(l->lease) && !pinlease_file_close(l->file) && !pinlease_ctx_free(l->ctx),
		  "release");
	l->pause_ns = 0;
	last_look(l);
	kt_rdma_close(&l->dev);
	kt_fs_drop(&l->fs);
}
