/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The account under threads. Each break must find nobody inside (I3), and must be woken by
 * the last one: nobody polls. An operation takes a moment, and looks all the while
 * whether the breaker believes that it is fenced. It makes no locked instruction, which
 * would stand in for a missing barrier. `data` is what a device would write, plain
 * memory, so that ThreadSanitizer sees whether what came before an end happens before
 * what follows the sum. With --no-membarrier the kernel
 * refuses that call, and the account uses fences.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <semaphore.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "account.h"
#include "rounds.h"
#include "sys.h"
#include "unit.h"

#define THREADS 4

struct scene {
	struct pl_account account;
	pthread_mutex_t lock;		/* the file's */
	sem_t poke;
	_Atomic bool fenced;		/* the breaker has seen the account empty */
	_Atomic bool stop, violated;
	int data[THREADS];
};

struct operator {
	struct scene *s;
	pthread_t thread;
	int number;
	bool comes_and_goes;		/* a new thread after every few operations */
	_Atomic uint64_t granted, refused;	/* written by the operator alone */
};

static void count(_Atomic uint64_t *n)
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* A few hundred nanoseconds of DMA. */
static void be_inside(struct operator *op)
{
	int i;

	count(&op->granted);
	op->s->data[op->number]++;
	for (i = 0; i < 100; i++)
		if (atomic_load_explicit(&op->s->fenced, memory_order_relaxed))
			op->s->violated = true;
}

/* As long again, more or less: the breaker must be the last to have looked at the counters sometimes. */
static void be_outside(struct operator *op)
{
	uint64_t i, n = (op->granted + op->refused) * 31 % 400;

	for (i = 0; i < n; i++)
		atomic_signal_fence(memory_order_seq_cst);
}

static void one_operation(struct operator *op)
{
	struct scene *s = op->s;
	uint32_t gen = 0;
	int r = pl_account_begin_fast(&s->account, 1, &gen);

	if (r && r != -EALREADY)
		r = pl_account_begin(&s->account, 1, &gen);
	if (r == -EALREADY)
		sem_post(&s->poke);
	if (r) {
		count(&op->refused);
		return;
	}
	be_inside(op);
	r = pl_account_end_fast(&s->account, 1, gen);
	if (r && r != -EALREADY)
		r = pl_account_end(&s->account, 1, gen);
	if (r == -ESTALE) {
		pthread_mutex_lock(&s->lock);
		pl_account_end_late(&s->account, 1, gen);
		pthread_mutex_unlock(&s->lock);
	}
	if (r)
		sem_post(&s->poke);
	if (r == -EALREADY)
		pl_account_ended();
}

static void *operate(void *arg)
{
	struct operator *op = arg;
	int left = op->comes_and_goes ? 50 : -1;

	while (!op->s->stop && left--) {
		one_operation(op);
		be_outside(op);
	}
	return NULL;
}

/* Starts operate again and again, so that counters are folded in the middle of everything. */
static void *operate_in_turns(void *arg)
{
	struct operator *op = arg;
	pthread_t thread;

	while (!op->s->stop) {
		if (pl_sys_thread_new(operate, op, "turn", &thread))
			break;
		pl_sys_thread_join(thread);
	}
	return NULL;
}

/* What a breaker does; false: the last end did not wake it. */
static bool drain(struct scene *s)
{
	struct timespec until;

	if (!pl_account_in_flight(&s->account))
		return true;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	while (pl_account_in_flight(&s->account))
		if (sem_timedwait(&s->poke, &until) && errno == ETIMEDOUT)
			return false;
	return true;
}

/* Up to two microseconds, now and then up to a hundred: so that breaks meet operations everywhere. */
static void let_them_in(struct scene *s, unsigned int round)
{
	uint64_t until = pl_sys_now() + (round % 16 ? round % 2000 : round % 100 * 1000);

	while (pl_sys_now() < until)
		;
	/* Looked at last by another core: the next begin's store takes its time to be seen. */
	pl_account_in_flight(&s->account);
}

static void one_break(struct scene *s, int threads, int *seen)
{
	int i;

	pl_account_set_state(&s->account, PINLEASE_BREAKING);
	pl_account_barrier();
	assert_true(drain(s));
	atomic_store_explicit(&s->fenced, true, memory_order_relaxed);
	for (i = 0; i < threads; i++) {
		assert_true(s->data[i] >= seen[i]);
		seen[i] = s->data[i];
	}
	pthread_mutex_lock(&s->lock);
	assert_int_equal(pl_account_next_gen(&s->account), 0);
	pthread_mutex_unlock(&s->lock);
	assert_false(s->violated);
	s->fenced = false;
	pl_account_set_state(&s->account, PINLEASE_ACTIVE);
}

