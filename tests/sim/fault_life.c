/* SPDX-License-Identifier: BSD-3-Clause */
#include "fault_life.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pinlease/peers.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sys.h"

#define SEED	 77u
#define DEADLINE 500u
#define PUNCH	 (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)
#define STAGED(more) { .mode = PINLEASE_MODE_STAGED, .flags = (more), .deadline_ms = DEADLINE }
#define USUAL	     { .deadline_ms = DEADLINE }

const struct fault_scene fault_scenes[] = {
	{ .name = "pinned", .fs = SIM_TMPFS, .acts = ACT_CHANGE | ACT_SECOND, .opts = USUAL },
	{ .name = "staged", .fs = SIM_EXT4, .acts = ACT_CHANGE | ACT_SECOND, .opts = STAGED(0) },
	{ .name = "staged, told, saved", .fs = SIM_EXT4, .acts = ACT_TELL | ACT_SAVE,
	  .opts = STAGED(PINLEASE_L_DIRTY_TOLD) },
	{ .name = "staged, granted", .fs = SIM_EXT4, .acts = ACT_GRANT, .opts = STAGED(PINLEASE_L_GRANTED) },
	{ .name = "granted, answered", .fs = SIM_TMPFS, .acts = ACT_GRANT | ACT_ANSWER, .opts = USUAL },
	{ .name = "staged, stopped", .fs = SIM_EXT4, .acts = ACT_STOPPED | ACT_SAVE, .opts = STAGED(0) },
	{ .name = "read", .fs = SIM_EXT4, .acts = ACT_READS | ACT_NAME, .opts = USUAL },
	{ .name = "sealed", .fs = SIM_TMPFS, .guard = PINLEASE_GUARD_SEAL, .acts = ACT_SEALED,
	  .opts = USUAL },
	{ .name = "no room for signals", .fs = SIM_TMPFS, .acts = ACT_FULL, .opts = USUAL },
	{ .name = "open elsewhere", .fs = SIM_TMPFS, .acts = ACT_OTHER, .opts = USUAL },
	{ .name = "on demand", .fs = SIM_EXT4, .odp = SIM_ODP_GOOD, .acts = ACT_CHANGE,
	  .opts = { .mode = PINLEASE_MODE_ODP, .deadline_ms = DEADLINE } },
	{ .name = "auto, ODP that lies", .fs = SIM_EXT4, .odp = SIM_ODP_UNALIGNED, .opts = USUAL },
	{ .name = "fs-dax, staged", .dax = SIM_DAX_FILES, .acts = ACT_TELL,
	  .opts = STAGED(PINLEASE_L_DIRTY_TOLD) },
	{ .name = "fs-dax, staged, own mapping", .dax = SIM_DAX_FILES, .acts = ACT_ADDR, .opts = STAGED(0) },
	{ .name = "fs-dax, on demand", .dax = SIM_DAX_FILES, .odp = SIM_ODP_GOOD, .acts = ACT_CHANGE,
	  .opts = { .mode = PINLEASE_MODE_ODP, .deadline_ms = DEADLINE } },
	{ .name = "device-dax", .dax = SIM_DAX_DEVICE, .opts = USUAL },
	{ .name = "no guard", .fs = SIM_TMPFS, .guard = PINLEASE_GUARD_NONE, .acts = ACT_CHANGE,
	  .opts = USUAL },
	{ .name = "two, by hand", .fs = SIM_TMPFS, .acts = ACT_TWO | ACT_READER,
	  .opts = { .flags = PINLEASE_L_MANUAL, .deadline_ms = DEADLINE } },
	{ .name = "probed, memory", .fs = SIM_TMPFS, .acts = ACT_PROBE, .opts = USUAL },
	{ .name = "probed", .fs = SIM_EXT4, .acts = ACT_PROBE, .opts = USUAL },
};
const size_t fault_scene_count = sizeof(fault_scenes) / sizeof(fault_scenes[0]);

static void told(struct fault_life *l, const char *by, int r)
{
	if (r && l->quiet)
		fail_msg("%s: %s answered %d", l->scene->name, by, r);
	if (r)
		l->err = r;
}

void life_new(struct fault_life *l, const struct fault_scene *scene)
{
	l->scene = scene;
	l->fd = -1;
	if (scene->dax == SIM_DAX_NONE)
		sim_file_system(scene->fs);
	sim_dax(scene->dax);
	l->pd = sim_device(scene->odp);
	if (scene->acts & ACT_SEALED)
		l->path = sim_memfd(WORLD_SIZE, &l->memfd);
	else
		l->path = sim_file("file", WORLD_SIZE);
	if (!(scene->acts & (ACT_ADDR | ACT_SEALED)))
		return;
	l->fd = pl_sys_open(l->path, O_RDWR);
	assert_true(l->fd >= 0);
	if (scene->acts & ACT_ADDR)
		assert_int_equal(
			pl_sys_map(NULL, WORLD_SIZE, PROT_READ | PROT_WRITE, l->fd, 0, &l->addr), 0);
}

