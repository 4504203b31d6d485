/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Threads as coroutines of one real thread, and who of them goes on.
 *
 * Two ways of choosing, since each finds what the other one does not: by dice, with a
 * chance to stay that differs from seed to seed, or by priorities that change at few steps
 * (the way of PCT: a bug that needs d threads at d steps is found with a known chance).
 *
 * Either way a thread is preempted now and then, for up to 120 steps.
 *
 * What the library keeps for each thread is switched with it: all that is __thread in this
 * program, and the one key of pthread_setspecific.
 */
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "explore.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#define STACK_BYTES (1024u << 10)
#else
#define STACK_BYTES (256u << 10)
#endif
#define STEPS_MAX  400000u
#define FIBERS	   40
#define LOCALS_MAX 256u

struct x_fiber {
	struct sim_thread t; /* sim_self is this */
	ucontext_t context;
	void *stack, *fake;
	char name[16];
	bool outside;
	const pthread_mutex_t *blocked; /* waits for it */
	char locals[LOCALS_MAX];	/* its __thread variables, while it does not run */
	void *specific;
	uint32_t priority;
	uint64_t looked, asked, stalled; /* preempted: not before that step, unless nobody else can run */
	struct x_buffer buffer;
};

struct sim_kernel sim = { .lock = PTHREAD_MUTEX_INITIALIZER };
__thread struct sim_thread *sim_self;

static struct {
	struct x_dice dice;
	struct x_fiber *self;
	ucontext_t outer;
	void *outer_fake;
	char *locals; /* where they stand while a thread runs, and how they are at first */
	size_t locals_size;
	char fresh[LOCALS_MAX];
	void (*destroy)(void *);
	bool alone;
} fibers;

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __real_pthread_mutex_unlock(pthread_mutex_t *mutex);
int __wrap_pthread_setspecific(pthread_key_t key, const void *value);

uint32_t x_roll(struct x_dice *d, uint32_t sides)
{
	uint64_t z = (d->state += 0x9e3779b97f4a7c15u);

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)((z ^ z >> 31) % sides);
}

static struct x_fiber *fiber_of(struct pl_list *pos)
{
	return pl_container(pos, struct x_fiber, t.link);
}

static bool fiber_runs(const struct x_fiber *f)
{
	if (f->t.exited || f->blocked || (f->t.waiting && !f->t.awake))
		return false;
	return !sim.stopped || f->outside;
}

/* Switching */

#ifdef __SANITIZE_ADDRESS__
static void stack_leaves(void **fake, const struct x_fiber *to)
{
	__sanitizer_start_switch_fiber(fake, to->stack, STACK_BYTES);
}

static void stack_entered(void *fake)
{
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
}
#else
static void stack_leaves(void **fake, const struct x_fiber *to)
{
	(void)fake;
	(void)to;
}

static void stack_entered(void *fake)
{
	(void)fake;
}
#endif

static void fiber_switch(struct x_fiber *to)
{
	struct x_fiber *from = fibers.self;

	if (to == from)
		return;
	memcpy(from->locals, fibers.locals, fibers.locals_size);
	memcpy(fibers.locals, to->locals, fibers.locals_size);
	fibers.self = to;
	sim_self = &to->t;
	stack_leaves(&from->fake, to);
	swapcontext(&from->context, &to->context);
	stack_entered(from->fake);
}

static void fiber_main(void)
{
	struct x_fiber *self = fibers.self;

	stack_entered(NULL);
	self->t.fn(self->t.arg);
	if (self->specific)
		fibers.destroy(self->specific);
	x_buffer_drain(&self->buffer);
	self->t.exited = true;
	sim_wake(&self->t, true);
	x_switch();
	sim_die("a thread runs that has exited");
}

struct x_fiber *x_fiber_new(const char *name, bool outside, void *(*fn)(void *arg), void *arg)
{
	struct x_fiber *f = calloc(1, sizeof(*f));

	if (!f)
		sim_die("out of memory");
	f->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK,
			-1, 0);
	f->t.signals = calloc(1, sizeof(*f->t.signals));
	if (f->stack == MAP_FAILED || !f->t.signals)
		sim_die("out of memory");
	f->t.pthread = (pthread_t)(uintptr_t)f;
	f->t.fn = fn;
	f->t.arg = arg;
	f->t.ours = !outside;
	f->outside = outside;
	memcpy(f->locals, fibers.fresh, fibers.locals_size);
	f->priority = x_roll(&fibers.dice, 1000);
	x_fiber_name(f, name);
	getcontext(&f->context);
	f->context.uc_stack.ss_sp = f->stack;
	f->context.uc_stack.ss_size = STACK_BYTES;
	makecontext(&f->context, fiber_main, 0);
	f->t.tid = ++sim.next_tid;
	pl_list_add_tail(&sim.threads, &f->t.link);
	sim.counts.threads++;
	return f;
}

void x_fiber_name(struct x_fiber *f, const char *name)
{
	snprintf(f->name, sizeof(f->name), "%s", name);
}

struct x_fiber *x_fiber_self(void)
{
	return fibers.self;
}

struct x_buffer *x_fiber_buffer(void)
{
	return &fibers.self->buffer;
}

const char *x_thread_name(const struct sim_thread *t)
{
	return pl_container(t, struct x_fiber, t)->name;
}

bool x_fiber_outside(const struct sim_thread *t)
{
	return pl_container(t, struct x_fiber, t)->outside;
}

