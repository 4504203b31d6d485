/* SPDX-License-Identifier: BSD-3-Clause */
/* matrix KIND: the cells of one kind of file; matrix.h says what a cell is. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "matrix.h"

#define EVENT_MS 20000u
#define HELD_UP_MS 15000u	/* what nothing holds up takes less than that, on any machine */

uint8_t mx_buf[MX_CHUNK];

static struct pinlease_ctx *ctx;
static unsigned int cells, worked, wrong;

/* One cell, while it is being tried. */
struct try {
	struct mx_cell cell;
	struct mx_file f;
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
	struct pinlease_lease_info info;
	unsigned int fds;
	long pinned_kib;
};

#define cell_assert(t, cond, ...) cell_check(t, cond, #cond, __LINE__)
#define assert_r(t, r)		  cell_check_r(t, r, #r, __LINE__)

static void cell_check(const struct try *t, bool cond, const char *what, int line)
{
	if (!cond)
		rt_die(__FILE__, line, "%s: not so: %s", mx_cell_name(&t->cell), what);
}

static void cell_check_r(const struct try *t, int r, const char *what, int line)
{
	if (r)
		rt_die(__FILE__, line, "%s: %s: %d", mx_cell_name(&t->cell), what, r);
}

/* What a refusal or a release must not leave behind. */

static unsigned int count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	rt_assert(dir, "/proc/self/fd: %s", strerror(errno));
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static bool maps_file(const struct mx_file *f)
{
	const char *name = strncmp(f->path, "/dev/", 5) ? "matrix-file" : f->path;
	FILE *maps = fopen("/proc/self/maps", "re");
	bool found = false;
	char line[512];

	rt_assert(maps, "/proc/self/maps: %s", strerror(errno));
	while (!found && fgets(line, sizeof(line), maps))
		found = strstr(line, name);
	fclose(maps);
	return found;
}

/* Events */

static bool next_event(struct pinlease_event *ev, unsigned int ms)
{
	struct pollfd pfd = { .fd = pinlease_ctx_fd(ctx), .events = POLLIN };
	uint64_t until = kt_now() + ms * 1000000ull;

	do {
		*ev = (struct pinlease_event){ .size = sizeof(*ev) };
		if (pinlease_ctx_next_event(ctx, ev) == 1)
			return true;
		poll(&pfd, 1, 20);
	} while (kt_now() < until);
	return false;
}

static void expect_event(struct try *t, uint32_t type, uint32_t gen, uint32_t cause)
{
	struct pinlease_event ev;

	if (!next_event(&ev, EVENT_MS))
		rt_die(__FILE__, __LINE__, "%s: event %u does not come", mx_cell_name(&t->cell), type);
	if (ev.type != type || ev.gen != gen || ev.lease != t->lease)
		rt_die(__FILE__, __LINE__, "%s: event %u of generation %u (%s) and not %u of %u",
		       mx_cell_name(&t->cell), ev.type, ev.gen, strerror(-ev.err), type, gen);
	cell_assert(t, !cause || ev.cause == cause);
	cell_assert(t, !ev.in_flight && !ev.lost_bytes);
}

/* Data */

struct op {
	uint64_t off;
	uint32_t n;
};

static void op_put(struct try *t, const struct op *op)
{
	mx_pattern(mx_buf, op->n);
	assert_r(t, mx_device.put(t->lease, &t->view, op->off, op->n));
	memcpy(t->f.model + op->off, mx_buf, op->n);
}

static void op_get(struct try *t, const struct op *op)
{
	memset(mx_buf, 0, op->n);
	assert_r(t, mx_device.get(t->lease, &t->view, op->off, op->n));
	cell_assert(t, !memcmp(mx_buf, t->f.model + op->off, op->n));
}

/*
 * In a page, across pages with several packets, across the middle (where openers change
 * the file, and huge pages meet), to the last byte; then whole pages, which are all that odp by
 * name is for on a device that failed the data check.
 */