static void life_acquire(struct fault_life *l, uint64_t off, uint64_t len, struct pinlease **lease)
{
	struct pinlease_opts opts = l->scene->opts;

	opts.size = sizeof(opts);
	opts.pd = l->pd;
	opts.addr = l->addr;
	opts.ibv_access = l->scene->acts & ACT_READS ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
	told(l, "pinlease_acquire", pinlease_acquire(l->file, off, len, &opts, NULL, lease));
	if (!*lease && !l->err)
		fail_msg("%s: nobody was told why there is no lease", l->scene->name);
}

/* The peer writes a page, as long as the lease lets it; true: and it landed. */
static bool life_write(struct fault_life *l, uint64_t off)
{
	struct pinlease_view view = { .size = sizeof(view) };
	struct sim_dma dma;
	bool landed;
	uint32_t gen;

	if (pinlease_dma_begin(l->lease, 1, &gen))
		return false;
	assert_int_equal(pinlease_view_get(l->lease, 0, &view), 0);
	sim_dma_write(&dma, view.rkey, view.iova + off, SIM_PAGE, SEED, 0);
	landed = sim_dma_wait(&dma) == SIM_DMA_LANDED;
	if (landed && l->scene->acts & ACT_TELL)
		told(l, "pinlease_mark_dirty", pinlease_mark_dirty(l->lease, off, SIM_PAGE));
	pinlease_dma_end(l->lease, 1, gen);
	return landed;
}

static void life_save(struct fault_life *l)
{
	int fd = memfd_create("saved", MFD_CLOEXEC);

	assert_true(fd >= 0);
	told(l, "pinlease_save", pinlease_save(l->lease, fd));
	close(fd);
}

/* Without ACT_ANSWER its descriptor is never sent: a peer that does not return it. */
static void life_grant(struct fault_life *l)
{
	const struct pinlease_grant_opts o = { .size = sizeof(o), .len = SIM_PAGE };
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n;

	told(l, "pinlease_grant_new", pinlease_grant_new(l->lease, &o, &l->grant));
	if (!l->grant)
		return;
	n = pinlease_grant_descriptor(l->grant, buf, sizeof(buf));
	told(l, "pinlease_grant_descriptor", n < 0 ? n : 0);
	if (n > 0 && l->scene->acts & ACT_ANSWER)
		told(l, "pinlease_peer_attach", pinlease_peer_attach(buf, (size_t)n, &l->peer));
}

/* What the owner has for the peer, and what the peer says to that. */
static void life_answer(struct fault_life *l)
{
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n;

	if (!l->grant || !l->peer)
		return;
	n = pinlease_grant_message(l->grant, 0, buf, sizeof(buf));
	if (n > 0)
		n = pinlease_peer_message(l->peer, buf, (size_t)n);
	if (n == 1)
		n = pinlease_peer_answer(l->peer, buf, sizeof(buf));
	if (n > 1)
		n = pinlease_grant_received(l->grant, buf, (size_t)n);
	told(l, "a message", n < 0 ? n : 0);
}

/* The name goes and comes back. */
static void life_move(struct fault_life *l)
{
	char other[PATH_MAX];

	snprintf(other, sizeof(other), "%s.moved", l->path);
	assert_int_equal(rename(l->path, other), 0);
	sim_notify();
	sim_settle();
	assert_int_equal(rename(other, l->path), 0);
	sim_notify();
}

static void life_use(struct fault_life *l)
{
	uint32_t index;
	int r;

	if (l->scene->acts & ACT_SECOND)
		told(l, "pinlease_mr_add", pinlease_mr_add(l->lease, l->pd, 0, &index));
	l->durable = life_write(l, 0);
	r = l->scene->acts & ACT_READS ? 0 : pinlease_sync(l->lease, 0, 0, 0);
	told(l, "pinlease_sync", r);
	l->durable &= !r;
	if (l->scene->acts & ACT_CHANGE) {
		told(l, "pinlease_file_truncate", pinlease_file_truncate(l->file, WORLD_SIZE / 2));
		r = pinlease_file_allocate(l->file, PUNCH, 4 * SIM_PAGE, SIM_PAGE);
		told(l, "pinlease_file_allocate", r == -EOPNOTSUPP ? 0 : r);
	}
	if (l->scene->acts & ACT_GRANT)
		life_grant(l);
	if (l->scene->acts & ACT_NAME)
		life_move(l);
	l->written = life_write(l, SIM_PAGE);
}

static void life_probe(struct fault_life *l)
{
	struct pinlease_probe_opts opts = { .size = sizeof(opts), .pd = l->pd };
	struct pinlease_probe_result result = { .size = sizeof(result) };

	told(l, "pinlease_probe", pinlease_probe(l->ctx, l->path, &opts, NULL, &result));
}

/* Refused, and who it is looked for. */
static void life_refused(struct fault_life *l, const struct pinlease_file_opts *opts)
{
	struct sim_opener *o = sim_open(l->path, O_RDWR);
	struct pinlease_why why = { .reason = 0 };

	assert_int_not_equal(pinlease_file_open(l->ctx, l->path, opts, &why, &l->file), 0);
	assert_int_not_equal(why.reason, PINLEASE_WHY_NONE);
	if (l->quiet)
		assert_int_equal(why.pid, sim_opener_pid(o));
	sim_opener_end(o);
}

