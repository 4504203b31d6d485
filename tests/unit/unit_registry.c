/* SPDX-License-Identifier: BSD-3-Clause */
/* From fd to object, references, and the walk over all of them. */
#include <stdatomic.h>

#include "registry.h"
#include "rounds.h"
#include "sys.h"
#include "unit.h"

struct object {
	struct pl_registered registered;
	_Atomic int freed;
	int seen;
};

static struct object *object_of(struct pl_registered *obj)
{
	return obj ? pl_container(obj, struct object, registered) : NULL;
}

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct pl_registry));
	pl_registry_init(*state);
	return 0;
}

static int teardown(void **state)
{
	pl_registry_fini(*state);
	free(*state);
	return 0;
}

static void found_by_fd(void **state)
{
	struct pl_registry *reg = *state;
	struct object a = { .seen = 0 }, b = { .seen = 0 };

	assert_int_equal(pl_registry_count(reg), 0);
	assert_null(pl_registry_get(reg, 3));
	assert_int_equal(pl_registry_add(reg, 3, &a.registered), 0);
	assert_int_equal(pl_registry_add(reg, 100000, &b.registered), 0);
	assert_ptr_equal(object_of(pl_registry_get(reg, 3)), &a);
	assert_ptr_equal(object_of(pl_registry_get(reg, 100000)), &b);
	/* si_fd can be anything. */
	assert_null(pl_registry_get(reg, -1));
	assert_null(pl_registry_get(reg, 4));
	assert_null(pl_registry_get(reg, INT32_MAX));
	assert_false(pl_registry_put(reg, &a.registered));
	pl_registry_remove(reg, &a.registered);
	pl_registry_remove(reg, &a.registered);
	assert_null(pl_registry_get(reg, 3));
	assert_int_equal(pl_registry_count(reg), 1);
	assert_true(pl_registry_put(reg, &a.registered));
	pl_registry_remove(reg, &b.registered);
	assert_int_equal(pl_registry_count(reg), 0);
	assert_false(pl_registry_put(reg, &b.registered));
	assert_true(pl_registry_put(reg, &b.registered));
}

static void see(void *arg, struct pl_registered *obj)
{
	object_of(obj)->seen++;
	assert_false(pl_registry_put(arg, obj));
}

/* The application closed a's fd, and the kernel gave the number to b: a is still walked over. */
static void a_stolen_number(void **state)
{
	struct pl_registry *reg = *state;
	struct object a = { .seen = 0 }, b = { .seen = 0 };

	assert_int_equal(pl_registry_add(reg, 5, &a.registered), 0);
	assert_int_equal(pl_registry_add(reg, 5, &b.registered), 0);
	assert_ptr_equal(object_of(pl_registry_get(reg, 5)), &b);
	pl_registry_each(reg, see, reg);
	assert_true(a.seen == 1 && b.seen == 1);
	pl_registry_remove(reg, &a.registered);
	assert_ptr_equal(object_of(pl_registry_get(reg, 5)), &b);
	pl_registry_remove(reg, &b.registered);
	assert_null(pl_registry_get(reg, 5));
}

#define OBJECTS 10

struct walk {
	struct pl_registry *reg;
	struct object *objects;
	int visits;
};

/* Removes itself, the one before and the one after, and walks over the rest from inside. */
static void remove_around(void *arg, struct pl_registered *obj)
{
	struct walk *w = arg;
	long i = object_of(obj) - w->objects;

	w->visits++;
	object_of(obj)->seen++;
	pl_registry_remove(w->reg, obj);
	if (i > 0)
		pl_registry_remove(w->reg, &w->objects[i - 1].registered);
	if (i + 1 < OBJECTS)
		pl_registry_remove(w->reg, &w->objects[i + 1].registered);
	pl_registry_each(w->reg, see, w->reg);
	pl_registry_put(w->reg, obj);
}

static void the_walk_survives_removal(void **state)
{
	struct object objects[OBJECTS] = { { .seen = 0 } };
	struct walk w = { .reg = *state, .objects = objects };
	int i;

	for (i = 0; i < OBJECTS; i++)
		assert_int_equal(pl_registry_add(*state, 10 + i, &objects[i].registered), 0);
	pl_registry_each(*state, remove_around, &w);
	assert_int_equal(w.visits, OBJECTS / 2);
	assert_int_equal(pl_registry_count(*state), 0);
	/* 2 was seen by the walk inside 0, then by its own. */
	assert_int_equal(objects[0].seen, 1);
	assert_int_equal(objects[1].seen, 0);
	assert_int_equal(objects[2].seen, 2);
	for (i = 0; i < OBJECTS; i++)
		assert_true(pl_registry_put(*state, &objects[i].registered));
}

static void an_empty_walk(void **state)
{
	pl_registry_each(*state, see, *state);
	assert_int_equal(pl_registry_count(*state), 0);
}

/* Threads look objects up and walk while the main thread frees and replaces them. */
#define FDS 8

struct crowd {
	struct pl_registry *reg;
	_Atomic bool stop;
	_Atomic long met, freed;
};

static void crowd_put(struct crowd *c, struct pl_registered *obj)
{
	if (!pl_registry_put(c->reg, obj))
		return;
	/* Exactly one is told to free it. */
	if (object_of(obj)->freed++)
		abort();
	c->freed++;
	free(object_of(obj));
}

static void crowd_visit(void *arg, struct pl_registered *obj)
{
	struct crowd *c = arg;

	c->met++;
	if (object_of(obj)->freed)
		abort();
	crowd_put(c, obj);
}

static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	struct unit_random r = { (uintptr_t)&r };
	struct pl_registered *obj;

	while (!c->stop) {
		obj = pl_registry_get(c->reg, (int)unit_random(&r, FDS));
		if (obj)
			crowd_visit(c, obj);
		if (!unit_random(&r, 8))
			pl_registry_each(c->reg, crowd_visit, c);
	}
	return NULL;
}

static void one_frees(void **state)
{
	struct crowd c = { .reg = *state };
	unsigned int rounds = pl_rounds(PL_R_registry_objects), i;
	struct object *now[FDS] = { NULL };
	pthread_t thread[3];
	struct object **at;
	size_t t;

	for (t = 0; t < UNIT_COUNT(thread); t++)
		assert_int_equal(pl_sys_thread_new(crowd_main, &c, "crowd", &thread[t]), 0);
	/* As many as it takes for the others to have met a thousand. */
	for (i = 0; i < rounds || c.met < 1000; i++) {
		at = &now[i % FDS];
		if (*at) {
			pl_registry_remove(*state, &(*at)->registered);
			crowd_put(&c, &(*at)->registered);
		}
		*at = calloc(1, sizeof(**at));
		assert_non_null(*at);
		assert_int_equal(pl_registry_add(*state, (int)(i % FDS), &(*at)->registered), 0);
	}
	c.stop = true;
	for (at = now; at < now + FDS; at++) {
		pl_registry_remove(*state, &(*at)->registered);
		crowd_put(&c, &(*at)->registered);
	}
	for (t = 0; t < UNIT_COUNT(thread); t++)
		pl_sys_thread_join(thread[t]);
	assert_int_equal(c.freed, i);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(found_by_fd),
		TEST(a_stolen_number),
		TEST(the_walk_survives_removal),
		TEST(an_empty_walk),
		TEST(one_frees),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
