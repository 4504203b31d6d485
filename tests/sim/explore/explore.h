/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The explorer: the library over the simulated kernel and device, one step of one thread at
 * a time, in an order that a seed decides.
 *
 *	fibers.c   threads are coroutines; each call through a seam, lock, wait and atomic
 *		   operation is a step, behind which another one may go on
 *	memory.c   store buffers: a store of one thread is seen by others later (TSO)
 *	time.c	   the clock, which moves only when nobody can run; waiting; sys.h's threads
 *	plan.c	   what a seed means: a configuration and operations for each actor
 *	app.c	   the actors of the process: who writes, syncs, restores, takes events
 *	outside.c  the actors outside it: openers, the device, what goes wrong
 *	death.c	   the process is killed, or forks
 *	props.c	   I1 to I6, looked at after each step; props_data.c: what must be in the file
 *	main.c	   seeds, each in a process of its own; a failing one is shrunk and traced
 *
 * A process for each seed, so that a seed finds the same library, whatever was before it.
 */
#ifndef PL_EXPLORE_H
#define PL_EXPLORE_H

#include <stdbool.h>
#include <stdint.h>

#include <pinlease.h>

#include "../sim_private.h"

#define X_LEASES  4
#define X_FILES	  2
#define X_PAGES	  6u /* of each file */
#define X_WRITERS 3
#define X_OPENERS 3
#define X_OPS	  64

/* Dice that do not know of each other: what one asks for changes nothing for the others. */
struct x_dice {
	uint64_t state;
};
uint32_t x_roll(struct x_dice *d, uint32_t sides);

/* plan.c */

enum x_actor {
	X_MAIN,
	X_WRITER,
	X_OPENER = X_WRITER + X_WRITERS,
	X_TROUBLE = X_OPENER + X_OPENERS,
	X_ACTORS
};

enum x_kind {
	X_NOTHING,
	/* main: a is a lease or a file, b what it says */
	X_SYNC,
	X_TRUNCATE,
	X_PUNCH,
	X_RESTORE,
	X_ANEW,
	X_MR_ADD,
	X_GRANT,
	X_RETURN,
	X_FORK,
	X_SAVE,
	/* a writer: a is a lease, b a page */
	X_WRITE,
	X_BURST,
	X_HOLD,
	X_BARE,
	/* an opener: a is a file, b how */
	X_OPEN,
	X_CUT,
	/* trouble: b says how much */
	X_STOP,
	X_SIGNALS,
	X_DISK,
	X_DEREG,
	X_SYNC_ERROR,
	X_WRITE_ERROR,
	X_STALE,
	X_HEAL,
	X_KILL,
	X_KINDS
};

struct x_op {
	uint8_t actor, kind;
	bool off; /* shrunk away */
	uint32_t a, b;
	uint32_t pause_us; /* before it */
};

struct x_lease_plan {
	uint32_t file, page, pages, mode, flags, deadline_ms, access;
};

/* What there is much of. */
enum x_profile { X_ALL, X_ACCOUNT, X_STAGED, X_SYNCS, X_CHURN, X_DEATH, X_PROFILES, X_IN_TURN = X_PROFILES };

struct x_plan {
	uint64_t seed, order; /* order: of the steps */
	enum x_profile profile;
	uint32_t files, leases, writers, openers, ops;
	uint32_t fs, break_time_s, access[X_FILES];
	enum sim_odp odp;
	bool no_membarrier, buffers, late_device, manual_acks;
	uint32_t drain;		 /* a store is seen after about so many steps */
	uint32_t stall;		 /* a thread is preempted after about so many */
	uint32_t stay, strategy; /* of 64: the same thread goes on; 0 dice, 1 priorities */
	struct x_lease_plan lease[X_LEASES];
	struct x_op op[X_OPS];
};

void x_plan_make(struct x_plan *p, uint64_t seed, enum x_profile profile);
void x_plan_print(const struct x_plan *p);

/* What all processes share: a run writes, whoever started it reads. */
struct x_result {
	bool failed;
	char rule[16], text[256];
	uint64_t steps, ns;
	uint64_t count[X_KINDS]; /* operations done */
	uint64_t breaks, lost, restored, landed, cut, refused, expired, signals_lost, checked, synced, forks;
};

extern struct x_plan x_plan;
extern struct x_result *x_result;
extern bool x_trace;

__attribute__((format(printf, 1, 2))) void x_log(const char *fmt, ...);

/* fibers.c */
struct x_fiber;
void x_point(const char *what); /* a step: another thread may go on */
void x_switch(void);		/* the caller cannot */
struct x_fiber *x_fiber_new(const char *name, bool outside, void *(*fn)(void *arg), void *arg);
struct x_fiber *x_fiber_self(void);
void x_fiber_name(struct x_fiber *f, const char *name);
const char *x_thread_name(const struct sim_thread *t);
bool x_fiber_outside(const struct sim_thread *t);
void x_fibers_run(void *(*fn)(void *arg)); /* the first one; answers when it has ended */
void x_drain_all(void);
void x_looked(void); /* the caller has read the clock */
uint64_t x_last_look(void);
void x_asked(void); /* the caller has asked for its lease */
uint64_t x_last_ask(void);
void x_alone(void); /* a child: nobody else runs in it */

