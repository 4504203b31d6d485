/* SPDX-License-Identifier: BSD-3-Clause */
/* The sender: one file, over as many connections as it takes. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "dial.h"
#include "sender.h"

#define READERS	     2u
#define BACK_OFF_MS  100u
#define BACK_OFF_MAX 3200u

static int fail(struct copy *copy, const char *what, const char *why)
{
	snprintf(copy->counts.error, sizeof(copy->counts.error), "%.120s: %.120s", what, why);
	return -ECANCELED;
}

static volatile sig_atomic_t interrupted; /* by this signal */

static void interrupt(int signal)
{
	interrupted = signal;
}

bool copy_interrupted(void)
{
	return interrupted;
}

/* What waits is woken, by EINTR or by its own time; the second time the signal does what it does. */
static void catch_signals(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = interrupt, .sa_flags = (int)SA_RESETHAND }, was;
	size_t i;

	for (i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		if (!sigaction(signals[i], NULL, &was) && was.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
}

static void introduce(struct copy *copy)
{
	const struct send_options *options = copy->options;
	const char *slash = strrchr(options->file, '/');
	struct hello *hello = &copy->hello;

	if (getrandom(hello->id, sizeof(hello->id), 0) != sizeof(hello->id))
		memset(hello->id, 0, sizeof(hello->id));
	hello->data = copy->source.data;
	hello->mode = copy->source.st.st_mode & 07777;
	hello->flags = options->preserve ? HELLO_PRESERVE : 0;
	hello->mtime_s = copy->source.st.st_mtim.tv_sec;
	hello->mtime_ns = (uint32_t)copy->source.st.st_mtim.tv_nsec;
	snprintf(hello->path, sizeof(hello->path), "%s", options->path);
	snprintf(hello->name, sizeof(hello->name), "%s", slash ? slash + 1 : options->file);
}

static int prepare(struct copy *copy)
{
	int r = source_open(&copy->source, copy->options->file);
	void *map;

	if (r)
		return fail(copy, copy->options->file, r == -EINVAL ? "not a regular file" : strerror(-r));
	introduce(copy);
	copy->counts.size = copy->source.size;
	copy->counts.data = copy->source.data;
	copy->known = calloc(copy->source.chunks + 1, sizeof(*copy->known));
	map = mmap(NULL, (size_t)WINDOW * CHUNK_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	copy->buffers = map == MAP_FAILED ? NULL : map;
	if (!copy->known || !copy->buffers)
		return fail(copy, copy->options->file, strerror(ENOMEM));
	r = pool_new(READERS, &copy->pool);
	return r ? fail(copy, "threads", strerror(-r)) : 0;
}

/* One connection, from its making to its end. 0, -ECANCELED: over; else it may be tried again. */
static int once(struct copy *copy)
{
	struct conn conn = { .lost = false };
	struct rdma_event_channel *events = NULL;
	char why[DIAL_WHY] = "";
	int r;

	sender_callbacks(&conn);
	r = dial(copy->options->host, copy->options->port, &conn, &events, why);
	if (r) {
		/* Nobody there, at the first try: then there is nothing to wait for. */
		if ((!copy->counts.connections && !interrupted) || r == -EPROTO || r == -EPROTONOSUPPORT)
			return fail(copy, copy->options->host, why);
		return r;
	}
	copy->counts.connections++;
	r = sender_run(copy, &conn, events);
	conn_free(&conn);
	rdma_destroy_event_channel(events);
	return r;
}

static void sleep_ms(uint32_t ms)
{
	const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	nanosleep(&ts, NULL);
}

/* With back-off, for as long as the user wants since there was progress last. */
static int until_done(struct copy *copy)
{
	uint64_t patience = (uint64_t)copy->options->retry_s * 1000000000u, moved;
	uint32_t wait = BACK_OFF_MS;
	bool told = false;
	int r;

	copy->moved_ns = moved = now_ns();
	while ((r = once(copy)) && r != -ECANCELED) {
		if (interrupted)
			return fail(copy, copy->options->to,
				    "interrupted; the same command goes on from here");
		if (copy->moved_ns != moved) {
			moved = copy->moved_ns;
			wait = BACK_OFF_MS;
			told = false;
		}
		if (now_ns() - moved > patience)
			return fail(copy, copy->options->to,
				    "the connection is lost; the same command goes on from here");
		if (!told && !copy->options->quiet)
			say("%s: connection lost, trying again", copy->options->to);
		told = true;
		progress_show(&copy->counts, "connecting");
		sleep_ms(wait);
		wait = wait * 2 > BACK_OFF_MAX ? BACK_OFF_MAX : wait * 2;
	}
	return r;
}

int send_file(const struct send_options *options)
{
	struct copy *copy = calloc(1, sizeof(*copy));
	int r;

	if (!copy) {
		say("%s", strerror(ENOMEM));
		return STATUS_FAILED;
	}
	copy->options = options;
	copy->source.fd = -1;
	progress_start(options->file, options->quiet);
	catch_signals();
	copy->counts.start_ns = now_ns();
	r = prepare(copy);
	if (!r)
		r = until_done(copy);
	copy->counts.end_ns = now_ns();
	if (interrupted && !r)
		interrupted = 0;
	if (r)
		say("%s", copy->counts.error);
	progress_end(options, &copy->counts);
	pool_free(copy->pool);
	source_close(&copy->source);
	if (copy->buffers)
		munmap(copy->buffers, (size_t)WINDOW * CHUNK_BYTES);
	free(copy->known);
	free(copy);
	/* As a shell expects it of what was interrupted. */
	if (interrupted && !fflush(stdout))
		raise(interrupted);
	return r ? STATUS_FAILED : STATUS_OK;
}
