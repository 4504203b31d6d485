/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The matrix: every kind of file, for reading and for writing, with the guard and the
 * mode that auto takes and with each one by name. Each cell ends as a line of
 * matrix.table says, the very lines that the tables of README.md and pinlease_modes(7)
 * are made of: in a mode that works, which is then tried (checked data, a break, the
 * opener's view, restore, new keys), or in a refusal with its reason. A cell without a
 * line is a failure, and so is a line whose cell did not come up.
 *
 * The file kinds and the cells are the same for every device; matrix_rdma.c is
 * a soft-RoCE device, ../uring/uring_matrix.c a ring with fixed buffers.
 */
#ifndef PL_RDMA_MATRIX_H
#define PL_RDMA_MATRIX_H

#include <stdbool.h>
#include <stdint.h>

#include <pinlease.h>

#include "kt.h"
#include "rt.h"

#define MX_PAGE	 4096u
#define MX_CHUNK 65536u			/* an operation moves at most that */

/* The file, matrix_file.c. */

struct mx_kind {
	const char *name;		/* of the test: matrix_<name> */
	const char *fs;			/* for kt_fs_make; NULL: memfd, device-dax */
	uint64_t size, page;		/* of the file; what offsets of leases are multiples of */
	bool mapped;			/* written by mmap: write(2) is not for it */
};

struct mx_file {
	const struct mx_kind *kind;
	char path[KT_PATH_MAX];		/* what others open */
	int fd;				/* to attach, or -1: opened by its path */
	uint64_t size;
	uint8_t *model;			/* what the file should hold; shared with the openers */
};

/* The kind's file system, made, or the test leaves with 77. */
const struct mx_kind *mx_kind_find(const char *name);
void mx_kind_setup(const struct mx_kind *kind);
void mx_file_make(const struct mx_kind *kind, struct mx_file *file);
void mx_file_drop(struct mx_file *file);
/* Fill n bytes with what nothing else holds. */
void mx_pattern(uint8_t *data, uint64_t n);

/*
 * A process opens the file the ordinary way, compares all of it with the model, and, if
 * change is set, changes a page in the middle of both. Waited for; dies if the content is wrong.
 * The time that open(2) took, in ms.
 */
enum mx_change { MX_LOOK, MX_CHANGE };
unsigned int mx_open_elsewhere(struct mx_file *file, enum mx_change change);
/* Nobody has a lease of it any more: another process opens it for writing without waiting. */
void mx_assert_free(struct mx_file *file);

/* The device: one of these is linked in. Data goes through mx_buf, MX_CHUNK bytes. */

struct mx_device {
	const char *column;		/* of matrix.table; NULL: the running kernel's */
	void (*setup)(const struct mx_kind *kind);
	void (*teardown)(void);
	void (*fill)(struct pinlease_opts *opts, uint32_t access);
	/* n bytes from mx_buf to off of the lease, and back. 0, or what went wrong. */
	int (*put)(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n);
	int (*get)(struct pinlease *lease, const struct pinlease_view *view, uint64_t off, uint32_t n);
	void (*assert_dead)(const struct pinlease_view *view);	/* the keys of a fenced generation; or NULL */
	void (*assert_clean)(void);				/* no registration is left */
	bool aligned_odp;		/* odp is right for whole pages only */
};

extern struct mx_device mx_device;
extern uint8_t mx_buf[MX_CHUNK];

/* The table, matrix_table.c. */

struct mx_cell {
	const char *kernel, *kind;
	uint32_t access, guard;
	uint32_t mode;			/* MX_ANY_MODE: refused before the mode was asked */
};

#define MX_ANY_MODE UINT32_MAX

struct mx_outcome {
	int err;			/* 0: works */
	uint32_t mode, guard;		/* works: what it got */
	uint32_t stage, reason;		/* refused: where and why; works: the mode's reason */
};

void mx_table_load(const char *kernel, const char *kind);
/* Prints the cell's row, and compares it: false if it differs or is not expected. */
bool mx_table_check(const struct mx_cell *cell, const struct mx_outcome *outcome);
/* Expected rows of this kind whose cell did not come up, printed. */
unsigned int mx_table_left(void);
/* "ext4 write auto odp", for messages. */
const char *mx_cell_name(const struct mx_cell *cell);

#endif
