/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpinlease-preload.so: leases for programs that know of none. See pinlease-preload(1).
 *
 *	hooks_maps.c	mmap, munmap, mremap: which files are mapped where (maps.c, table.c)
 *	hooks_verbs.c	ibv_reg_mr and its like: memory regions over those mappings (mr.c)
 *	hooks_files.c	ftruncate and its like: the program's own changes (files.c)
 *	start.c		the constructor: what comes behind us, what the environment asks for, fork
 *
 * A program that registers nothing of a file pays for a look into the table, and gets
 * neither threads nor descriptors of ours, except one for each file that it maps shared.
 *
 * Locks, each a leaf of those before it:
 *	files.c		ctx and leased files; held over pinlease_file_attach and _close
 *	maps.c		table and descriptors; signals are blocked meanwhile, since mmap is called
 *			in signal handlers; held over munmap and mremap, and no allocation
 *	a region's	the program's struct ibv_mr and what it stands for; held over the real
 *			ibv_reg_mr and ibv_dereg_mr, and no call of libpinlease
 * No lock of ours is held over pinlease_acquire and pinlease_release.
 */
#ifndef PRELOAD_H
#define PRELOAD_H

#include <infiniband/verbs.h>
#include <pinlease.h>
#include <pinlease/backend.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "table.h"

#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define PRE_PARTS 16 /* mapped files under one memory region: more are left without a lease */
#define PRE_EXPORT __attribute__((visibility("default")))
#define PRE_HIDDEN __attribute__((visibility("hidden")))

enum pre_policy { PRE_REVOKE, PRE_HOLD };

/* What comes behind us. NULL before the constructor has run. */
struct pre_next {
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, off_t off);
	int (*munmap)(void *addr, size_t len);
	void *(*mremap)(void *old, size_t old_len, size_t new_len, int flags, ...);
	int (*ftruncate)(int fd, off_t len);
	int (*truncate)(const char *path, off_t len);
	int (*fallocate)(int fd, int mode, off_t off, off_t len);
	int (*posix_fallocate)(int fd, off_t off, off_t len);
	struct ibv_mr *(*reg_mr)(struct ibv_pd *pd, void *addr, size_t len, int access);
	struct ibv_mr *(*reg_mr_iova)(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, int access);
	struct ibv_mr *(*reg_mr_iova2)(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova,
				       unsigned int access);
	int (*rereg_mr)(struct ibv_mr *mr, int flags, struct ibv_pd *pd, void *addr, size_t len, int access);
	int (*dereg_mr)(struct ibv_mr *mr);
};

struct pre_config {
	enum pre_policy policy;
	uint32_t deadline_ms;	/* 0: the library's */
	int signo;		/* 0: the library's */
	bool verbose, quiet;
	char log[256];		/* "": standard error */
};

/* start.c */
extern struct pre_next pre_next PRE_HIDDEN;
extern struct pre_config pre_config;
extern _Atomic bool pre_on;	/* nothing is done while false: before the start, and in set-uid programs */
/*
 * This thread is in a call of libpinlease, or of libibverbs: what they map, change and
 * register is not the program's.
 */
extern _Thread_local unsigned int pre_inside __attribute__((tls_model("initial-exec")));
void pre_start(void);		/* the constructor, for who comes earlier */
void *pre_reserve(size_t size);	/* zeroed, touched when used; NULL */
__attribute__((format(printf, 1, 2))) void pre_say(const char *fmt, ...);	/* unless quiet */
__attribute__((format(printf, 1, 2))) void pre_tell(const char *fmt, ...);	/* if verbose */

/* maps.c */
bool pre_maps_init(void);
extern struct pre_table pre_maps_table PRE_HIDDEN;
extern _Thread_local struct pre_gap pre_maps_gap __attribute__((tls_model("initial-exec"))) PRE_HIDDEN;
static inline bool pre_maps_near(const void *addr, size_t len)
{
	return pre_table_near(&pre_maps_table, (uintptr_t)addr, len);
}
/* This thread has asked before. */
static inline bool pre_maps_skip(const void *addr, size_t len)
{
	return pre_table_skips(&pre_maps_table, (uintptr_t)addr, (uintptr_t)addr + len, &pre_maps_gap);
}
/* Errs to yes. */
static inline bool pre_maps_meet(const void *addr, size_t len)
{
	return pre_table_meets(&pre_maps_table, (uintptr_t)addr, (uintptr_t)addr + len, &pre_maps_gap);
}
/* A new mapping, or, if fd is -1, one that is no file's: what was known of the range is forgotten. */
void pre_maps_set(void *addr, size_t len, int fd, off_t off);
int pre_maps_unmap(void *addr, size_t len);
void *pre_maps_remap(void *old, size_t old_len, size_t new_len, int flags, void *new);
/* The parts that are files, at most max, with a reference each; -1: there are more. */
int pre_maps_find(const void *addr, size_t len, struct pre_part *parts, int max);
void pre_fd_get(struct pre_fd *fd);
void pre_fd_put(struct pre_fd *fd);
bool pre_fd_ours(const struct pre_fd *fd);	/* the number is still our duplicate */
void pre_fd_name(const struct pre_fd *fd, char *buf, size_t size);	/* the path, for people */
void pre_maps_lock(void);
void pre_maps_unlock(void);
void pre_maps_child(void);	/* locked, in a forked child: what is leased is the parent's alone */

/* files.c */
struct pre_file {
	struct pre_file *next;
	struct pre_fd *fd;
	struct pinlease_file *file;
	uint32_t refs;
};
/* The leased file of fd, attached if need be. 0; -errno and *why. */
int pre_file_get(struct pre_fd *fd, struct pinlease_why *why, struct pre_file **file);
void pre_file_put(struct pre_file *file);
bool pre_files_any(void);
/* That is leased for writing, with a reference, or NULL. */
struct pre_file *pre_file_find(uint64_t dev, uint64_t ino);
void pre_files_child(void);

/* mr.c */
bool pre_mr_init(void);
/* Slots of a reserved range: so ibv_dereg_mr knows ours from others without a look-up. */
struct pre_mr_slots {
	char *start;
	size_t size;	/* 0 before pre_mr_init */
};
extern struct pre_mr_slots pre_mr_slots PRE_HIDDEN;
static inline bool pre_mr_is(const struct ibv_mr *mr)
{
	return (uintptr_t)mr - (uintptr_t)pre_mr_slots.start < pre_mr_slots.size;
}
/* How the program asked for a memory region, and how it is made. */
struct pre_ask {
	struct ibv_mr *(*make)(const struct pre_ask *ask);
	struct ibv_pd *pd;
	void *addr;
	size_t len;
	uint64_t iova;
	unsigned int access;
};
struct ibv_mr *pre_mr_new(const struct pre_ask *ask);
int pre_mr_free(struct ibv_mr *mr);
/* hold: who changes the file is the program itself, and would wait for itself. */
void pre_mr_yield(const struct pre_file *file);
void pre_mr_child(void);

#endif