void life_begin(struct fault_life *l)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .guard = l->scene->guard };
	bool two = l->scene->acts & ACT_TWO;

	if (l->scene->acts & ACT_FULL)
		sim_signal_room(0);
	told(l, "pinlease_ctx_new", pinlease_ctx_new(NULL, &l->ctx));
	sim_signal_room(1000);
	if (!l->ctx)
		return;
	if (l->scene->acts & ACT_PROBE)
		life_probe(l);
	if (l->scene->acts & ACT_OTHER)
		life_refused(l, &opts);
	if (l->scene->acts & ACT_READS)
		opts.access = PINLEASE_READ;
	if (l->fd >= 0)
		told(l, "pinlease_file_attach", pinlease_file_attach(l->ctx, l->fd, &opts, NULL, &l->file));
	else
		told(l, "pinlease_file_open", pinlease_file_open(l->ctx, l->path, &opts, NULL, &l->file));
	if (!l->file)
		return;
	life_acquire(l, 0, two ? WORLD_SIZE / 2 : WORLD_SIZE, &l->lease);
	if (two)
		life_acquire(l, WORLD_SIZE / 2, WORLD_SIZE / 2, &l->second);
	if (l->lease)
		life_use(l);
}

static void life_events(struct fault_life *l)
{
	struct pinlease_event ev = { .size = sizeof(ev) };

	while (l->ctx && pinlease_ctx_next_event(l->ctx, &ev) == 1) {
		if (ev.type == PINLEASE_EV_LOST && l->scene->acts & ACT_STOPPED)
			l->err = -ETIME;
		else if (ev.type == PINLEASE_EV_LOST || ev.type == PINLEASE_EV_RESTORE_FAILED)
			told(l, "an event", ev.err ? ev.err : -EIO);
		if (ev.type == PINLEASE_EV_LOST && l->scene->acts & ACT_SAVE)
			life_save(l);
	}
}

static struct sim_opener *life_opener(struct fault_life *l)
{
	unsigned int acts = l->scene->acts;

	/* A device or what is sealed lets everybody in at once, and no guard means that nobody waits. */
	if (acts & (ACT_READER | ACT_SEALED) || l->scene->dax == SIM_DAX_DEVICE)
		return sim_open(l->path, O_RDONLY);
	return sim_truncate(l->path, WORLD_SIZE);
}

void life_break(struct fault_life *l)
{
	bool stopped = l->scene->acts & ACT_STOPPED;
	struct sim_opener *o;

	if (!l->ctx)
		return;
	if (stopped)
		sim_stop();
	o = life_opener(l);
	if (stopped) {
		sim_sleep((SIM_BREAK_TIME_S + 1) * SIM_S);
		sim_continue();
	}
	sim_settle();
	life_answer(l);
	assert_true(sim_opener_wait(o, 60 * SIM_S));
	if (sim_opener_expired(o) && !l->kept_out && !stopped)
		fail_msg("%s: an opener had to wait for the kernel's own clock", l->scene->name);
	sim_opener_end(o);
	sim_sleep(2 * SIM_S);
	life_events(l);
	if (l->lease && world_state(l->lease) != PINLEASE_ACTIVE)
		told(l, "pinlease_restore", pinlease_restore(l->lease, NULL));
	life_answer(l);
}

static void drop(struct fault_life *l, struct pinlease **lease, unsigned int tries)
{
	int r;

	for (; *lease && tries; tries--) {
		r = pinlease_release(*lease);
		told(l, "pinlease_release", r);
		if (!r)
			*lease = NULL;
	}
}

void life_release(struct fault_life *l)
{
	if (l->peer)
		assert_int_equal(pinlease_peer_detach(l->peer), 0);
	l->peer = NULL;
	if (l->grant)
		assert_int_equal(pinlease_grant_free(l->grant), 0);
	l->grant = NULL;
	drop(l, &l->second, 1);
	drop(l, &l->lease, 1);
}

static void in_the_file(const struct fault_life *l, uint64_t off, const char *what)
{
	if (!sim_file_is(l->path, off, SIM_PAGE, SEED))
		fail_msg("%s: what was %s is not in the file", l->scene->name, what);
}

void life_end(struct fault_life *l)
{
	drop(l, &l->second, 3);
	drop(l, &l->lease, 3);
	assert_null(l->second);
	assert_null(l->lease);
	assert_int_equal(pinlease_file_close(l->file), 0);
	life_events(l);
	assert_int_equal(pinlease_ctx_free(l->ctx), 0);
	if (l->addr)
		assert_int_equal(pl_sys_unmap(l->addr, WORLD_SIZE), 0);
	if (l->fd >= 0)
		pl_sys_close(l->fd);
	if (l->durable)
		in_the_file(l, 0, "synced");
	if (l->written && !l->err)
		in_the_file(l, SIM_PAGE, "written, and nothing told of a loss,");
	if (l->scene->acts & ACT_SEALED)
		close(l->memfd);
}
