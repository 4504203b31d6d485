/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The whole life of a lease, in every scene that the library has: what the faults are put into.
 * Any step may be refused, and the next ones then have less to do. Whatever is refused, life_end
 * asserts that everything can be given back, that nothing is left behind, and that what was told
 * to be in the file is in the file.
 */
#ifndef PL_FAULT_LIFE_H
#define PL_FAULT_LIFE_H

#include <infiniband/verbs.h>

#include "world.h"

/* What is done beside the usual. */
enum fault_act {
	ACT_TELL = 1,	  /* mark_dirty */
	ACT_SAVE = 2,	  /* what an event says is lost */
	ACT_GRANT = 4,	  /* a peer that never returns it */
	ACT_TWO = 8,	  /* a second lease behind the first one */
	ACT_PROBE = 16,	  /* before anything else */
	ACT_CHANGE = 32,  /* the application's own truncate and punch */
	ACT_SECOND = 64,  /* the registration in a second PD */
	ACT_READER = 128, /* the opener reads only */
	ACT_ADDR = 256,	  /* over a mapping of the application's */
	ACT_SEALED = 512, /* a memfd, attached */
	ACT_READS = 1024, /* read access: the peer only reads */
	ACT_ANSWER = 2048,  /* with ACT_GRANT: a peer that returns it when it is told */
	ACT_STOPPED = 4096, /* the process is, for longer than the kernel waits */
	ACT_OTHER = 8192,   /* somebody else has the file open at first */
	ACT_NAME = 16384,   /* the file is moved, and moved back */
	ACT_FULL = 32768,   /* the queue of signals is full while the ctx is made */
};

struct fault_scene {
	const char *name;
	uint32_t fs;	  /* its magic; 0: sim_dax */
	enum sim_dax dax;
	enum sim_odp odp;
	uint32_t guard;
	unsigned int acts; /* enum fault_act */
	struct pinlease_opts opts;
};

extern const struct fault_scene fault_scenes[];
extern const size_t fault_scene_count;

struct fault_life {
	const struct fault_scene *scene;
	struct pinlease_ctx *ctx;
	struct pinlease_file *file;
	struct pinlease *lease, *second;
	struct pinlease_grant *grant;
	struct pinlease_peer *peer;
	struct ibv_pd *pd;
	const char *path;
	void *addr;	 /* ACT_ADDR */
	int fd, memfd;	 /* ACT_ADDR and ACT_SEALED: what is attached; and what path leads to */
	bool quiet;	 /* in: nobody may be told anything */
	bool kept_out;	 /* in: an opener may have to wait for the kernel's own clock */
	int err;	 /* the last that anybody was told */
	bool durable;	 /* page 0 holds SEED, and a sync of it said so */
	bool written;	 /* page 1 holds SEED */
};

/* Makes the device and the file: before any fault is set. */
void life_new(struct fault_life *l, const struct fault_scene *scene);
void life_begin(struct fault_life *l);
/* An opener comes; afterwards the lease is where it may be, and comes back. */
void life_break(struct fault_life *l);
/* May be refused, while the faults go on. */
void life_release(struct fault_life *l);
/* All of it is released and nothing is left; a single fault may still come. */
void life_end(struct fault_life *l);

#endif
