/* SPDX-License-Identifier: BSD-3-Clause */
/* The RDMA side of a kernel test: one device for the whole executable, and what each generation of kernels
 * does. */
#ifndef PL_TEST_RDMA_SCENE_H
#define PL_TEST_RDMA_SCENE_H

#include "kt_rdma.h"
#include "scene.h"

#define PAGE 4096u

enum generation {
	LONGTERM_WRITE, /* before 6.5: GUP pins dirty-tracked pages for writing */
	NO_ODP,		/* GUP refuses that, rxe has no on-demand paging yet */
	WITH_ODP,	/* 6.15 and later */
};

extern struct kt_rdma rdma;

/* cmocka group setup: scene_setup and the device; exits with 77 without one. */
int rdma_setup(void **state);
int rdma_teardown(void **state);
enum generation generation(void);

/* A file of SCENE_SIZE on which, mapped by its own O_RDWR fd, and registered. */
struct target {
	char path[KT_PATH_MAX];
	int fd;
	char *map;
	struct ibv_mr *mr;
};

void target_make(struct target *t, enum scene_fs which, unsigned int access);
void target_drop(struct target *t);

/* A connected pair and the peer's own buffer of SCENE_SIZE. */
struct wire {
	struct kt_pair pair;
	char *buf;
	struct ibv_mr *mr;
};

void wire_make(struct wire *w);
void wire_drop(struct wire *w);
/* Both. */
void target_wire_make(struct target *t, struct wire *w, enum scene_fs which, unsigned int access);
void target_wire_drop(struct target *t, struct wire *w);
/* Fill len bytes of the peer's buffer with byte and write them to offset of the target: kt_do's result. */
int wire_write(struct wire *w, const struct target *t, size_t offset, size_t len, int byte);
/* Read len bytes at offset of the target into the peer's buffer. */
int wire_read(struct wire *w, const struct target *t, size_t offset, size_t len);

bool all_bytes(const void *at, size_t len, int byte);
/* What the file holds there, by pread through a new fd: O_DIRECT for what the disk holds. */
bool file_holds(const char *path, size_t offset, size_t len, int byte, int flags);

#endif
