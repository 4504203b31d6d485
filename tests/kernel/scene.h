/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the kernel tests share: the four file systems of the matrix, fresh files on
 * them, and a lease held by the test's own main thread. These tests never touch
 * libpinlease; each test function is named after the fact it holds.
 */
#ifndef PL_TEST_SCENE_H
#define PL_TEST_SCENE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "kt.h"

#define SCENE_SIZE (64u << 10) /* of every file a test makes, unless it says otherwise */
#define SCENE_SIG  (SIGRTMIN + 2)
#define SCENE_MS   10	/* long enough for a helper that is going to fall asleep to be asleep */
#define SCENE_LONG 20000 /* ms; only a failing test waits that long, and for less than SCENE_TIME */
#define SCENE_TIME 45	 /* s, lease-break-time unless a test sets its own */

enum scene_fs { TMPFS, EXT4, XFS, BTRFS, SCENE_FS_COUNT };

int scene_setup(void **state); /* cmocka group setup; exits with 77 without root */
const char *scene_type(enum scene_fs which);
const char *scene_dir(enum scene_fs which);		      /* mounted when it is first asked for */
void scene_file(enum scene_fs which, char path[KT_PATH_MAX]); /* a new file of SCENE_SIZE */

/* One OFD, its mapping and its lease, held by the calling thread with SCENE_SIG. */
struct held {
	char path[KT_PATH_MAX];
	int fd, type;
	void *map; /* SCENE_SIZE bytes MAP_SHARED */
};

void held_open(struct held *h, enum scene_fs which, int type); /* F_WRLCK: O_RDWR; F_RDLCK: O_RDONLY */
void held_close(struct held *h);
void held_is_broken_to(const struct held *h,
		       int target);	      /* a signal for its fd is there, F_GETLEASE says target */
void holder_sees_a_break(const struct kt_holder *holder); /* one: it may still be on its way to it */
void held_is_untouched(const struct held *h); /* no signal, F_GETLEASE says what was taken */

long long size_of(const char *path);

#define for_each_fs(which) for (enum scene_fs which = TMPFS; which < SCENE_FS_COUNT; which++)

#endif