static void move_data(struct try *t)
{
	const uint64_t size = t->f.size;
	const struct op ops[] = {
		{ 777, 1001 },		      { 3 * MX_PAGE + 123, 9001 }, { size / 2 - 1500, 5000 },
		{ size - 13001, 13001 },      { MX_PAGE, 2 * MX_PAGE },	   { size / 2, MX_PAGE },
		{ size - MX_CHUNK, MX_CHUNK }
	};
	const unsigned int unaligned = 4, count = sizeof(ops) / sizeof(*ops);
	bool aligned = mx_device.aligned_odp && t->cell.mode == PINLEASE_MODE_ODP;
	uint32_t gen;

	for (unsigned int i = aligned ? unaligned : 0; i < count; i++) {
		if (t->cell.access == PINLEASE_WRITE)
			op_put(t, &ops[i]);
		op_get(t, &ops[i]);
	}
	/* Nothing went anywhere else. What looks at the memory counts, too: a restore fills it anew. */
	assert_r(t, pinlease_dma_begin(t->lease, 1, &gen));
	cell_assert(t, !memcmp(t->view.addr, t->f.model, size));
	pinlease_dma_end(t->lease, 1, gen);
}

/* The lease */

static void look_at_lease(struct try *t)
{
	t->view = (struct pinlease_view){ .size = sizeof(t->view) };
	t->info = (struct pinlease_lease_info){ .size = sizeof(t->info) };
	assert_r(t, pinlease_view_get(t->lease, 0, &t->view));
	assert_r(t, pinlease_lease_info(t->lease, &t->info));
	cell_assert(t, t->info.state == PINLEASE_ACTIVE && t->info.registrations == 1);
	cell_assert(t, t->view.len == t->f.size && t->view.mode == t->info.mode);
}

/* Restored: the same address, other keys; the old ones are dead. */
static void expect_restored(struct try *t, uint32_t cause)
{
	struct pinlease_view old = t->view;

	expect_event(t, PINLEASE_EV_BREAK, old.gen, cause);
	expect_event(t, PINLEASE_EV_REVOKED, old.gen, cause);
	expect_event(t, PINLEASE_EV_RESTORED, old.gen + 1, 0);
	look_at_lease(t);
	cell_assert(t, t->view.gen == old.gen + 1 && t->view.addr == old.addr);
	cell_assert(t, t->info.breaks == 1);
	if (mx_device.assert_dead)
		mx_device.assert_dead(&old);
}

static void expect_unbroken(struct try *t)
{
	uint32_t gen = t->view.gen;
	struct pinlease_event ev;

	cell_assert(t, !next_event(&ev, 0));
	look_at_lease(t);
	cell_assert(t, t->view.gen == gen && !t->info.breaks);
}

/* Openers are not held up; what was synced they see, whatever the mode. */
static void open_unguarded(struct try *t)
{
	if (t->cell.access == PINLEASE_WRITE)
		assert_r(t, pinlease_sync(t->lease, 0, 0, 0));
	cell_assert(t, mx_open_elsewhere(&t->f, MX_LOOK) < HELD_UP_MS);
	expect_unbroken(t);
}

/* Nobody tells us of changes; our own punch breaks. */
static void change_by_owner(struct try *t)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	const uint64_t page = t->f.kind->page;

	if (t->cell.access == PINLEASE_READ) {
		cell_assert(t, pinlease_file_allocate(t->file, punch, page, page) == -EBADF);
		return;
	}
	assert_r(t, pinlease_file_allocate(t->file, punch, page, page));
	memset(t->f.model + page, 0, page);
	expect_restored(t, PINLEASE_BY_OWNER);
}

static void try_it(struct try *t)
{
	move_data(t);
	switch (t->view.guard) {
	case PINLEASE_GUARD_LEASE:
		mx_open_elsewhere(&t->f, MX_CHANGE);
		expect_restored(t, PINLEASE_BY_WRITER);
		break;
	case PINLEASE_GUARD_NONE:
		open_unguarded(t);
		change_by_owner(t);
		break;
	default:
		open_unguarded(t);
	}
	move_data(t);
}

/* Cells */

static void report(struct try *t, int err, const struct pinlease_why *why)
{
	struct mx_outcome o = { .err = err, .stage = why->stage, .reason = why->reason };

	if (!err) {
		look_at_lease(t);
		o.mode = t->info.mode;
		o.guard = t->info.guard;
		o.reason = t->info.mode_reason;
	} else {
		cell_assert(t, t->cell.mode == MX_ANY_MODE || why->mode == t->cell.mode ||
			       t->cell.mode == PINLEASE_MODE_AUTO);
	}
	cells++;
	worked += !err;
	wrong += !mx_table_check(&t->cell, &o);
}

