/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * soak native|rdma [--seed N] [--seconds S] [--plant]
 *
 * Starts owners and openers (soak.h), kills and stops owners, sees that no opener is stuck, and
 * judges: 0 violations, or it fails. With --plant the owners take no guard on one file, which
 * is to say that they hear of no recall there: then the judge has to find violations of that
 * file, and of no other.
 */
#include "soak.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kt_rdma.h"
#include "rounds.h"

#define TICK_MS	      10u
#define FAULT_MS      250u  /* between two faults, about */
#define LOSS_MS	      120000u /* a run goes on so much longer, until somebody has lost data */
#define LONG_STOP_MS  6000u /* between two stops beyond lease-break-time, about */
#define TOLD_MAX      20u   /* violations that are spelled out */
#define RSS_SLACK_KIB 2048
#define SANITIZED_PART 10u  /* of the seconds */
#define LEAST_NATIVE  1000u /* writes */
#define LEAST_RDMA    100u

struct soak *soak;

static const char *const types[] = { "tmpfs", "ext4", "xfs", "btrfs" };
#define TYPES (sizeof(types) / sizeof(types[0]))

static struct kt_fs fs[TYPES];
static struct kt_call *openers[SOAK_OPENERS], *owners[SOAK_OWNERS];
static uint64_t runs_again[SOAK_OWNERS]; /* when a stopped owner does; 0: it is not stopped */
static unsigned int seed;

unsigned int soak_roll(unsigned int *from, unsigned int below)
{
	return (unsigned int)rand_r(from) % below;
}

void soak_max(_Atomic uint64_t *max, uint64_t value)
{
	uint64_t old = atomic_load(max);

	while (value > old && !atomic_compare_exchange_weak(max, &old, value))
		;
}

