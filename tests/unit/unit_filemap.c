/* SPDX-License-Identifier: BSD-3-Clause */
/* Mappings of a file: made, checked, allocated and faulted in. */
#include <fcntl.h>
#include <pinlease.h>
#include <sys/stat.h>

#include "filemap.h"
#include "unit.h"

#define PAGE 4096ull
#define SIZE (64 * PAGE)

struct scene {
	int fd;
	struct pl_fileid id;
};

static int setup_file(void **state, int fd)
{
	struct scene *c = calloc(1, sizeof(*c));
	uint32_t reason;

	*state = c;
	c->fd = fd;
	return pl_fileid_get(fd, &c->id, NULL, &reason);
}

static int setup_memfd(void **state)
{
	return setup_file(state, unit_memfd(SIZE));
}

static int setup_disk(void **state)
{
	return setup_file(state, unit_disk_file(SIZE));
}

static int teardown(void **state)
{
	close(((struct scene *)*state)->fd);
	free(*state);
	return 0;
}

static void mapped_shared(void **state)
{
	struct scene *c = *state;
	struct pl_map map;
	char byte = 0;

	assert_int_equal(pl_filemap_new(c->fd, PAGE, 5000, PINLEASE_WRITE, &c->id, &map), 0);
	assert_true(map.ours && map.len == 2 * PAGE && map.prot == (PROT_READ | PROT_WRITE));
	((char *)map.addr)[4999] = 'x';
	assert_int_equal(pread(c->fd, &byte, 1, (off_t)PAGE + 4999), 1);
	assert_int_equal(byte, 'x');
	pl_filemap_free(&map);
	assert_null(map.addr);
	pl_filemap_free(&map);
}

