/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Leases without a page cache, in a guest with --pmem: a device-dax in each mode it takes,
 * ext4-dax and xfs-dax through ODP (what staged memory does on fs-dax, the lease tests show),
 * and that the library's own mapping of a file is made of huge pages where it can be. The
 * calls at the seam to libpmem2 are counted, as the byte ranges they cover, so that
 * nothing can be called durable that was not.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>
#include <pinlease.h>

#include "kt.h"
#include "kt_rdma.h"
#include "pmem.h"
#include "rt.h"

#define PAGE 4096u
#define HUGE (2ul << 20)
#define FULL (2 * HUGE)

static struct kt_rdma dev;
static struct kt_pair pair;
static struct ibv_mr *mr;
static uint8_t buf[4 * PAGE];
static struct pinlease_ctx *ctx;
static char device[KT_PATH_MAX];
static struct kt_fs fs;

/* What persist or copy has covered since it was cleared, from the lowest byte to the highest. */
static struct {
	uintptr_t from, end;
	unsigned int persists, copies, flushes;
	char *addr; /* of the mapping */
} seam;

static void seam_covers(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	uintptr_t from = (uintptr_t)pmem->addr + off;

	seam.addr = pmem->addr;
	if (!seam.end || from < seam.from)
		seam.from = from;
	if (from + len > seam.end)
		seam.end = from + len;
}

void __real_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
void __wrap_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
void __wrap_pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	seam.persists++;
	seam_covers(pmem, off, len);
	__real_pl_pmem_persist(pmem, off, len);
}

void __real_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len);
void __wrap_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len);
void __wrap_pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len)
{
	seam.copies++;
	seam_covers(pmem, off, len);
	__real_pl_pmem_copy(pmem, off, from, len);
}

int __real_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
int __wrap_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len);
int __wrap_pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	seam.flushes++;
	return __real_pl_pmem_deep_flush(pmem, off, len);
}

struct bench {
	struct pinlease_file *file;
	struct pinlease *lease;
	struct pinlease_view view;
};