/* memory.c */
struct x_store {
	volatile void *at;
	uint64_t value;
	uint32_t size;
};
#define X_STORES 8
struct x_buffer {
	struct x_store store[X_STORES];
	unsigned int count;
};
void x_buffer_drain(struct x_buffer *b);
void x_buffer_drain_one(struct x_buffer *b);
struct x_buffer *x_fiber_buffer(void);

/* time.c */
bool x_clock_advance(void); /* nobody can run; false: nobody ever will */
void x_sleep(uint64_t us);
void (*x_fork_handlers(unsigned int which))(void); /* 0 prepare, 1 parent, 2 child */

/* app.c, outside.c */
struct x_write { /* one page-head, written by the peer */
	struct sim_dma dma;
	struct x_write *next;
	uint64_t value, due;
	uint32_t lease, page, gen;
	bool faulted;
};
struct x_world {
	struct pinlease_ctx *ctx;
	struct ibv_pd *pd;
	const char *path[X_FILES];
	struct pinlease_file *file[X_FILES];
	struct pinlease *lease[X_LEASES];
	bool stop, over, killed;
	bool active;   /* woken when a lease becomes ACTIVE, or is about to */
	bool breaking; /* woken when one is broken */
	bool fencing;  /* woken when one has drained */
	uint32_t openers_left;
	struct x_write *writes;
};
extern struct x_world x_world;
void *x_main(void *arg);
void x_write_start(struct x_write *w, uint32_t lease, uint32_t page, const struct pinlease_view *view,
		   uint64_t delay);
void *x_device(void *arg);
void *x_opener(void *arg);
void *x_trouble(void *arg);
struct x_op *x_next_op(uint32_t actor, uint32_t *at); /* the actor's next operation, after its pause; NULL */

/* main.c */
__attribute__((noreturn)) void x_violated(const char *rule, const char *text);
__attribute__((noreturn)) void x_run_over(void);

/* death.c */
__attribute__((noreturn)) void x_kill(void);
void x_fork(void);

/* What a sync has to make durable of a page, and how often we had emptied it before. */
struct x_need {
	uint64_t value;
	uint32_t emptied;
};

/* props.c: an operation is under way from granted to ended, a lease from new to release */
void x_props_step(void);
void x_props_idle(void);
void x_props_granted(uint32_t lease, uint32_t gen);
void x_props_ended(uint32_t lease, uint32_t gen);
void x_props_grant(uint32_t lease, uint32_t gen, bool out);
uint32_t x_props_gen(uint32_t lease); /* as it is now */
void x_props_event(uint32_t lease, const struct pinlease_event *ev);
void x_props_asked_for(uint32_t lease); /* the application restores, or acquires */
void x_props_excuse(uint64_t ns);	/* from now on openers may wait for so much more */
void x_props_synced(uint32_t lease, uint32_t let_go, const struct x_need need[X_PAGES]);
uint32_t x_props_let_go(uint32_t lease); /* how often its file's guard was */
void x_props_new_lease(uint32_t i, struct pinlease *lease);
void x_props_release(uint32_t lease);
void x_props_released(uint32_t i, struct pinlease *lease, int r);
extern const struct sim_watcher x_watcher;

/* props_data.c */
void x_data_file(uint32_t file);
uint64_t x_data_value(uint32_t file, uint32_t page); /* the next to write there */
void x_data_new(uint32_t lease);		     /* nothing has been written through it */
void x_data_active(uint32_t lease); /* a generation begins: what is in the file now is to stay */
/*
 * The first page that is not in the file as it must be, or -1. fresh: others may have been at it since;
 * of those written in this generation, one that never came into the file.
 */
int x_data_missing(uint32_t lease, bool fresh);
void x_data_landed(const struct x_write *w);
void x_data_change(uint32_t file, uint32_t from, uint32_t end); /* our own: these pages are to be emptied */
void x_data_changed(uint32_t file, bool done);			/* and have been, or not */
void x_data_lost(uint32_t lease, uint64_t off, uint64_t len);
void x_data_wrote(const struct sim_inode *inode, uint64_t off, uint64_t len);
/* Just written: the first page whose value is older than what was there, or -1. */
int x_data_older(const struct sim_inode *inode, uint64_t off, uint64_t len);
void x_data_reached(const struct sim_inode *inode, uint64_t off, uint64_t len); /* by the library */
void x_data_synced(const struct sim_inode *inode, bool done, int r);
void x_data_sync_begin(uint32_t lease, struct x_need need[X_PAGES]); /* what it has to make durable */
int x_data_not_durable(uint32_t lease, const struct x_need need[X_PAGES]); /* a page, or -1 */

#endif