static int open_file(struct try *t, struct pinlease_why *why)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = t->cell.access,
					   .guard = t->cell.guard };

	mx_file_make(t->f.kind, &t->f);
	t->fds = count_fds();
	t->pinned_kib = kt_pinned_kib();
	rt_assert(t->pinned_kib >= 0, "no VmPin in /proc/self/status");
	if (t->f.fd >= 0)
		return pinlease_file_attach(ctx, t->f.fd, &opts, why, &t->file);
	return pinlease_file_open(ctx, t->f.path, &opts, why, &t->file);
}

/* Nothing is left, and what was written is there for all. */
static void close_file(struct try *t)
{
	struct pinlease_event ev;

	cell_assert(t, !next_event(&ev, 0));
	cell_assert(t, count_fds() == t->fds && kt_pinned_kib() == t->pinned_kib && !maps_file(&t->f));
	mx_device.assert_clean();
	mx_assert_free(&t->f);
	cell_assert(t, mx_open_elsewhere(&t->f, MX_LOOK) < HELD_UP_MS);
	mx_file_drop(&t->f);
}

static void try_mode(struct try *t)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .mode = t->cell.mode };
	struct pinlease_why why = { 0 };
	int r;

	mx_device.fill(&opts, t->cell.access);
	r = pinlease_acquire(t->file, 0, t->f.size, &opts, &why, &t->lease);
	report(t, r, &why);
	if (!r) {
		try_it(t);
		assert_r(t, pinlease_release(t->lease));
	}
	assert_r(t, pinlease_file_close(t->file));
	close_file(t);
}

/* False: the guard is not to be had here, whatever the mode. */
static bool try_guard(const struct mx_kind *kind, uint32_t access, uint32_t guard)
{
	const char *kernel = mx_device.column;
	struct pinlease_why why = { 0 };
	struct try t;
	int r;

	for (uint32_t mode = PINLEASE_MODE_AUTO; mode <= PINLEASE_MODE_STAGED; mode++) {
		t = (struct try){ .cell = { kernel, kind->name, access, guard, mode },
				  .f = { .kind = kind } };
		r = open_file(&t, &why);
		if (r) {
			t.cell.mode = MX_ANY_MODE;
			report(&t, r, &why);
			close_file(&t);
			return false;
		}
		try_mode(&t);
	}
	return true;
}

/* The running kernel's column. */
static const char *kernel_column(void)
{
	static char name[16];
	struct utsname uts;
	unsigned int major = 0, minor = 0;

	uname(&uts);
	sscanf(uts.release, "%u.%u", &major, &minor);
	snprintf(name, sizeof(name), "%u.%u", major, minor);
	return name;
}

int main(int argc, char **argv)
{
	const struct mx_kind *kind = argc == 2 ? mx_kind_find(argv[1]) : NULL;
	uint64_t began = kt_now();
	unsigned int left;

	rt_assert(kind, "usage: matrix KIND");
	kt_init();
	if (!mx_device.column)
		mx_device.column = kernel_column();
	mx_table_load(mx_device.column, kind->name);
	mx_kind_setup(kind);
	mx_device.setup(kind);
	rt_assert(!pinlease_ctx_new(NULL, &ctx), "no context");
	for (uint32_t access = PINLEASE_READ; access <= PINLEASE_WRITE; access++) {
		if (try_guard(kind, access, PINLEASE_GUARD_AUTO))
			continue;
		try_guard(kind, access, PINLEASE_GUARD_LEASE);
		try_guard(kind, access, PINLEASE_GUARD_NONE);
	}
	left = mx_table_left();
	rt_assert(!pinlease_ctx_free(ctx), "the context is not empty");
	mx_device.teardown();
	printf("%s on %s: %u cells, %u work, %u not as expected, %u missing, %u ms\n", kind->name,
	       mx_device.column, cells, worked, wrong, left, (unsigned int)((kt_now() - began) / 1000000));
	return wrong || left || !cells;
}