static void bench_take(struct bench *b, uint64_t off, const struct pinlease_opts *opts)
{
	struct pinlease_opts o = *opts;
	struct pinlease_why why = { 0 };
	int r;

	o.size = sizeof(o);
	o.pd = dev.pd;
	o.ibv_access = IBV_ACCESS_REMOTE_READ;
	if (o.access == PINLEASE_WRITE)
		o.ibv_access |= IBV_ACCESS_REMOTE_WRITE;
	r = pinlease_acquire(b->file, off, FULL, &o, &why, &b->lease);
	if (r)
		fail_msg("acquire: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	b->view = (struct pinlease_view){ .size = sizeof(b->view) };
	assert_int_equal(pinlease_view_get(b->lease, 0, &b->view), 0);
}

static void bench_open(struct bench *b, const char *path, uint64_t off, uint32_t access, uint32_t mode)
{
	struct pinlease_file_opts fo = { .size = sizeof(fo), .access = access };
	struct pinlease_opts o = { .access = access, .mode = mode };
	struct pinlease_why why = { 0 };
	int r = pinlease_file_open(ctx, path, &fo, &why, &b->file);

	if (r)
		fail_msg("open: %s, %s", strerror(-r), pinlease_reason_str(why.reason));
	bench_take(b, off, &o);
}

static void bench_close(struct bench *b)
{
	assert_int_equal(pinlease_release(b->lease), 0);
	assert_int_equal(pinlease_file_close(b->file), 0);
}

static int peer(const struct bench *b, enum ibv_wr_opcode opcode, uint64_t off, uint32_t len)
{
	return kt_do(&pair.peer, opcode, buf, mr->lkey, len, b->view.iova + off, b->view.rkey);
}

/* len bytes of value, written by the peer, durable after sync by persist or copy, read back. */
static void write_and_sync(struct bench *b, uint64_t off, uint32_t len, int value)
{
	uint8_t want[sizeof(buf)];
	uint64_t covered;

	memset(buf, value, len);
	memset(want, value, len);
	assert_int_equal(peer(b, IBV_WR_RDMA_WRITE, off, len), 0);
	memset(&seam, 0, sizeof(seam));
	assert_int_equal(pinlease_sync(b->lease, off, len, 0), 0);
	covered = seam.end - seam.from;
	assert_in_range(covered, len, FULL);
	/* Our mapping is the lease's own memory but where it is staged. */
	if (b->view.mode != PINLEASE_MODE_STAGED)
		assert_true(seam.from <= (uintptr_t)b->view.addr + off &&
			    seam.end >= (uintptr_t)b->view.addr + off + len);
	assert_true(b->view.mode == PINLEASE_MODE_STAGED ? seam.copies && !seam.persists :
							   seam.persists && !seam.copies);
	memset(buf, 0, len);
	assert_int_equal(peer(b, IBV_WR_RDMA_READ, off, len), 0);
	assert_memory_equal(buf, want, len);
}

/* What a process that knows nothing of us finds there. */
static void assert_device(uint64_t off, uint32_t len, int value)
{
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	uint8_t *map = mmap(NULL, 4 * HUGE, PROT_READ, MAP_SHARED, fd, 0);
	uint32_t i;

	assert_true(map != MAP_FAILED);
	for (i = 0; i < len; i++)
		assert_int_equal(map[off + i], value);
	munmap(map, 4 * HUGE);
	close(fd);
}

static void test_device_pinned(void **state)
{
	struct pinlease_event ev = { .size = sizeof(ev) };
	struct bench b;
	int fd;

	(void)state;
	bench_open(&b, device, HUGE, PINLEASE_WRITE, PINLEASE_MODE_AUTO);
	assert_int_equal(b.view.mode, PINLEASE_MODE_PINNED);
	assert_int_equal(b.view.guard, PINLEASE_GUARD_STATIC);
	assert_int_equal((uintptr_t)b.view.addr % HUGE, 0);
	write_and_sync(&b, 3 * PAGE + 5, 2 * PAGE, 0x71);
	assert_int_equal(seam.flushes, 1);
	/* Nobody is held up, nothing changes, nothing breaks. */
	fd = open(device, O_RDWR | O_TRUNC | O_CLOEXEC);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(pinlease_file_truncate(b.file, 0), -EINVAL);
	assert_int_equal(pinlease_file_allocate(b.file, 0, 0, HUGE), -ENODEV);
	assert_int_equal(pinlease_ctx_next_event(ctx, &ev), 0);
	write_and_sync(&b, FULL - PAGE, PAGE, 0x72);
	bench_close(&b);
	assert_device(HUGE + 3 * PAGE + 5, 2 * PAGE, 0x71);
	assert_device(HUGE + FULL - PAGE, PAGE, 0x72);
}

static void test_device_staged(void **state)
{
	struct bench b;

	(void)state;
	bench_open(&b, device, 0, PINLEASE_WRITE, PINLEASE_MODE_STAGED);
	write_and_sync(&b, 7, 3 * PAGE, 0x73);
	assert_int_equal(seam.flushes, 1);
	/* What no sync has written, the release does. */
	memset(buf, 0x74, PAGE);
	assert_int_equal(peer(&b, IBV_WR_RDMA_WRITE, 8 * PAGE, PAGE), 0);
	bench_close(&b);
	assert_device(7, 3 * PAGE, 0x73);
	assert_device(8 * PAGE, PAGE, 0x74);
}

/* Before 6.5 a read registration is a write pin, which a read-only mapping refuses: staged then. */
static void test_device_read(void **state)
{
	uint8_t want[PAGE];
	struct bench b;

	(void)state;
	bench_open(&b, device, 0, PINLEASE_WRITE, PINLEASE_MODE_AUTO);
	write_and_sync(&b, 0, PAGE, 0x75);
	bench_close(&b);
	bench_open(&b, device, 0, PINLEASE_READ, PINLEASE_MODE_AUTO);
	assert_int_equal(b.view.mode, kt_kernel_from(6, 5) ? PINLEASE_MODE_PINNED : PINLEASE_MODE_STAGED);
	memset(want, 0x75, sizeof(want));
	assert_int_equal(peer(&b, IBV_WR_RDMA_READ, 0, PAGE), 0);
	assert_memory_equal(buf, want, sizeof(want));
	bench_close(&b);
}

/* The application's own mapping of the device: written through it, made durable beside it. */
static void test_device_own_mapping(void **state)
{
	struct pinlease_opts o = { .access = PINLEASE_WRITE };
	int fd = open(device, O_RDWR | O_CLOEXEC);
	struct bench b;
	uint8_t *map;

	(void)state;
	map = mmap(NULL, FULL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HUGE);
	assert_true(map != MAP_FAILED);
	assert_int_equal(pinlease_file_attach(ctx, fd, NULL, NULL, &b.file), 0);
	o.addr = map;
	bench_take(&b, HUGE, &o);
	assert_ptr_equal(b.view.addr, map);
	memset(buf, 0x76, PAGE);
	assert_int_equal(peer(&b, IBV_WR_RDMA_WRITE, PAGE, PAGE), 0);
	memset(&seam, 0, sizeof(seam));
	assert_int_equal(pinlease_sync(b.lease, 0, 0, 0), 0);
	assert_int_equal(seam.end - seam.from, FULL);
	assert_int_equal(map[PAGE], 0x76);
	bench_close(&b);
	/* And in its place, staged; afterwards it is the device again. */
	assert_int_equal(pinlease_file_attach(ctx, fd, NULL, NULL, &b.file), 0);
	o.mode = PINLEASE_MODE_STAGED;
	bench_take(&b, HUGE, &o);
	assert_ptr_equal(b.view.addr, map);
	write_and_sync(&b, 5 * PAGE, PAGE, 0x77);
	bench_close(&b);
	map[6 * PAGE] = 0x78;
	assert_device(HUGE + 5 * PAGE, PAGE, 0x77);
	assert_device(HUGE + 6 * PAGE, 1, 0x78);
	munmap(map, FULL);
	close(fd);
}

/* By name, with page-aligned accesses, as the data check's failure demands of rxe. */
static void test_file_odp(void **state)
{
	char path[KT_PATH_MAX];
	struct bench b;

	if (!dev.odp) {
		kt_note("the device does no ODP");
		return;
	}
	assert_int_equal(kt_fs_make(&fs, *state, 64), 0);
	assert_int_equal(kt_file(path, fs.dir, "odp", FULL + PAGE), 0);
	bench_open(&b, path, PAGE, PINLEASE_WRITE, PINLEASE_MODE_ODP);
	assert_int_equal((uintptr_t)b.view.addr % HUGE, PAGE);
	write_and_sync(&b, 2 * PAGE, 2 * PAGE, 0x79);
	assert_int_equal(seam.flushes, 0);
	/* Broken and restored: cut and grown again, the mapping is right again. */
	assert_int_equal(kt_truncate_now(path, 2 * PAGE, KT_LONG), 0);
	assert_int_equal(kt_truncate_now(path, FULL + PAGE, KT_LONG), 0);
	while (pinlease_view_get(b.lease, 0, &b.view) || b.view.len < FULL)
		kt_sleep_ms(5);
	/* Its revocation has cost the connection nothing: nobody was writing. */
	write_and_sync(&b, 4 * PAGE, PAGE, 0x7a);
	write_and_sync(&b, FULL - PAGE, PAGE, 0x7b);
	bench_close(&b);
	kt_fs_drop(&fs);
}

/* Does the mapping at addr have MAP_SYNC? The kernel says "sf" then. */
static bool is_sync(const void *addr)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long start, end;
	bool here = false, sync = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = (uintptr_t)addr >= start && (uintptr_t)addr < end;
		else if (here && !strncmp(line, "VmFlags:", 8))
			sync = strstr(line, " sf") != NULL;
	}
	fclose(f);
	return sync;
}

