/* SPDX-License-Identifier: BSD-3-Clause */
#include "ut.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

void ut_need_uring(void)
{
	struct pinlease_uring *ring;
	int ret = pinlease_uring_new(1, 1, &ring);

	if (ret == -EPERM || ret == -ENOSYS || ret == -EOPNOTSUPP)
		kt_skip("no io_uring here: %s", strerror(-ret));
	if (!ret)
		pinlease_uring_free(ring);
}

void ut_begin(void)
{
	kt_init();
	if (geteuid())
		kt_skip("mounts file systems: needs root");
	/* Whoever waits for UT_LONG tells from it. */
	if (kt_break_time(45))
		kt_skip("cannot set lease-break-time");
	ut_need_uring();
}

void ut_begin_on(struct kt_fs *fs, const char *type, unsigned int mib)
{
	int r;

	ut_begin();
	r = kt_fs_make(fs, type, mib);
	if (r)
		kt_skip("cannot mount %s: %s", type, strerror(-r));
}

void ut_start(struct ut *u, uint32_t entries, uint32_t buffers)
{
	struct pinlease_ctx_opts opts = { .size = sizeof(opts) };

	assert_int_equal(pinlease_ctx_new(&opts, &u->ctx), 0);
	assert_int_equal(pinlease_uring_new(entries, buffers, &u->ring), 0);
}

void ut_stop(struct ut *u)
{
	assert_int_equal(pinlease_uring_free(u->ring), 0);
	assert_int_equal(pinlease_ctx_free(u->ctx), 0);
}

struct pinlease_file *ut_open(struct ut *u, const char *path, uint32_t access, uint32_t flags)
{
	struct pinlease_file_opts opts = { .size = sizeof(opts), .access = access, .flags = flags };
	struct pinlease_why why = { 0 };
	struct pinlease_file *file = NULL;
	int ret = pinlease_file_open(u->ctx, path, &opts, &why, &file);

	if (ret)
		print_error("open %s: %s: %s\n", path, strerror(-ret), pinlease_reason_str(why.reason));
	assert_int_equal(ret, 0);
	return file;
}

struct pinlease *ut_lease(struct ut *u, struct pinlease_file *file, uint64_t len, uint32_t flags,
			  uint32_t deadline_ms)
{
	struct pinlease_opts opts = { .size = sizeof(opts),
				      .flags = flags,
				      .deadline_ms = deadline_ms,
				      .backend = pinlease_uring_backend(),
				      .backend_arg = u->ring };
	struct pinlease_why why = { 0 };
	struct pinlease *lease = NULL;
	int ret = pinlease_acquire(file, 0, len, &opts, &why, &lease);

	if (ret)
		print_error("acquire: %s: %s (stage %u, errno %d)\n", strerror(-ret),
			    pinlease_reason_str(why.reason), why.stage, why.sys_errno);
	assert_int_equal(ret, 0);
	return lease;
}

void ut_drop(struct pinlease *lease, struct pinlease_file *file)
{
	assert_int_equal(pinlease_release(lease), 0);
	assert_int_equal(pinlease_file_close(file), 0);
}

struct pinlease_view ut_view(struct pinlease *lease)
{
	struct pinlease_view view = { .size = sizeof(view) };

	assert_int_equal(pinlease_view_get(lease, 0, &view), 0);
	return view;
}

struct pinlease_lease_info ut_info(struct pinlease *lease)
{
	struct pinlease_lease_info info = { .size = sizeof(info) };

	assert_int_equal(pinlease_lease_info(lease, &info), 0);
	return info;
}

struct pinlease_uring_info ut_ring_info(struct ut *u)
{
	struct pinlease_uring_info info = { .size = sizeof(info) };

	assert_int_equal(pinlease_uring_info(u->ring, &info), 0);
	return info;
}

