/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rdma_scene.h"

struct kt_rdma rdma;

int rdma_setup(void **state)
{
	if (kt_rdma_open(&rdma))
		kt_skip("no RDMA device");
	rdma.patient = true;
	return scene_setup(state);
}

int rdma_teardown(void **state)
{
	(void)state;
	kt_rdma_close(&rdma);
	return 0;
}

enum generation generation(void)
{
	return kt_kernel_from(6, 15) ? WITH_ODP : kt_kernel_from(6, 5) ? NO_ODP : LONGTERM_WRITE;
}

void target_make(struct target *t, enum scene_fs which, unsigned int access)
{
	scene_file(which, t->path);
	t->fd = open(t->path, O_RDWR | O_CLOEXEC);
	assert_true(t->fd >= 0);
	t->map = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
	assert_true(t->map != MAP_FAILED);
	t->mr = ibv_reg_mr(rdma.pd, t->map, SCENE_SIZE, access);
	assert_non_null(t->mr);
}

void target_drop(struct target *t)
{
	if (t->mr)
		assert_int_equal(ibv_dereg_mr(t->mr), 0);
	munmap(t->map, SCENE_SIZE);
	close(t->fd);
	unlink(t->path);
}

void wire_make(struct wire *w)
{
	assert_int_equal(kt_pair_make(&rdma, &w->pair, 16), 0);
	w->buf = mmap(NULL, SCENE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(w->buf != MAP_FAILED);
	w->mr = ibv_reg_mr(rdma.pd, w->buf, SCENE_SIZE, IBV_ACCESS_LOCAL_WRITE);
	assert_non_null(w->mr);
}

void wire_drop(struct wire *w)
{
	kt_pair_drop(&w->pair);
	ibv_dereg_mr(w->mr);
	munmap(w->buf, SCENE_SIZE);
}

void target_wire_make(struct target *t, struct wire *w, enum scene_fs which, unsigned int access)
{
	target_make(t, which, access);
	wire_make(w);
}

void target_wire_drop(struct target *t, struct wire *w)
{
	wire_drop(w);
	target_drop(t);
}

int wire_write(struct wire *w, const struct target *t, size_t offset, size_t len, int byte)
{
	memset(w->buf, byte, len);
	return kt_do(&w->pair.peer, IBV_WR_RDMA_WRITE, w->buf, w->mr->lkey, (uint32_t)len,
		     (uintptr_t)t->map + offset, t->mr->rkey);
}

int wire_read(struct wire *w, const struct target *t, size_t offset, size_t len)
{
	memset(w->buf, 0, len);
	return kt_do(&w->pair.peer, IBV_WR_RDMA_READ, w->buf, w->mr->lkey, (uint32_t)len,
		     (uintptr_t)t->map + offset, t->mr->rkey);
}

bool all_bytes(const void *at, size_t len, int byte)
{
	const char *p = at;

	for (size_t i = 0; i < len; i++)
		if (p[i] != (char)byte)
			return false;
	return true;
}

bool file_holds(const char *path, size_t offset, size_t len, int byte, int flags)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	void *block = aligned_alloc(PAGE, SCENE_SIZE);
	ssize_t n;
	bool same;

	assert_true(fd >= 0);
	assert_non_null(block);
	n = pread(fd, block, len, (off_t)offset);
	same = n == (ssize_t)len && all_bytes(block, len, byte);
	free(block);
	close(fd);
	return same;
}
