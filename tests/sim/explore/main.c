/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * usage: explore [--profile P] [--first N] [--seconds S]
 *	  explore --seed N [--profile P] [--order K] [--without OP,OP...]
 *	  explore --expect RULE [--profile P] [--first N] [--seeds N] [--against EXPLORE]
 *
 * Seeds one after the other, each in a process of its own, until one fails or the time is over.
 * One that fails is shrunk (operations left out, as long as the same rule is violated; then
 * the order of steps that needs fewest of them), and printed with its trace. --expect: the
 * library is one that was broken on purpose; RULE has to be violated, and no other; and
 * EXPLORE, which has the library as it is, finds nothing in the same seeds.
 *
 * A profile says what there is much of: all, account, staged, syncs, churn, death; without one
 * each has its turn.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "explore.h"
#include "rounds.h"

#define SHRINK_SECONDS 20
#define ORDERS	       30
#ifdef __SANITIZE_ADDRESS__
#define SECONDS PL_R_sim_seconds_asan
#else
#define SECONDS PL_R_sim_seconds
#endif

struct x_plan x_plan;
struct x_result *x_result;
bool x_trace;

static const char *const profiles[X_PROFILES] = { "all", "account", "staged", "syncs", "churn", "death" };
static char dir[64];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void x_log(const char *fmt, ...)
{
	va_list ap;

	printf("%7llu %12llu us %-8s ", (unsigned long long)x_result->steps,
	       (unsigned long long)(sim.now / 1000), sim_self ? x_thread_name(sim_self) : "");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	/* What it was doing when it died is the most interesting part. */
	fflush(stdout);
}

void x_violated(const char *rule, const char *text)
{
	if (x_trace)
		x_log("VIOLATION of %s: %s", rule, text);
	fflush(stdout);
	x_result->failed = true;
	snprintf(x_result->rule, sizeof(x_result->rule), "%s", rule);
	snprintf(x_result->text, sizeof(x_result->text), "%s", text);
	_exit(1);
}

void x_run_over(void)
{
	x_result->ns = sim.now - sim.started;
	x_result->signals_lost = sim.signals_lost;
	fflush(stdout);
	_exit(0);
}