/* Both sides of the race, by each of them. */
static bool met_both(struct operator *op, int threads)
{
	int i;

	for (i = 0; i < threads; i++)
		if (!op[i].granted || !op[i].refused)
			return false;
	return true;
}

static void breaks_against(struct scene *s, int threads, unsigned int rounds)
{
	struct operator op[THREADS];
	int i, seen[THREADS] = { 0 };
	uint64_t until;

	for (i = 0; i < threads; i++) {
		op[i] = (struct operator){ .s = s, .number = i, .comes_and_goes = i == 1 };
		assert_int_equal(pl_sys_thread_new(i == 1 ? operate_in_turns : operate, &op[i], "operator",
						   &op[i].thread), 0);
	}
	until = pl_sys_now() + 60 * PL_NS_PER_S;
	while (rounds || (!met_both(op, threads) && pl_sys_now() < until)) {
		one_break(s, threads, seen);
		let_them_in(s, rounds);
		rounds -= rounds > 0;
	}
	s->stop = true;
	for (i = 0; i < threads; i++)
		pl_sys_thread_join(op[i].thread);
	assert_int_equal(pl_account_in_flight(&s->account), 0);
	assert_int_equal(pl_account_late(&s->account), 0);
	assert_true(met_both(op, threads));
}

static void run(int threads, unsigned int rounds)
{
	struct scene *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	pthread_mutex_init(&s->lock, NULL);
	sem_init(&s->poke, 0, 0);
	assert_int_equal(pl_account_init(&s->account), 0);
	pl_account_set_state(&s->account, PINLEASE_ACTIVE);
	breaks_against(s, threads, rounds);
	pl_account_fini(&s->account);
	sem_destroy(&s->poke);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* One on another core, time and again: where a barrier that is missing shows. */
static void breaks_against_one(void **state)
{
	(void)state;
	run(1, pl_rounds(PL_R_account_races));
}

static void breaks_against_many(void **state)
{
	(void)state;
	run(THREADS, pl_rounds(PL_R_account_breaks));
}

/* Threads and accounts beyond one chunk of counters, all at once. */
#define MANY 600

struct crowd {
	struct pl_account account[MANY];
	pthread_t thread[THREADS];
};

static void *visit_all(void *arg)
{
	struct crowd *c = arg;
	uint32_t gen, i;

	for (i = 0; i < MANY; i++)
		if (!pl_account_begin(&c->account[i], 2, &gen))
			pl_account_end(&c->account[i], 1, gen);
	return NULL;
}

static void accounts_do_not_mix(void **state)
{
	struct crowd *c = calloc(1, sizeof(*c));
	int i;

	(void)state;
	assert_non_null(c);
	for (i = 0; i < MANY; i++) {
		assert_int_equal(pl_account_init(&c->account[i]), 0);
		if (i % 3)
			pl_account_set_state(&c->account[i], PINLEASE_ACTIVE);
	}
	for (i = 0; i < THREADS; i++)
		assert_int_equal(pl_sys_thread_new(visit_all, c, "visitor", &c->thread[i]), 0);
	for (i = 0; i < THREADS; i++)
		pl_sys_thread_join(c->thread[i]);
	for (i = 0; i < MANY; i++) {
		assert_int_equal(pl_account_in_flight(&c->account[i]), i % 3 ? THREADS : 0);
		pl_account_fini(&c->account[i]);
	}
	free(c);
}

static int setup_group(void **state)
{
	(void)state;
	return pl_account_setup();
}

/* As a container's seccomp filter refuses it. */
static void refuse_membarrier(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog filter = { .len = UNIT_COUNT(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) ||
	    pl_sys_membarrier_register() != -EPERM) {
		printf("no seccomp filter can be set: %s\n", strerror(errno));
		exit(77);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(breaks_against_one),
		cmocka_unit_test(breaks_against_many),
		cmocka_unit_test(accounts_do_not_mix),
	};

	if (argc > 1 && !strcmp(argv[1], "--no-membarrier"))
		refuse_membarrier();
	return cmocka_run_group_tests(tests, setup_group, NULL);
}
