/* SPDX-License-Identifier: BSD-3-Clause */
/* The kinds of files of the matrix, and the processes that open them. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "matrix.h"

#define FILE_NAME  "matrix-file"
#define SMALL	   (256u << 10)
#define HUGE_PAGE  (2u << 20)
#define HUGE_PAGES 8u
#define OPEN_MS	   20000u

static const struct mx_kind kinds[] = {
	{ "ext4", "ext4", SMALL, MX_PAGE, false },
	{ "xfs", "xfs", SMALL, MX_PAGE, false },
	{ "xfs_noreflink", "xfs_noreflink", SMALL, MX_PAGE, false },
	{ "btrfs", "btrfs", SMALL, MX_PAGE, false },
	{ "tmpfs", "tmpfs", SMALL, MX_PAGE, false },
	{ "hugetlbfs", "hugetlbfs", 2 * HUGE_PAGE, HUGE_PAGE, true },
	{ "memfd", NULL, SMALL, MX_PAGE, false },
	{ "ext4_dax", "ext4_dax", 2 * HUGE_PAGE, MX_PAGE, false },
	{ "xfs_dax", "xfs_dax", 2 * HUGE_PAGE, MX_PAGE, false },
	{ "device_dax", NULL, 2 * HUGE_PAGE, HUGE_PAGE, true },
	{ "overlayfs", "ext4", SMALL, MX_PAGE, false },
};

static struct kt_fs fs, merged;
static char device[KT_PATH_MAX];
static uint64_t device_size;
static uint8_t *shared_model;

const struct mx_kind *mx_kind_find(const char *name)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

static bool is(const struct mx_kind *kind, const char *name)
{
	return !strcmp(kind->name, name);
}

/* Pages of the right kind are what the kind stands for. */
static void assert_dax(const struct mx_kind *kind)
{
	bool dax = is(kind, "ext4_dax") || is(kind, "xfs_dax");
	struct statx stx;

	rt_assert(!statx(AT_FDCWD, fs.dir, 0, STATX_BASIC_STATS, &stx), "statx: %s", strerror(errno));
	/* dax=always shows on files only. */
	if (!dax)
		rt_assert(!(stx.stx_attributes & STATX_ATTR_DAX), "%s is dax", kind->name);
}

void mx_kind_setup(const struct mx_kind *kind)
{
	int r = 0;

	if (geteuid())
		kt_skip("mounting scratch file systems needs root");
	shared_model = kt_shared(kind->size);
	rt_assert(shared_model, "no shared memory for the model");
	if (is(kind, "hugetlbfs") && kt_hugepages(HUGE_PAGES))
		kt_skip("no huge pages to be had");
	if (is(kind, "device_dax")) {
		r = kt_devdax(device, &device_size);
		if (r == -ENODEV)
			kt_skip("no device-dax and no /dev/pmem1");
		rt_assert(!r, "device-dax: %s", strerror(-r));
		rt_assert(device_size >= kind->size, "%s is too small", device);
	}
	if (!kind->fs)
		return;
	r = kt_fs_make(&fs, kind->fs, 64);
	if (r == -ENODEV && strstr(kind->name, "_dax") && access("/dev/pmem0", F_OK))
		kt_skip("no /dev/pmem0");
	rt_assert(!r, "%s: %s", kind->name, strerror(-r));
	assert_dax(kind);
	if (is(kind, "overlayfs")) {
		r = kt_fs_overlay(&merged, &fs);
		rt_assert(!r, "overlayfs: %s", strerror(-r));
	}
}

void mx_pattern(uint8_t *data, uint64_t n)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	for (uint64_t i = 0; i < n; i += sizeof(state)) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(data + i, &state, n - i < sizeof(state) ? n - i : sizeof(state));
	}
}

static void write_mapped(int fd, const void *data, uint64_t n)
{
	void *map = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	rt_assert(map != MAP_FAILED, "mmap: %s", strerror(errno));
	memcpy(map, data, n);
	munmap(map, n);
}

static void write_content(const struct mx_file *file, int fd)
{
	struct statx stx;

	rt_assert(file->kind->mapped || pwrite(fd, file->model, file->size, 0) == (ssize_t)file->size,
		  "pwrite: %s", strerror(errno));
	if (file->kind->mapped)
		write_mapped(fd, file->model, file->size);
	else
		rt_assert(!fsync(fd), "fsync: %s", strerror(errno));
	if (!strstr(file->kind->name, "_dax") || is(file->kind, "device_dax"))
		return;
	rt_assert(!statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx), "statx: %s", strerror(errno));
	rt_assert(stx.stx_attributes & STATX_ATTR_DAX, "%s: the file is not dax", file->kind->name);
}