void ut_restore(struct pinlease *lease)
{
	uint64_t until = kt_now() + UT_LONG * 1000000ull;
	struct pinlease_why why = { 0 };
	int ret;

	while ((ret = pinlease_restore(lease, &why)) == -EAGAIN && kt_now() < until)
		kt_sleep_ms(2);
	if (ret)
		print_error("restore: %s: %s\n", strerror(-ret), pinlease_reason_str(why.reason));
	assert_int_equal(ret, 0);
}

bool ut_event(struct ut *u, uint32_t type, unsigned int ms, struct pinlease_event *ev)
{
	uint64_t until = kt_now() + ms * 1000000ull, now;
	struct pollfd pfd = { .fd = pinlease_ctx_fd(u->ctx), .events = POLLIN };

	for (;;) {
		*ev = (struct pinlease_event){ .size = sizeof(*ev) };
		while (pinlease_ctx_next_event(u->ctx, ev) == 1)
			if (ev->type == type)
				return true;
		now = kt_now();
		if (now >= until)
			return false;
		poll(&pfd, 1, (int)((until - now) / 1000000) + 1);
	}
}

struct pinlease_uring_completion ut_take(struct ut *u)
{
	struct pinlease_uring_completion done = { .size = sizeof(done) };

	assert_int_equal(pinlease_uring_next(u->ring, &done, (int)UT_LONG), 1);
	return done;
}

bool ut_leased(const char *path)
{
	FILE *f = fopen("/proc/locks", "re");
	char line[256], inode[64];
	bool found = false;
	struct statfs sfs;
	struct stat st;

	assert_non_null(f);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(statfs(path, &sfs), 0);
	/* Where a device is said as stat says it, by that too: the list is of all processes there are. */
	if (sfs.f_type == BTRFS_SUPER_MAGIC)
		snprintf(inode, sizeof(inode), ":%llu ", (unsigned long long)st.st_ino);
	else
		snprintf(inode, sizeof(inode), " %02x:%02x:%llu ", major(st.st_dev), minor(st.st_dev),
			 (unsigned long long)st.st_ino);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, "LEASE") && strstr(line, inode);
	fclose(f);
	return found;
}

void ut_stamp(void *block, uint64_t stamp)
{
	uint64_t *word = block;

	for (size_t i = 0; i < UT_BLOCK / sizeof(*word); i++)
		word[i] = stamp;
}

int64_t ut_stamp_of(const void *block)
{
	const uint64_t *word = block;

	for (size_t i = 1; i < UT_BLOCK / sizeof(*word); i++)
		if (word[i] != word[0])
			return -1;
	return (int64_t)word[0];
}

void ut_file(char path[KT_PATH_MAX], const char *dir, const char *name, uint32_t blocks)
{
	uint64_t block[UT_BLOCK / sizeof(uint64_t)];
	int fd;

	assert_int_equal(kt_file(path, dir, name, blocks * UT_BLOCK), 0);
	ut_stamp(block, 0);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (uint32_t i = 0; i < blocks; i++)
		assert_int_equal(pwrite(fd, block, UT_BLOCK, i * UT_BLOCK), UT_BLOCK);
	close(fd);
}

