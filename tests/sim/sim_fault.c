/* SPDX-License-Identifier: BSD-3-Clause */
/* Faults, delays and hooks, by call or by class, and how often each call was made. And memory, which fails
 * here. */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "sim_private.h"

#define CALLS 96
#define RULES 8

struct call {
	const char *name;
	unsigned int made;
	uint64_t slow;
};

/* What is to happen at the nth call that matches; then `times` times in a row, 0: for ever. */
struct rule {
	bool set;
	const char *call; /* NULL: by class */
	unsigned int classes, nth, times;
	int err;
	void (*hook)(void *arg);
	void *arg;
};

/* sim.lock */
static struct call calls[CALLS];
static struct rule rules[RULES];
static unsigned int faults;

static struct call *call_of(const char *name)
{
	unsigned int i;

	for (i = 0; i < CALLS && calls[i].name; i++)
		if (!strcmp(calls[i].name, name))
			return &calls[i];
	if (i == CALLS)
		sim_die("too many kinds of calls");
	calls[i].name = name;
	return &calls[i];
}

static bool rule_matches(const struct rule *r, const char *call, unsigned int classes)
{
	if (!r->set)
		return false;
	return r->call ? !strcmp(r->call, call) : (r->classes & classes) != 0;
}

/* Counts the call against the rule; true: it is this one's turn. */
static bool rule_fires(struct rule *r)
{
	if (r->nth > 1) {
		r->nth--;
		return false;
	}
	if (r->times && !--r->times)
		r->set = false;
	faults++;
	return true;
}

int sim_enter(const char *name, unsigned int classes)
{
	struct rule hooked = { .set = false };
	struct call *call;
	int err = 0;
	size_t i;

	/* A thread that is being taken down, after it has left the simulation. */
	if (!sim_self)
		return 0;
	if (sim.watcher && sim.watcher->step)
		sim.watcher->step(name);
	sim_lock();
	call = call_of(name);
	call->made++;
	for (i = 0; i < RULES && !err; i++) {
		if (!rule_matches(&rules[i], name, classes) || !rule_fires(&rules[i]))
			continue;
		if (rules[i].hook)
			hooked = rules[i];
		else
			err = rules[i].err;
	}
	if (call->slow)
		sim_wait(call, sim.now + call->slow);
	sim_unlock();
	if (hooked.hook)
		hooked.hook(hooked.arg);
	return err;
}

static void rule_add(struct rule rule)
{
	size_t i;

	sim_lock();
	for (i = 0; i < RULES && rules[i].set; i++)
		;
	if (i == RULES)
		sim_die("too many faults at a time");
	rule.set = true;
	rules[i] = rule;
	sim_unlock();
}

void sim_fail(const char *call, unsigned int nth, int err, unsigned int times)
{
	rule_add((struct rule){ .call = call, .nth = nth, .err = err, .times = times });
}

void sim_fail_class(enum sim_class classes, unsigned int nth, int err, unsigned int times)
{
	rule_add((struct rule){ .classes = classes, .nth = nth, .err = err, .times = times });
}

void sim_hook(const char *call, unsigned int nth, void (*fn)(void *arg), void *arg)
{
	rule_add((struct rule){ .call = call, .nth = nth, .times = 1, .hook = fn, .arg = arg });
}

void sim_hook_class(enum sim_class classes, unsigned int nth, void (*fn)(void *arg), void *arg)
{
	rule_add((struct rule){ .classes = classes, .nth = nth, .times = 1, .hook = fn, .arg = arg });
}

void sim_slow(const char *call, uint64_t ns)
{
	sim_lock();
	call_of(call)->slow = ns;
	sim_unlock();
}

void sim_clear(void)
{
	size_t i;

	sim_lock();
	memset(rules, 0, sizeof(rules));
	for (i = 0; i < CALLS; i++)
		calls[i].slow = 0;
	sim_unlock();
}

unsigned int sim_faults(void)
{
	unsigned int n;

	sim_lock();
	n = faults;
	sim_unlock();
	return n;
}

unsigned int sim_calls(const char *call)
{
	unsigned int n;

	sim_lock();
	n = call_of(call)->made;
	sim_unlock();
	return n;
}

void sim_fault_reset(void)
{
	sim_clear();
	sim_lock();
	memset(calls, 0, sizeof(calls));
	faults = 0;
	sim_unlock();
}

/* sys.h */

void *pl_sys_alloc(size_t size)
{
	void *p;

	if (sim_enter("alloc", SIM_MEMORY | SIM_FAST))
		return NULL;
	p = calloc(1, size);
	if (!p)
		sim_die("out of memory");
	sim_lock();
	sim.counts.allocs++;
	sim.counts.allocated += (long)malloc_usable_size(p);
	sim_unlock();
	return p;
}

void pl_sys_free(void *p)
{
	if (!p)
		return;
	sim_lock();
	sim.counts.allocs--;
	sim.counts.allocated -= (long)malloc_usable_size(p);
	sim_unlock();
	free(p);
}

size_t pl_sys_page_size(void)
{
	return SIM_PAGE;
}

uint64_t pl_sys_memlock_limit(void)
{
	uint64_t limit;

	sim_lock();
	limit = sim.memlock;
	sim_unlock();
	return limit;
}

void sim_memlock(uint64_t bytes)
{
	sim_lock();
	sim.memlock = bytes;
	sim_unlock();
}