void mx_file_make(const struct mx_kind *kind, struct mx_file *file)
{
	int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, fd;

	*file = (struct mx_file){ .kind = kind, .fd = -1, .size = kind->size, .model = shared_model };
	mx_pattern(file->model, file->size);
	if (is(kind, "device_dax")) {
		flags = O_RDWR | O_CLOEXEC;
		snprintf(file->path, sizeof(file->path), "%s", device);
	} else if (kind->fs) {
		snprintf(file->path, sizeof(file->path), "%.64s/" FILE_NAME,
			 is(kind, "overlayfs") ? merged.dir : fs.dir);
	}
	if (is(kind, "memfd")) {
		fd = file->fd = memfd_create(FILE_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
		snprintf(file->path, sizeof(file->path), "/proc/%d/fd/%d", (int)getpid(), fd);
	} else {
		fd = open(file->path, flags, 0600);
	}
	rt_assert(fd >= 0, "%s: %s", file->path, strerror(errno));
	if (!is(kind, "device_dax"))
		rt_assert(!ftruncate(fd, (off_t)file->size), "ftruncate: %s", strerror(errno));
	write_content(file, fd);
	if (file->fd < 0)
		close(fd);
}

void mx_file_drop(struct mx_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	else if (file->kind->fs)
		rt_assert(!unlink(file->path), "unlink: %s", strerror(errno));
}

/* Elsewhere: in a process of its own. */

struct look {
	char path[KT_PATH_MAX];
	uint8_t *model;
	uint64_t size, open_ns;
	uint64_t change_off, change_len;	/* what to change, if len is not 0 */
	uint64_t seed;
	bool mapped, seal;
};

static uint64_t look_differs(const struct look *l, int fd, void *map)
{
	static uint8_t data[MX_CHUNK];
	uint64_t off, n;

	for (off = 0; off < l->size; off += n) {
		const uint8_t *at = map ? (uint8_t *)map + off : data;

		n = l->size - off < MX_CHUNK ? l->size - off : MX_CHUNK;
		if (!map && pread(fd, data, n, (off_t)off) != (ssize_t)n)
			return off + 1;
		if (!memcmp(at, l->model + off, n))
			continue;
		for (uint64_t i = 0; i < n; i++)
			if (at[i] != l->model[off + i])
				return off + i + 1;
	}
	return 0;
}

static int look_change(const struct look *l, int fd, void *map)
{
	uint8_t *model = l->model + l->change_off;

	for (uint64_t i = 0; i < l->change_len; i++)
		model[i] = (uint8_t)((l->seed + i) * 7 + (i >> 8));
	if (map) {
		memcpy((uint8_t *)map + l->change_off, model, l->change_len);
		return 0;
	}
	return pwrite(fd, model, l->change_len, (off_t)l->change_off) == (ssize_t)l->change_len ? 0 : -errno;
}

/* Under seals nothing can change, by anybody. */
static int look_seal(const struct look *l, int fd)
{
	if (!ftruncate(fd, 0) || errno != EPERM)
		return -EBADE;
	return pwrite(fd, l->model, 1, 0) != -1 || errno != EPERM ? -EBADE : 0;
}

/* 0, or 1 + the offset of the first wrong byte (less than 2 GiB), or -errno. */
static int look_fn(const void *arg)
{
	struct look *l = *(struct look *const *)arg;
	uint64_t start = kt_now(), wrong;
	int fd = open(l->path, O_RDWR | O_CLOEXEC), r = 0;
	void *map = NULL;

	l->open_ns = kt_now() - start;
	if (fd < 0)
		return -errno;
	if (l->mapped) {
		map = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			return -errno;
	}
	wrong = look_differs(l, fd, map);
	if (!wrong && l->change_len)
		r = look_change(l, fd, map);
	if (!wrong && !r && l->seal)
		r = look_seal(l, fd);
	if (map)
		munmap(map, l->size);
	close(fd);
	return wrong ? (int)wrong : r;
}

unsigned int mx_open_elsewhere(struct mx_file *file, enum mx_change change)
{
	static struct look *look;
	static uint64_t seed;
	struct kt_call *call;

	if (!look)
		look = kt_shared(sizeof(*look));
	rt_assert(look, "no shared memory");
	memset(look, 0, sizeof(*look));
	snprintf(look->path, sizeof(look->path), "%s", file->path);
	look->model = file->model;
	look->size = file->size;
	look->mapped = file->kind->mapped;
	look->seal = is(file->kind, "memfd");
	look->seed = ++seed;
	if (change == MX_CHANGE) {
		look->change_off = file->size / 2;
		look->change_len = MX_PAGE;
	}
	call = kt_call_start(look_fn, &look, sizeof(look));
	rt_assert(call && kt_call_done(call, OPEN_MS), "the opener does not come back");
	rt_assert(call->ret >= 0, "the opener: %s", strerror(-call->ret));
	rt_assert(!call->ret, "the opener sees a wrong byte at %d", call->ret - 1);
	kt_call_end(call);
	return (unsigned int)(look->open_ns / 1000000);
}

void mx_assert_free(struct mx_file *file)
{
	int r = kt_open_now(file->path, O_RDWR | O_NONBLOCK, OPEN_MS);

	rt_assert(r >= 0, "%s is not free: %s", file->path, strerror(-r));
}
