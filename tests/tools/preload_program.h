/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program that knows nothing of leases, run bare and by pinleasectl run, over fake_verbs: it
 * looks at what any program could see, F_GETLEASE of its own descriptor first of all.
 */
#ifndef PRELOAD_PROGRAM_H
#define PRELOAD_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include "fake_verbs.h"
#include "must.h"

#define PAGE 4096u
#define PATIENCE_MS 30000 /* only a hang takes so long */
#define SIZE (16 * PAGE)

extern char path[]; /* of the file, SIZE bytes, anew for each scene */

int file_open(int flags);
char *file_map(int fd, int prot);
/* Made of the file: opened, mapped, and closed again but for *fd, if fd is not NULL. */
char *mapped(int *fd);
struct ibv_mr *registered(void *addr, size_t len);
bool leased(int fd, int type); /* F_WRLCK, ... */
/* Another process truncates the file, or opens it and stays until it is killed. */
pid_t truncater(off_t size);
pid_t opener(void);
bool ended(pid_t pid, int ms); /* within ms, and with success */
unsigned int descriptors(const char *of); /* of this process, that are of this file */

/* maps.c's and files.c's part. */
void scene_unmap(void);
void scene_fixed(void);
void scene_remap(void);
void scene_many(void);
void scene_descriptor_replaced(void);
void scene_descriptors_closed(void);
void scene_private(void);
void scene_signals(void);
void scene_own_changes(void);
void scene_memfd(void);

#endif