static void not_inherited(void **state)
{
	struct scene *c = *state;
	struct pl_map map;
	unsigned char vec;
	pid_t pid;

	assert_int_equal(pl_filemap_new(c->fd, 0, PAGE, PINLEASE_READ, &c->id, &map), 0);
	assert_int_equal(mincore(map.addr, PAGE, &vec), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(mincore(map.addr, PAGE, &vec) == -1 && errno == ENOMEM ? 0 : 1);
	assert_int_equal(unit_wait_child(pid), 0);
	pl_filemap_free(&map);
}

static void errors_touch_nothing(void **state)
{
	struct scene *c = *state;
	struct pl_map map = { .len = 77 };

	assert_int_equal(pl_filemap_new(1 << 20, 0, PAGE, PINLEASE_READ, &c->id, &map), -EBADF);
	assert_true(!map.addr && map.len == 77);
}

static void *map_of(int fd, int prot, int flags, uint64_t off, uint64_t len)
{
	void *p = mmap(NULL, len, prot, flags, fd, (off_t)off);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void an_applications_mapping(void **state)
{
	struct scene *c = *state;
	char *p = map_of(c->fd, PROT_READ | PROT_WRITE, MAP_SHARED, PAGE, 16 * PAGE);
	int prot = -1;

	assert_int_equal(pl_filemap_check(p, PAGE, 16 * PAGE, PINLEASE_WRITE, &c->id, &prot), 0);
	assert_int_equal(prot, PROT_READ | PROT_WRITE);
	/* A part of it, not up to the end of a page. */
	assert_int_equal(pl_filemap_check(p + 2 * PAGE, 3 * PAGE, 100, PINLEASE_WRITE, &c->id, &prot), 0);
	/* Another offset, beyond the end, not on a page. */
	assert_int_equal(pl_filemap_check(p, 0, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	assert_int_equal(pl_filemap_check(p, PAGE, 17 * PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	assert_int_equal(pl_filemap_check(p + 1, PAGE + 1, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	assert_int_equal(pl_filemap_check((char *)UINTPTR_MAX - PAGE + 1, 0, 2 * PAGE, PINLEASE_READ, &c->id,
					  &prot), -EINVAL);
	assert_int_equal(prot, PROT_READ | PROT_WRITE);
	munmap(p, 16 * PAGE);
	assert_int_equal(pl_filemap_check(p, PAGE, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
}

static void of_several_pieces(void **state)
{
	struct scene *c = *state;
	char *p = map_of(c->fd, PROT_READ | PROT_WRITE, MAP_SHARED, 0, 8 * PAGE);
	int prot = -1;

	/* One page may only be read: three mappings for the kernel. */
	assert_int_equal(mprotect(p + 3 * PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(pl_filemap_check(p, 0, 8 * PAGE, PINLEASE_WRITE, &c->id, &prot), -EINVAL);
	assert_int_equal(pl_filemap_check(p, 0, 3 * PAGE, PINLEASE_WRITE, &c->id, &prot), 0);
	assert_int_equal(pl_filemap_check(p, 0, 8 * PAGE, PINLEASE_READ, &c->id, &prot), 0);
	assert_int_equal(prot, PROT_READ);
	/* A hole in the middle; then the right file, at the wrong place. */
	munmap(p + 3 * PAGE, PAGE);
	assert_int_equal(pl_filemap_check(p, 0, 8 * PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	assert_ptr_equal(mmap(p + 3 * PAGE, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, c->fd, 0), p + 3 * PAGE);
	assert_int_equal(pl_filemap_check(p, 0, 8 * PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	munmap(p, 8 * PAGE);
}

static void of_another_kind(void **state)
{
	struct scene *c = *state;
	int other = unit_memfd(SIZE), prot;
	char *p;

	p = map_of(c->fd, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, PAGE);
	assert_int_equal(pl_filemap_check(p, 0, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	munmap(p, PAGE);
	p = map_of(other, PROT_READ | PROT_WRITE, MAP_SHARED, 0, PAGE);
	assert_int_equal(pl_filemap_check(p, 0, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	munmap(p, PAGE);
	p = map_of(-1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, 0, PAGE);
	assert_int_equal(pl_filemap_check(p, 0, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	munmap(p, PAGE);
	p = map_of(c->fd, PROT_WRITE, MAP_SHARED, 0, PAGE);
	assert_int_equal(pl_filemap_check(p, 0, PAGE, PINLEASE_READ, &c->id, &prot), -EINVAL);
	munmap(p, PAGE);
	close(other);
}

/* btrfs' stat(2) has another device number than its mappings; a file on a block device has not. */
static void is_it_this_file(void **state)
{
	struct pl_fileid id = { .dev = 0x2a, .ino = 7, .fs = PL_FS_PAGECACHE };
	struct pl_sys_mapping m = { .dev = 0x2b, .ino = 7 };

	(void)state;
	assert_true(pl_filemap_is(&m, &id));
	m.ino = 8;
	assert_false(pl_filemap_is(&m, &id));
	m.ino = 7;
	id.dev = 0xfe01;
	assert_false(pl_filemap_is(&m, &id));
	id.fs = PL_FS_OVERLAY;
	assert_true(pl_filemap_is(&m, &id));
	id = (struct pl_fileid){ .dev = 0, .ino = 0 };
	m = (struct pl_sys_mapping){ .dev = 0, .ino = 0 };
	assert_false(pl_filemap_is(&m, &id));
}

static uint64_t blocks(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static int prepare(const struct scene *c, uint64_t off, uint64_t len, void *addr, uint32_t access,
		   struct pl_fill_error *at)
{
	return pl_filemap_prepare(c->fd, off, len, addr, access, &c->id, 0, NULL, NULL, at);
}

static void written_ranges_are_allocated(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at;
	struct pl_map map;

	assert_true(blocks(c->fd) < 8 * PAGE);
	assert_int_equal(pl_filemap_new(c->fd, 0, SIZE, PINLEASE_WRITE, &c->id, &map), 0);
	assert_int_equal(prepare(c, 8 * PAGE, 8 * PAGE, (char *)map.addr + 8 * PAGE, PINLEASE_WRITE, &at), 0);
	assert_true(blocks(c->fd) >= 8 * PAGE && blocks(c->fd) < SIZE);
	/* Blocks alone, for staged memory. The file's size stays. */
	assert_int_equal(prepare(c, 0, SIZE, NULL, PINLEASE_WRITE, &at), 0);
	assert_true(blocks(c->fd) >= SIZE);
	assert_int_equal(lseek(c->fd, 0, SEEK_END), SIZE);
	pl_filemap_free(&map);
}

static int allocate(const struct scene *c, uint64_t len)
{
	struct pl_fill_error at;

	return pl_filemap_prepare(c->fd, 0, len, NULL, PINLEASE_WRITE, &c->id, PL_FILL_FULL, NULL, NULL, &at);
}

/* As many blocks as bytes, and some of them behind the end: the hole is allocated all the same. */
static void a_hole_beside_spare_blocks_is_allocated(void **state)
{
	struct scene *c = *state;
	uint64_t size;
	bool full = false;

	assert_int_equal(fallocate(c->fd, FALLOC_FL_KEEP_SIZE, 0, SIZE + 8 * PAGE), 0);
	assert_int_equal(fallocate(c->fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 16 * PAGE, 8 * PAGE),
			 0);
	assert_int_equal(blocks(c->fd), SIZE);
	assert_int_equal(pl_fileid_size_full(c->fd, &c->id, &size, &full), 0);
	assert_true(full && size == SIZE);
	assert_int_equal(allocate(c, 16 * PAGE), 0);
	assert_int_equal(blocks(c->fd), SIZE);
	assert_int_equal(allocate(c, SIZE), 0);
	assert_int_equal(blocks(c->fd), SIZE + 8 * PAGE);
}

static void pages_in_memory_are_counted(void **state)
{
	struct scene *c = *state;
	uint64_t pages = 77;

	if (pl_sys_cached(c->fd, 0, SIZE, &pages) == -ENOSYS)
		skip();
	assert_int_equal(pages, 0);
	assert_int_equal(fallocate(c->fd, 0, 0, 16 * PAGE), 0);
	assert_int_equal(pl_sys_cached(c->fd, 0, SIZE, &pages), 0);
	assert_int_equal(pages, 16);
	assert_int_equal(pl_sys_cached(c->fd, 15 * PAGE, PAGE + 1, &pages), 0);
	assert_int_equal(pages, 1);
	assert_int_equal(pl_sys_cached(1 << 20, 0, SIZE, &pages), -EBADF);
}

static void all_resident(const void *addr, uint64_t len)
{
	unsigned char vec[64];
	uint64_t i;

	assert_true(len / PAGE <= sizeof(vec));
	assert_int_equal(mincore((void *)(uintptr_t)addr, len, vec), 0);
	for (i = 0; i < len / PAGE; i++)
		assert_true(vec[i] & 1);
}

/* tmpfs: a hole is a page of zeros, and nothing goes around it. */
static void memory_has_no_holes(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at;
	struct pl_map map;

	assert_int_equal(pl_filemap_new(c->fd, 0, SIZE, PINLEASE_READ, &c->id, &map), 0);
	assert_int_equal(prepare(c, 0, SIZE, map.addr, PINLEASE_READ, &at), 0);
	all_resident(map.addr, SIZE);
	pl_filemap_free(&map);
}

static bool count_to(void *arg)
{
	return --*(int *)arg < 0;
}

static void stops_when_told(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at = { 0 };
	int steps = 0, r;

	r = pl_filemap_prepare(c->fd, 0, SIZE, NULL, PINLEASE_WRITE, &c->id, 0, count_to, &steps, &at);
	assert_int_equal(r, -EAGAIN);
	assert_true(at.stage == PINLEASE_AT_ALLOCATE && at.reason == PINLEASE_WHY_BROKEN);
	assert_int_equal(blocks(c->fd), 0);
	/* 130 MiB are three pieces. */
	assert_int_equal(ftruncate(c->fd, 130 << 20), 0);
	steps = 2;
	r = pl_filemap_prepare(c->fd, 0, 130 << 20, NULL, PINLEASE_WRITE, &c->id, 0, count_to, &steps, &at);
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(blocks(c->fd), 128 << 20);
	assert_int_equal(ftruncate(c->fd, 0), 0);
}

/* The file was cut off behind us: an error, and not SIGBUS. */
static void faults_are_errors(void **state)
{
	struct scene *c = *state;
	struct pl_fill_error at = { 0 };
	struct pl_map map;

	assert_int_equal(pl_filemap_new(c->fd, 0, SIZE, PINLEASE_WRITE, &c->id, &map), 0);
	assert_int_equal(ftruncate(c->fd, 0), 0);
	assert_int_equal(prepare(c, 0, SIZE, map.addr, PINLEASE_WRITE, &at), -EIO);
	assert_true(at.reason == PINLEASE_WHY_IO && at.sys_errno == EFAULT);
	assert_int_equal(prepare(c, 0, SIZE, map.addr, PINLEASE_READ, &at), -EIO);
	pl_filemap_free(&map);
	close(c->fd);
	c->fd = -1;
	assert_int_equal(prepare(c, 0, SIZE, NULL, PINLEASE_WRITE, &at), -EBADF);
	assert_true(at.reason == PINLEASE_WHY_IO && at.sys_errno == EBADF);
}

#define MEMFD(name) cmocka_unit_test_setup_teardown(name, setup_memfd, teardown)
#define DISK(name)  cmocka_unit_test_setup_teardown(name, setup_disk, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		MEMFD(mapped_shared),
		DISK(mapped_shared),
		MEMFD(not_inherited),
		MEMFD(errors_touch_nothing),
		MEMFD(an_applications_mapping),
		DISK(an_applications_mapping),
		DISK(of_several_pieces),
		DISK(of_another_kind),
		MEMFD(is_it_this_file),
		MEMFD(written_ranges_are_allocated),
		DISK(written_ranges_are_allocated),
		MEMFD(a_hole_beside_spare_blocks_is_allocated),
		MEMFD(pages_in_memory_are_counted),
		MEMFD(memory_has_no_holes),
		MEMFD(stops_when_told),
		MEMFD(faults_are_errors),
		DISK(faults_are_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