/* Staged in place of the application's mapping of a file, which comes back as it was. */
static void test_file_own_mapping(void **state)
{
	struct pinlease_opts o = { .access = PINLEASE_WRITE, .mode = PINLEASE_MODE_STAGED };
	char path[KT_PATH_MAX];
	struct bench b;
	uint8_t *map;
	int fd;

	assert_int_equal(kt_fs_make(&fs, *state, 64), 0);
	assert_int_equal(kt_file(path, fs.dir, "own", FULL), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	map = mmap(NULL, FULL, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC, fd, 0);
	assert_true(map != MAP_FAILED);
	assert_true(is_sync(map));
	assert_int_equal(pinlease_file_attach(ctx, fd, NULL, NULL, &b.file), 0);
	o.addr = map;
	bench_take(&b, 0, &o);
	assert_ptr_equal(b.view.addr, map);
	assert_false(is_sync(map));
	write_and_sync(&b, 5 * PAGE, PAGE, 0x7c);
	bench_close(&b);
	assert_true(is_sync(map));
	assert_int_equal(map[5 * PAGE], 0x7c);
	munmap(map, FULL);
	close(fd);
	kt_fs_drop(&fs);
}

/* Three huge pages of blocks, where the file system was made so that it can give them. */
static void huge_file(char path[KT_PATH_MAX])
{
	struct kt_extent extent[KT_EXTENTS];
	int n, fd;

	assert_int_equal(kt_file(path, fs.dir, "huge", 0), 0);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(fallocate(fd, 0, 0, 3 * HUGE), 0);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	n = kt_extents(path, extent, KT_EXTENTS);
	assert_in_range(n, 1, 3);
	for (int i = 0; i < n; i++)
		assert_true(extent[i].physical % HUGE == 0 && extent[i].logical % HUGE == 0);
}

/* The same file at an address that huge pages do not fit: what is looked at can say so. */
static void assert_seen(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char *room = mmap(NULL, 3 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at;

	assert_true(room != MAP_FAILED);
	at = (char *)(((uintptr_t)room + HUGE - 1) / HUGE * HUGE) + PAGE;
	assert_ptr_equal(mmap(at, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
	memset(at, 0, HUGE);
	assert_int_equal(kt_huge_at(at), 0);
	munmap(room, 3 * HUGE);
	close(fd);
}

/* The second and the third huge page. */
static void huge_whole(const char *path, uint32_t mode)
{
	struct bench b;

	bench_open(&b, path, HUGE, PINLEASE_WRITE, mode);
	write_and_sync(&b, 0, PAGE, 0x7d);
	write_and_sync(&b, HUGE, PAGE, 0x7e);
	assert_int_equal(kt_huge_at(seam.addr), 1);
	assert_int_equal(kt_huge_at(seam.addr + HUGE), 1);
	bench_close(&b);
}

/*
 * From the middle of the first: the second lies in it as a whole, the others do not. The
 * kernel remembers that it has mapped those by small pages, and goes on to do so: the last to be tried.
 */
static void huge_part(const char *path, uint32_t mode)
{
	struct bench b;

	bench_open(&b, path, HUGE / 2, PINLEASE_WRITE, mode);
	write_and_sync(&b, HUGE, PAGE, 0x7f);
	assert_int_equal((uintptr_t)(seam.addr + HUGE / 2) % HUGE, 0);
	assert_int_equal(kt_huge_at(seam.addr + HUGE / 2), 1);
	bench_close(&b);
}

static void test_file_huge(void **state)
{
	char path[KT_PATH_MAX];

	assert_int_equal(kt_fs_make(&fs, *state, 64), 0);
	huge_file(path);
	if (kt_huge_at(path) == -ENOTTY) {
		kt_note("this kernel does not tell what a mapping is made of");
	} else {
		if (dev.odp)
			huge_whole(path, PINLEASE_MODE_ODP);
		huge_whole(path, PINLEASE_MODE_STAGED);
		if (dev.odp)
			huge_part(path, PINLEASE_MODE_ODP);
		huge_part(path, PINLEASE_MODE_STAGED);
		assert_seen(path);
	}
	kt_fs_drop(&fs);
}

static int setup(void **state)
{
	uint64_t size;
	int r = kt_devdax(device, &size);

	(void)state;
	if (r == -ENODEV)
		kt_skip("no device-dax, and no /dev/pmem1 to make one of");
	rt_open(&dev);
	if (r || size < 4 * HUGE || kt_pair_make(&dev, &pair, 8))
		return -1;
	mr = ibv_reg_mr(dev.pd, buf, sizeof(buf), IBV_ACCESS_LOCAL_WRITE);
	return mr ? pinlease_ctx_new(NULL, &ctx) : -1;
}

static int teardown(void **state)
{
	int r = pinlease_ctx_free(ctx);

	(void)state;
	kt_pair_drop(&pair);
	ibv_dereg_mr(mr);
	kt_rdma_close(&dev);
	return r;
}

int main(void)
{
	static char ext4[] = "ext4_dax", xfs[] = "xfs_dax";
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_device_pinned),
		cmocka_unit_test(test_device_staged),
		cmocka_unit_test(test_device_read),
		cmocka_unit_test(test_device_own_mapping),
		cmocka_unit_test_prestate(test_file_odp, ext4),
		cmocka_unit_test_prestate(test_file_odp, xfs),
		cmocka_unit_test_prestate(test_file_own_mapping, ext4),
		cmocka_unit_test_prestate(test_file_own_mapping, xfs),
		cmocka_unit_test_prestate(test_file_huge, ext4),
		cmocka_unit_test_prestate(test_file_huge, xfs),
	};

	kt_init();
	rt_require();
	return cmocka_run_group_tests(tests, setup, teardown);
}