void x_looked(void)
{
	fibers.self->looked = sim.now;
}

uint64_t x_last_look(void)
{
	return fibers.self->looked;
}

void x_asked(void)
{
	fibers.self->asked = sim.now;
}

uint64_t x_last_ask(void)
{
	return fibers.self->asked;
}

void x_alone(void)
{
	fibers.alone = true;
}

void x_drain_all(void)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.threads)
		x_buffer_drain(&fiber_of(pos)->buffer);
}

/* Choosing */

static struct x_fiber *pick_by_dice(struct x_fiber **run, unsigned int n)
{
	if (fiber_runs(fibers.self) && fibers.self->stalled <= x_result->steps &&
	    x_roll(&fibers.dice, 64) < x_plan.stay)
		return fibers.self;
	return run[x_roll(&fibers.dice, n)];
}

static struct x_fiber *pick_by_priority(struct x_fiber **run, unsigned int n)
{
	struct x_fiber *best = run[0];
	unsigned int i;

	if (!x_roll(&fibers.dice, 16 + x_plan.stay))
		fibers.self->priority = x_roll(&fibers.dice, 1000);
	for (i = 1; i < n; i++)
		if (run[i]->priority > best->priority)
			best = run[i];
	return best;
}

static unsigned int fibers_ready(struct x_fiber **run, bool stalled)
{
	struct pl_list *pos;
	unsigned int n = 0;

	pl_list_for_each (pos, &sim.threads)
		if (fiber_runs(fiber_of(pos)) && n < FIBERS &&
		    (stalled || fiber_of(pos)->stalled <= x_result->steps))
			run[n++] = fiber_of(pos);
	return n;
}

static struct x_fiber *fiber_pick(void)
{
	struct x_fiber *run[FIBERS];
	unsigned int n;

	if (!x_roll(&fibers.dice, x_plan.stall))
		fibers.self->stalled = x_result->steps + x_roll(&fibers.dice, 120);
	n = fibers_ready(run, false);
	if (!n)
		n = fibers_ready(run, true);
	if (!n)
		return NULL;
	return x_plan.strategy ? pick_by_priority(run, n) : pick_by_dice(run, n);
}

/* The processor empties a buffer whenever it likes. */
static void stores_become_seen(void)
{
	struct pl_list *pos;

	if (!x_plan.buffers)
		return;
	pl_list_for_each (pos, &sim.threads)
		if (fiber_of(pos)->buffer.count && !x_roll(&fibers.dice, x_plan.drain))
			x_buffer_drain_one(&fiber_of(pos)->buffer);
}

void x_switch(void)
{
	struct x_fiber *next;

	while (!(next = fiber_pick()))
		if (!x_clock_advance())
			sim_violate("stuck", "everybody waits for what never comes");
	fiber_switch(next);
}

void x_point(const char *what)
{
	if (!fibers.self || fibers.alone)
		return;
	if (++x_result->steps > STEPS_MAX)
		sim_violate("stuck", "%u steps and no end", STEPS_MAX);
	if (x_trace)
		x_log("%s", what);
	x_props_step();
	stores_become_seen();
	x_switch();
}

/* Locks: the library's own, taken by one coroutine and waited for by others. */

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
	if (mutex == &sim.lock || !fibers.self)
		return 0;
	x_point("lock");
	x_buffer_drain(&fibers.self->buffer);
	while (pthread_mutex_trylock(mutex) == EBUSY) {
		fibers.self->blocked = mutex;
		x_switch();
	}
	return 0;
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
	struct pl_list *pos;

	if (mutex == &sim.lock || !fibers.self)
		return 0;
	x_buffer_drain(&fibers.self->buffer);
	__real_pthread_mutex_unlock(mutex);
	pl_list_for_each (pos, &sim.threads)
		if (fiber_of(pos)->blocked == mutex)
			fiber_of(pos)->blocked = NULL;
	return 0;
}

int __wrap_pthread_setspecific(pthread_key_t key, const void *value)
{
	(void)key;
	fibers.self->specific = (void *)(uintptr_t)value;
	return 0;
}

int pl_sys_key_new(pthread_key_t *key, void (*destroy)(void *))
{
	int r = sim_enter("key_new", SIM_MEMORY | SIM_FAST);

	*key = 0;
	fibers.destroy = destroy;
	return r;
}

/* The program's own come first; those of libraries are the one real thread's. */
static int find_locals(struct dl_phdr_info *info, size_t size, void *arg)
{
	int i;

	(void)size;
	(void)arg;
	for (i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_TLS)
			fibers.locals_size = info->dlpi_phdr[i].p_memsz;
	fibers.locals = info->dlpi_tls_data;
	if (!fibers.locals || !fibers.locals_size || fibers.locals_size > LOCALS_MAX)
		sim_die("%zu bytes of thread-local variables", fibers.locals_size);
	memcpy(fibers.fresh, fibers.locals, fibers.locals_size);
	return 1;
}

void x_fibers_run(void *(*fn)(void *arg))
{
	struct x_fiber *first;

	fibers.dice.state = x_plan.order * 0x2545f4914f6cdd1du + 99;
	dl_iterate_phdr(find_locals, NULL);
	pl_list_init(&sim.threads);
	sim.next_tid = 1000;
	first = x_fiber_new("main", false, fn, NULL);
	fibers.self = first;
	sim_self = &first->t;
	stack_leaves(&fibers.outer_fake, first);
	setcontext(&first->context);
}