void soak_report(struct soak_file *f, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	if (f)
		soak_count(&f->violations, 1);
	if (atomic_fetch_add(&soak->violations, 1) >= TOLD_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fprintf(stderr, "VIOLATION: %s%s%s\n", f ? f->path : "", f ? ": " : "", text);
}

/* Making the scene */

static int fill(struct soak_file *f)
{
	char block[SOAK_BLOCK];
	int fd = open(f->path, O_WRONLY | O_CLOEXEC), r = 0;

	for (unsigned int i = 0; i < soak->blocks && !r; i++) {
		uint64_t seq = judge_draw(f, i);

		judge_stamp(f, i, seq, block);
		r = pwrite(fd, block, SOAK_BLOCK, i * SOAK_BLOCK) == SOAK_BLOCK ? 0 : -errno;
		judge_wrote(f, i, seq);
	}
	close(fd);
	return r;
}

static int make_file(unsigned int number)
{
	struct soak_file *f = &soak->file[number];
	pthread_mutexattr_t attr;
	char name[16];
	int r;

	f->number = number;
	f->tmpfs = !strcmp(types[number % TYPES], "tmpfs");
	f->planted = soak->plant && !number;
	atomic_store(&f->owner, -1);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	r = -pthread_mutex_init(&f->openers, &attr);
	snprintf(name, sizeof(name), "f%u", number);
	if (!r)
		r = kt_file(f->path, fs[number % TYPES].dir, name, soak->blocks * SOAK_BLOCK);
	return r ? r : fill(f);
}

static struct kt_call *start(int (*fn)(const void *arg), unsigned int number)
{
	const struct soak_arg arg = { .soak = soak, .number = number };
	struct kt_call *call = kt_call_start(fn, &arg, sizeof(arg));

	if (!call)
		soak_report(NULL, "no process can be made");
	return call;
}

static int make_scene(void)
{
	int r = kt_break_time(SOAK_BREAK_TIME);
	unsigned int i;

	for (i = 0; i < TYPES && !r; i++)
		r = kt_fs_make(&fs[i], types[i], 64);
	for (i = 0; i < SOAK_FILES && !r; i++)
		r = make_file(i);
	for (i = 0; i < SOAK_OWNERS && !r; i++)
		r = (owners[i] = start(owner_main, i)) ? 0 : -EAGAIN;
	for (i = 0; i < SOAK_OPENERS && !r; i++)
		r = (openers[i] = start(opener_main, i)) ? 0 : -EAGAIN;
	return r;
}

/* Faults */

static void look_once(struct soak_file *f)
{
	static struct look look;
	int fd;

	judge_lock(f);
	fd = open(f->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		soak_report(f, "open: %s", strerror(errno));
	else
		judge_look(f, fd, kt_now(), &look);
	close(fd);
	judge_unlock(f);
}

/* What it had not synced of staged memory is gone: what the file has is from now on what is in it. */
static void bury(unsigned int i)
{
	for (unsigned int n = 0; n < SOAK_FILES; n++) {
		struct soak_file *f = &soak->file[n];

		if (atomic_load(&f->owner) != (int)i)
			continue;
		for (unsigned int s = 0; s < SOAK_SLOTS; s++)
			if (atomic_load(&f->slot[s].state) != SLOT_NONE)
				atomic_store(&f->slot[s].state, SLOT_DEAD);
		judge_killed(f);
		look_once(f);
		for (unsigned int s = 0; s < SOAK_SLOTS; s++)
			atomic_store(&f->slot[s].state, SLOT_NONE);
		atomic_store(&f->owner, -1);
	}
}

static void runs(unsigned int i)
{
	atomic_store(&soak->owner[i].ran_ns, kt_now());
	atomic_store(&soak->owner[i].stopped, false);
	runs_again[i] = 0;
}

static void kill_owner(unsigned int i)
{
	kt_call_kill(owners[i]);
	runs(i);
	atomic_store(&soak->owner[i].stop_wanted, false);
	kt_call_end(owners[i]);
	bury(i);
	soak_count(&soak->n.killed, 1);
	owners[i] = start(owner_main, i);
}

static void stop_owner(unsigned int i)
{
	/* In this order: it says that it stops itself before it takes the wish away. */
	if (runs_again[i] || atomic_load(&soak->owner[i].stop_wanted) || atomic_load(&soak->owner[i].stopped))
		return;
	atomic_store(&soak->owner[i].stopped, true);
	kill(owners[i]->pid, SIGSTOP);
	runs_again[i] = kt_now() + (20 + soak_roll(&seed, 800)) * SOAK_MS;
	soak_count(&soak->n.stopped, 1);
}

/* One that has stopped itself, as it was asked to; and those whose time is over. */
static void let_run(unsigned int i, uint64_t now)
{
	if (!runs_again[i] && atomic_load(&soak->owner[i].stopped)) {
		runs_again[i] = now + (SOAK_BREAK_TIME * 1000 + 1000) * SOAK_MS;
		soak_count(&soak->n.stopped_long, 1);
	} else if (runs_again[i] && now > runs_again[i]) {
		runs(i);
		kill(owners[i]->pid, SIGCONT);
	}
}

static bool alive(uint64_t now)
{
	unsigned int i;

	for (i = 0; i < SOAK_OWNERS; i++) {
		if (!owners[i] || kt_call_exited(owners[i], 0)) {
			soak_report(NULL, "owner %u ended: status %#x", i, owners[i] ? owners[i]->status : 0);
			return false;
		}
	}
	for (i = 0; i < SOAK_OPENERS; i++) {
		uint64_t since = atomic_load(&soak->waits_since[i]);

		if (since && now > since + SOAK_WAIT_NS) {
			soak_report(NULL, "opener %u is stuck", i);
			return false;
		}
	}
	return true;
}

#define N(name) atomic_load(&soak->n.name)

/* What must come about in a run of a minute: a lease that expired with data, and one that died with some. */
static bool somebody_lost(void)
{
	return N(stopped_long) && N(lost_blocks) && N(excused_dead);
}

/* Whether a long stop meets an opener and data is chance: in a run that is judged by it, waited for. */
static bool goes_on(uint64_t now, uint64_t end)
{
	return now < end || (soak->seconds >= 60 && now < end + LOSS_MS * SOAK_MS && !somebody_lost());
}

static void run(void)
{
	uint64_t now = kt_now(), end = now + soak->seconds * 1000 * SOAK_MS, fault = now, stop = now;
	unsigned int i;

	for (; goes_on(now, end) && alive(now); now = kt_now()) {
		for (i = 0; i < SOAK_OWNERS; i++)
			let_run(i, now);
		if (now > fault) {
			fault = now + (1 + soak_roll(&seed, 2 * FAULT_MS * soak->slow)) * SOAK_MS;
			if (soak_roll(&seed, 2))
				kill_owner(SOAK_STEADY + soak_roll(&seed, SOAK_OWNERS - SOAK_STEADY));
			else
				stop_owner(soak_roll(&seed, SOAK_OWNERS));
		}
		if (now > stop) {
			stop = now + (1 + soak_roll(&seed, 2 * LONG_STOP_MS)) * SOAK_MS;
			atomic_store(&soak->owner[soak_roll(&seed, SOAK_OWNERS)].stop_wanted, true);
		}
		kt_sleep_ms(TICK_MS);
	}
}

/* The end */

static void wait_end(struct kt_call *call, const char *what, unsigned int i)
{
	if (!call || kt_call_done(call, (unsigned int)(SOAK_WAIT_NS / SOAK_MS)) != 1 || call->ret)
		soak_report(NULL, "%s %u does not end: %d", what, i, call ? call->ret : 0);
	if (call)
		kt_call_end(call);
}

static void nobody_has(struct soak_file *f)
{
	int fd;

	look_once(f);
	fd = open(f->path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_SETLEASE, F_WRLCK))
		soak_report(f, "somebody has it still: %s", strerror(errno));
	close(fd);
}

static void wind_up(void)
{
	unsigned int i;

	atomic_store(&soak->halt, true);
	for (i = 0; i < SOAK_OWNERS; i++) {
		atomic_store(&soak->owner[i].stop_wanted, false);
		runs(i);
		if (owners[i])
			kill(owners[i]->pid, SIGCONT);
	}
	for (i = 0; i < SOAK_OPENERS; i++)
		wait_end(openers[i], "opener", i);
	atomic_store(&soak->stop, true);
	for (i = 0; i < SOAK_OWNERS; i++)
		wait_end(owners[i], "owner", i);
	for (i = 0; i < SOAK_FILES; i++)
		nobody_has(&soak->file[i]);
}

static void is_flat(unsigned int i)
{
	struct soak_owner *o = &soak->owner[i];
	long fds = atomic_load(&o->fds), threads = atomic_load(&o->threads), rss = atomic_load(&o->rss_kib);

	printf("owner %u, %" PRIu64 " sessions: ", i, atomic_load(&o->sessions));
	printf("fds %ld, at most %ld; ", fds, atomic_load(&o->fds_max));
	printf("threads %ld, %ld; ", threads, atomic_load(&o->threads_max));
	printf("memory %ld KiB, %ld\n", rss, atomic_load(&o->rss_max));
	if (atomic_load(&o->fds_max) > fds || atomic_load(&o->threads_max) > threads ||
	    atomic_load(&o->rss_max) > rss + RSS_SLACK_KIB)
		soak_report(NULL, "owner %u grows", i);
}

static void show(const char *what, uint64_t n)
{
	printf("  %-42s %" PRIu64 "\n", what, n);
}

static void print_counts(void)
{
	show("leases", N(leases));
	show("  pinned", N(pinned));
	show("  refused, since somebody had the file", N(refused));
	show("breaks told", N(breaks));
	show("breaks answered", N(revoked));
	show("leases restored", N(restored));
	show("writes acknowledged", N(writes));
	show("  bytes", N(writes) * SOAK_BLOCK);
	show("  cut off", N(cut_off));
	show("  outrun by a break and a restore", N(outrun));
	show("    in the file", N(excused_outrun));
	show("syncs", N(syncs));
	show("changes of the owner's own", N(changes));
	show("opens", N(opens));
	show("  that would have blocked", N(busy));
	show("  longest wait, ms", N(blocked_max) / SOAK_MS);
	show("blocks written by openers", N(foreign));
	show("blocks punched by openers", N(punches));
	show("cuts and extensions", N(cuts));
	show("blocks judged", N(looked));
	show("survived: kills", N(killed));
	show("survived: stops", N(stopped) + N(stopped_long));
	show("  beyond lease-break-time", N(stopped_long));
	show("survived: children", N(forks));
	show("LOST told", N(lost));
	show("  blocks", N(lost_blocks));
	show("  of them not in the file", N(excused_lost));
	show("blocks of killed owners not in the file", N(excused_dead));
}

/* A run in which nothing happened proves nothing. */
static void happened(void)
{
	if (!N(breaks) || !N(revoked) || !N(restored) || !N(pinned) ||
	    N(writes) < (soak->rdma ? LEAST_RDMA : LEAST_NATIVE) || !N(looked) ||
	    !N(foreign) || !N(cuts) || !N(killed) || !(N(stopped) + N(stopped_long)) ||
	    !N(forks))
		soak_report(NULL, "too little has happened");
	if (soak->seconds >= 60 && !somebody_lost())
		soak_report(NULL, "nobody has lost anything");
}

static int verdict(void)
{
	uint64_t planted = atomic_load(&soak->file[0].violations), all = atomic_load(&soak->violations);

	printf("violations: %" PRIu64 "\n", all);
	if (!soak->plant)
		return all ? 1 : 0;
	printf("planted: %" PRIu64 " of them\n", planted);
	return planted && planted == all ? 0 : 1;
}

static bool parse(int argc, char **argv)
{
	int i;

	if (argc < 2 || (strcmp(argv[1], "native") && strcmp(argv[1], "rdma")))
		return false;
	soak->rdma = !strcmp(argv[1], "rdma");
	soak->seconds = pl_rounds(soak->rdma ? PL_R_soak_rdma_seconds : PL_R_soak_seconds);
	if (is_sanitized())
		soak->seconds /= SANITIZED_PART;
	soak->slow = soak->rdma ? 4 : 1;
	soak->blocks = soak->rdma ? SOAK_BLOCKS / 4 : SOAK_BLOCKS;
	soak->seed = (unsigned int)time(NULL);
	for (i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--plant"))
			soak->plant = true;
		else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
			soak->seed = (unsigned int)strtoul(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--seconds") && i + 1 < argc)
			soak->seconds = (unsigned int)strtoul(argv[++i], NULL, 0);
		else
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	struct kt_rdma rdma;
	int r;

	kt_init();
	soak = kt_shared(sizeof(*soak));
	if (!soak || !parse(argc, argv)) {
		fputs("usage: soak native|rdma [--seed N] [--seconds S] [--plant]\n", stderr);
		return 2;
	}
	if (geteuid())
		kt_skip("mounts file systems: needs root");
	if (soak->rdma && kt_rdma_open(&rdma))
		kt_skip("no RDMA device");
	if (soak->rdma)
		kt_rdma_close(&rdma);
	printf("seed %u, %u s\n", soak->seed, soak->seconds);
	seed = soak->seed;
	r = make_scene();
	if (r)
		soak_report(NULL, "no scene: %s", strerror(-r));
	else
		run();
	wind_up();
	print_counts();
	for (unsigned int i = 0; i < SOAK_STEADY; i++)
		is_flat(i);
	happened();
	return verdict();
}