/* One run of x_plan, in a child. True: it has failed. */
static bool run(void)
{
	static const char *const names[] = { "file0", "file1" };
	char path[96];
	int status, null;
	pid_t pid;
	size_t i;

	memset(x_result, 0, sizeof(*x_result));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		/* Of its own time, however busy the machine is. */
		setrlimit(RLIMIT_CPU, &(struct rlimit){ 30, 30 });
		null = open("/dev/null", O_WRONLY);
		if (!x_trace)
			dup2(null, STDERR_FILENO);
		close(null);
		x_fibers_run(x_main);
		abort();
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("fork");
		exit(2);
	}
	for (i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	if (!x_result->failed && (!WIFEXITED(status) || WEXITSTATUS(status))) {
		x_result->failed = true;
		strcpy(x_result->rule, "died");
		snprintf(x_result->text, sizeof(x_result->text),
			 "%s %d: an assertion, or what is left at the end",
			 WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	}
	return x_result->failed;
}

static bool fails_alike(const char *rule, uint64_t most_steps)
{
	return run() && !strcmp(x_result->rule, rule) && x_result->steps <= most_steps;
}

/* Without each operation that is not needed, then in the order that takes fewest steps: never more. */
static void shrink(const char *rule)
{
	uint64_t best = x_result->steps, order = x_plan.order;
	double until = now() + SHRINK_SECONDS;
	bool again = true;
	uint32_t i;

	while (again && now() < until) {
		again = false;
		for (i = 0; i < x_plan.ops && now() < until; i++) {
			if (x_plan.op[i].off)
				continue;
			x_plan.op[i].off = true;
			if (fails_alike(rule, best))
				again = true;
			else
				x_plan.op[i].off = false;
		}
	}
	for (i = 0; i <= ORDERS && now() < until; i++) {
		x_plan.order = i ? i : order;
		if (!fails_alike(rule, best))
			continue;
		best = x_result->steps;
		order = x_plan.order;
	}
	x_plan.order = order;
}

static void print_replay(const char *program)
{
	const char *sep = " --without ";
	uint32_t i;

	printf("%s --profile %s --seed %llu --order %llu", program, profiles[x_plan.profile],
	       (unsigned long long)x_plan.seed, (unsigned long long)x_plan.order);
	for (i = 0; i < x_plan.ops; i++) {
		if (!x_plan.op[i].off)
			continue;
		printf("%s%u", sep, i);
		sep = ",";
	}
	printf("\n");
}

static void report(const char *program)
{
	char rule[16];

	strcpy(rule, x_result->rule);
	printf("seed %llu violates %s: %s\n", (unsigned long long)x_plan.seed, rule, x_result->text);
	shrink(rule);
	x_trace = true;
	run();
	x_plan_print(&x_plan);
	printf("VIOLATION of %s: %s\nagain: ", x_result->rule, x_result->text);
	print_replay(program);
}

/* What all runs did together. */
static struct x_result total;
static uint64_t seeds;

static void add_up(void)
{
	unsigned int i;

	seeds++;
	total.steps += x_result->steps;
	for (i = 0; i < X_KINDS; i++)
		total.count[i] += x_result->count[i];
	total.breaks += x_result->breaks;
	total.lost += x_result->lost;
	total.restored += x_result->restored;
	total.landed += x_result->landed;
	total.cut += x_result->cut;
	total.refused += x_result->refused;
	total.expired += x_result->expired;
	total.signals_lost += x_result->signals_lost;
	total.checked += x_result->checked;
	total.synced += x_result->synced;
	total.forks += x_result->forks;
}

/* Runs in which nothing happens prove nothing. */
static int print_total(double took, bool everything)
{
	const struct {
		const char *what;
		uint64_t n;
	} parts[] = {
		{ "breaks", total.breaks },
		{ "restored", total.restored },
		{ "lost", total.lost },
		{ "writes landed", total.landed },
		{ "cut off", total.cut },
		{ "begins refused", total.refused },
		{ "openers expired", total.expired },
		{ "signals lost", total.signals_lost },
		{ "files compared", total.checked },
		{ "syncs", total.synced },
		{ "forks", total.forks },
		{ "kills", total.count[X_KILL] },
		{ "grants returned", total.count[X_RETURN] },
	};
	int r = 0;
	size_t i;

	printf("%llu seeds, %llu steps in %.1f s: %.0f steps a minute\n", (unsigned long long)seeds,
	       (unsigned long long)total.steps, took, (double)total.steps / took * 60);
	for (i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		printf("  %-16s %llu\n", parts[i].what, (unsigned long long)parts[i].n);
		if (!parts[i].n && everything) {
			printf("    which shows nothing\n");
			r = 1;
		}
	}
	return r;
}

struct args {
	uint64_t seed, order, first, seeds;
	double seconds;
	char *without;
	const char *expect, *against;
	enum x_profile profile;
};

/* Seeds from the first on, until one fails; 1: that. */
static int explore(const struct args *a)
{
	double start = now();
	uint64_t seed;

	for (seed = a->first; (!a->seeds || seed < a->first + a->seeds) && now() < start + a->seconds;
	     seed++) {
		x_plan_make(&x_plan, seed, a->profile);
		if (run())
			return 1;
		add_up();
	}
	return 0;
}

/* Becomes the other program. */
static int same_seeds(const struct args *a)
{
	char first[24], count[24];

	snprintf(first, sizeof(first), "%llu", (unsigned long long)a->first);
	snprintf(count, sizeof(count), "%llu", (unsigned long long)(x_plan.seed - a->first + 1));
	fflush(stdout);
	execl(a->against, a->against, "--profile", profiles[x_plan.profile], "--first", first, "--seeds",
	      count, (char *)NULL);
	perror(a->against);
	return 1;
}

static int expected(struct args *a)
{
	double start = now();

	a->seconds = 1e9;
	if (!a->seeds)
		a->seeds = pl_rounds(PL_R_planted_seeds);
	if (!explore(a)) {
		printf("%llu seeds, and nobody has noticed\n", (unsigned long long)seeds);
		return 1;
	}
	printf("seed %llu, %.2f s: %s: %s\n", (unsigned long long)x_plan.seed, now() - start, x_result->rule,
	       x_result->text);
	if (strcmp(x_result->rule, a->expect))
		return 1;
	return a->against ? same_seeds(a) : 0;
}

static int one(const struct args *a)
{
	char *word;

	x_plan_make(&x_plan, a->seed, a->profile);
	if (a->order)
		x_plan.order = a->order;
	for (word = a->without ? strtok(a->without, ",") : NULL; word; word = strtok(NULL, ","))
		x_plan.op[strtoul(word, NULL, 10) % X_OPS].off = true;
	x_trace = true;
	x_plan_print(&x_plan);
	if (!run())
		return 0;
	printf("VIOLATION of %s: %s\n", x_result->rule, x_result->text);
	return 1;
}

static enum x_profile profile_of(const char *name)
{
	unsigned int i;

	for (i = 0; i < X_PROFILES; i++)
		if (!strcmp(name, profiles[i]))
			return (enum x_profile)i;
	fprintf(stderr, "no profile %s\n", name);
	exit(2);
}

static struct args parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", 1, NULL, 's' },    { "order", 1, NULL, 'o' },	  { "without", 1, NULL, 'w' },
		{ "profile", 1, NULL, 'p' }, { "seconds", 1, NULL, 't' }, { "first", 1, NULL, 'f' },
		{ "expect", 1, NULL, 'e' },  { "seeds", 1, NULL, 'n' },	  { "against", 1, NULL, 'a' },
		{ NULL, 0, NULL, 0 },
	};
	struct args a = {
		.seconds = pl_rounds(SECONDS),
		.first = 1,
	};
	int c;

	a.profile = X_IN_TURN;
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's')
			a.seed = strtoull(optarg, NULL, 10);
		else if (c == 'o')
			a.order = strtoull(optarg, NULL, 10);
		else if (c == 'w')
			a.without = optarg;
		else if (c == 'p')
			a.profile = profile_of(optarg);
		else if (c == 't')
			a.seconds = atof(optarg);
		else if (c == 'f')
			a.first = strtoull(optarg, NULL, 10);
		else if (c == 'e')
			a.expect = optarg;
		else if (c == 'a')
			a.against = optarg;
		else if (c == 'n')
			a.seeds = strtoull(optarg, NULL, 10);
		else
			exit(2);
	}
	return a;
}

/* The same addresses each time: a lock's or a page's place is to decide nothing. */
static void fixed_addresses(char **argv)
{
	int now_is = personality(0xffffffff);

	if (now_is == -1 || (now_is & ADDR_NO_RANDOMIZE) ||
	    personality((unsigned long)now_is | ADDR_NO_RANDOMIZE) == -1)
		return;
	execv("/proc/self/exe", argv);
}

static void prepare(void)
{
	x_result = mmap(NULL, sizeof(*x_result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (x_result == MAP_FAILED)
		exit(2);
	/* The directory of the test files, which all children use one after the other. */
	sim_file_reset();
	sim_dir(dir, sizeof(dir));
}

int main(int argc, char **argv)
{
	struct args a = parse(argc, argv);
	double start;
	int r;

	fixed_addresses(argv);
	prepare();
	if (a.seed)
		return one(&a);
	if (a.expect)
		return expected(&a);
	start = now();
	r = explore(&a);
	if (r)
		report(argv[0]);
	return print_total(now() - start, a.profile == X_IN_TURN && !r) || r;
}
