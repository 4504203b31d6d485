/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The account under threads. What a thread believes is kept beside it: `inside` counts the
 * operations a thread was allowed to begin and has not ended, and `data` is what a device
 * would write, plain memory, so that ThreadSanitizer sees whether what came before an
 * end really happens before what follows the sum. Each break must find nobody inside
 * (I3), and must be woken by the last one: nobody polls. With --no-membarrier the kernel
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
	_Atomic int inside;
	_Atomic bool stop;
	_Atomic uint64_t granted, refused, alive;
	int data[THREADS];
};

struct operator {
	struct scene *s;
	pthread_t thread;
	int number;
	bool comes_and_goes;		/* a new thread after every few operations */
};

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
		s->refused++;
		return;
	}
	s->inside++;
	s->granted++;
	s->data[op->number]++;
	s->inside--;
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
}

static void *operate(void *arg)
{
	struct operator *op = arg;
	int left = op->comes_and_goes ? 50 : -1;

	while (!op->s->stop && left--)
		one_operation(op);
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

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 20;
	while (pl_account_in_flight(&s->account))
		if (sem_timedwait(&s->poke, &until) && errno == ETIMEDOUT)
			return false;
	return true;
}

static void breaks_against(struct scene *s, unsigned int rounds)
{
	struct operator op[THREADS];
	int i, seen[THREADS] = { 0 };

	for (i = 0; i < THREADS; i++) {
		op[i] = (struct operator){ .s = s, .number = i, .comes_and_goes = i == 0 };
		assert_int_equal(pl_sys_thread_new(i ? operate : operate_in_turns, &op[i], "operator",
						   &op[i].thread), 0);
	}
	while (rounds--) {
		pl_account_set_state(&s->account, PINLEASE_BREAKING);
		pl_account_barrier();
		assert_true(drain(s));
		assert_int_equal(s->inside, 0);
		for (i = 0; i < THREADS; i++) {
			assert_true(s->data[i] >= seen[i]);
			seen[i] = s->data[i];
		}
		pthread_mutex_lock(&s->lock);
		assert_int_equal(pl_account_next_gen(&s->account), 0);
		pthread_mutex_unlock(&s->lock);
		assert_int_equal(s->inside, 0);
		pl_account_set_state(&s->account, PINLEASE_ACTIVE);
		if (rounds % 16 == 0)
			unit_sleep_ms(1);
	}
	s->stop = true;
	for (i = 0; i < THREADS; i++)
		pl_sys_thread_join(op[i].thread);
	assert_int_equal(pl_account_in_flight(&s->account), 0);
	assert_int_equal(pl_account_late(&s->account), 0);
	/* Both sides of the race were met. */
	assert_true(s->granted > 0 && s->refused > 0);
}

static void breaks_find_nobody_inside(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	(void)state;
	assert_non_null(s);
	pthread_mutex_init(&s->lock, NULL);
	sem_init(&s->poke, 0, 0);
	assert_int_equal(pl_account_init(&s->account), 0);
	pl_account_set_state(&s->account, PINLEASE_ACTIVE);
	breaks_against(s, pl_rounds(PL_R_account_breaks));
	pl_account_fini(&s->account);
	sem_destroy(&s->poke);
	pthread_mutex_destroy(&s->lock);
	free(s);
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
		cmocka_unit_test(breaks_find_nobody_inside),
		cmocka_unit_test(accounts_do_not_mix),
	};

	if (argc > 1 && !strcmp(argv[1], "--no-membarrier"))
		refuse_membarrier();
	return cmocka_run_group_tests(tests, setup_group, NULL);
}