int64_t ut_stamp_at(const char *path, uint32_t block)
{
	uint64_t data[UT_BLOCK / sizeof(uint64_t)] = { 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	assert_true(fd >= 0);
	got = pread(fd, data, UT_BLOCK, block * UT_BLOCK);
	close(fd);
	return got == UT_BLOCK ? ut_stamp_of(data) : -1;
}

/* The pump */

static void pump_note(struct ut_pump *p, int error)
{
	int none = 0;

	atomic_compare_exchange_strong(&p->error, &none, error);
}

/* True: on to the next k. Beyond a lease that came back shorter there is nothing to write. */
static bool pump_submit(struct ut_pump *p, uint64_t k)
{
	uint32_t slot = (uint32_t)(k % p->slots);
	int ret;

	if (p->busy[slot])
		return false;
	ret = pinlease_uring_read(p->u->ring, p->lease, slot * UT_BLOCK, UT_BLOCK, p->source,
				  k % UT_STAMPS * UT_BLOCK, k);
	p->busy[slot] = !ret;
	p->out += !ret;
	if (ret == -EAGAIN)
		atomic_fetch_add(&p->refused, 1);
	else if (ret && ret != -EBUSY && ret != -ERANGE)
		pump_note(p, ret);
	return !ret || ret == -ERANGE;
}

static void pump_take(struct ut_pump *p, const struct pinlease_uring_completion *done)
{
	uint32_t slot = (uint32_t)(done->user_data % p->slots);

	p->busy[slot] = false;
	p->out--;
	if (done->res == (int)UT_BLOCK) {
		atomic_store(&p->last[slot], (int64_t)(done->user_data % UT_STAMPS + 1));
		atomic_fetch_add(&p->acked, 1);
	} else if (done->res == -ECANCELED) {
		atomic_store(&p->last[slot], -1);
	} else {
		pump_note(p, done->res < 0 ? done->res : -EIO);
	}
}

/* k goes on only when its request was accepted, so that what a slot holds stays known. */
static void *pump_main(void *arg)
{
	struct ut_pump *p = arg;
	uint64_t k = 0;

	for (;;) {
		struct pinlease_uring_completion done = { .size = sizeof(done) };
		bool stop = atomic_load(&p->stop), moved = !stop && pump_submit(p, k);
		int ret;

		k += moved;
		ret = pinlease_uring_next(p->u->ring, &done, moved ? 0 : 1);
		if (ret == 1)
			pump_take(p, &done);
		else if (stop && !p->out)
			return NULL;
	}
}

void ut_pump_start(struct ut_pump *p, struct ut *u, struct pinlease *lease, uint32_t slots)
{
	uint64_t block[UT_BLOCK / sizeof(uint64_t)];

	assert_true(slots <= UT_BLOCKS);
	memset(p, 0, sizeof(*p));
	p->u = u;
	p->lease = lease;
	p->slots = slots;
	p->source = memfd_create("pump", MFD_CLOEXEC);
	assert_true(p->source >= 0);
	for (uint32_t i = 0; i < UT_STAMPS; i++) {
		ut_stamp(block, i + 1);
		assert_int_equal(pwrite(p->source, block, UT_BLOCK, i * UT_BLOCK), UT_BLOCK);
	}
	assert_int_equal(pthread_create(&p->thread, NULL, pump_main, p), 0);
	p->running = true;
}

void ut_pump_end(struct ut_pump *p)
{
	if (!p->running)
		return;
	atomic_store(&p->stop, true);
	pthread_join(p->thread, NULL);
	close(p->source);
	p->running = false;
}

void ut_pump_stop(struct ut_pump *p)
{
	ut_pump_end(p);
	assert_int_equal(atomic_load(&p->error), 0);
}

void ut_pump_more(struct ut_pump *p, uint64_t n)
{
	uint64_t until = kt_now() + UT_LONG * 1000000ull, want = atomic_load(&p->acked) + n;

	while (atomic_load(&p->acked) < want && kt_now() < until)
		kt_sleep_ms(1);
	assert_int_equal(atomic_load(&p->error), 0);
	assert_true(atomic_load(&p->acked) >= want);
}

void ut_pump_settle(struct ut_pump *p)
{
	uint64_t until = kt_now() + UT_LONG * 1000000ull, refused;
	struct pinlease_uring_info info;

	do {
		info = ut_ring_info(p->u);
	} while (info.in_flight + info.kept && kt_now() < until);
	/* Twice refused: the pump has been round, with the last completion noted. */
	refused = atomic_load(&p->refused);
	while (atomic_load(&p->refused) < refused + 2 && kt_now() < until)
		kt_sleep_ms(1);
	assert_true(kt_now() < until);
}

uint32_t ut_pump_missing(struct ut_pump *p, const char *path, uint32_t end)
{
	uint32_t missing = 0;

	for (uint32_t slot = 0; slot < p->slots && slot < end; slot++) {
		int64_t want = atomic_load(&p->last[slot]);

		missing += want >= 0 && ut_stamp_at(path, slot) != want;
	}
	return missing;
}
