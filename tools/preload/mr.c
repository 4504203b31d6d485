/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A memory region over mapped files, with a lease for each of them.
 *
 * The region is the program's: made by its own call, with its flags, over its mapping, after
 * all leases are held. To libpinlease it is a backend of our own (PINLEASE_BACKEND_OWN_MR),
 * whose unpin, the fence, deregisters it, at the first lease that is broken. The provider
 * frees its struct ibv_mr then, so the program has a copy, which stays readable until its
 * own ibv_dereg_mr: that answers 0, the keys are dead, and what is posted with them ends in
 * an error.
 *
 *	LEASING ── all held, the call made ──▶ LIVE ── broken ──▶ DEAD
 *	   └── broken before the call: released, and begun again      either ── ibv_dereg_mr ──▶ gone
 *
 * revoke fences at once. hold counts the region as an operation in flight, from the lease's
 * acquisition to the program's ibv_dereg_mr: the library's drain, and its deadline, do the rest.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "preload.h"

#define MR_ROOM	   (64u << 10)
#define MR_TRIES   3 /* breaks between leasing and registering, before it is left alone */
#define MR_TRAILER 8 /* of struct verbs_mr, behind struct ibv_mr: type and access, which bind_mw reads */
#define MR_WRITES  (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

struct mr;

struct mr_part {
	struct mr *mr;
	struct pre_part map;
	struct pre_file *file;	/* written under mrs.lock */
	struct pinlease *lease;
	uint32_t gen;
	bool held;	/* hold: begun; under mrs.lock */
};

struct mr {
	union {
		struct ibv_mr mr; /* what the program has */
		char room[sizeof(struct ibv_mr) + MR_TRAILER];
	} seen;
	struct mr *next;	/* of those in use, or of the free */
	pthread_mutex_t lock;
	struct ibv_mr *real;	/* NULL: not yet, or dead */
	bool broken;
	int parts;
	struct mr_part part[];
};

#define MR_SIZE (sizeof(struct mr) + PRE_PARTS * sizeof(struct mr_part))

struct pre_mr_slots pre_mr_slots;

/* The lock is held over pinlease_dma_begin and _dma_end, which wait for nobody. */
static struct {
	pthread_mutex_t lock;
	size_t used;
	struct mr *free, *list;
} mrs = { .lock = PTHREAD_MUTEX_INITIALIZER };

bool pre_mr_init(void)
{
	pre_mr_slots.start = pre_reserve(MR_ROOM * MR_SIZE);
	if (pre_mr_slots.start)
		pre_mr_slots.size = MR_ROOM * MR_SIZE;
	return pre_mr_slots.start;
}

/* Whole before it is on the list, which others walk (parts_each). */
static struct mr *mr_take(const struct pre_part *maps, int parts)
{
	struct mr *mr = NULL;
	int i;

	pthread_mutex_lock(&mrs.lock);
	if (mrs.free) {
		mr = mrs.free;
		mrs.free = mr->next;
	} else if (mrs.used < MR_ROOM) {
		mr = (struct mr *)(void *)(pre_mr_slots.start + mrs.used++ * MR_SIZE);
	}
	if (mr) {
		memset(mr, 0, MR_SIZE);
		pthread_mutex_init(&mr->lock, NULL);
		mr->parts = parts;
		for (i = 0; i < parts; i++)
			mr->part[i] = (struct mr_part){ .mr = mr, .map = maps[i] };
		mr->next = mrs.list;
		mrs.list = mr;
	}
	pthread_mutex_unlock(&mrs.lock);
	return mr;
}

static void mr_give(struct mr *mr)
{
	struct mr **at;

	pthread_mutex_lock(&mrs.lock);
	for (at = &mrs.list; *at != mr;)
		at = &(*at)->next;
	*at = mr->next;
	mr->next = mrs.free;
	mrs.free = mr;
	pthread_mutex_unlock(&mrs.lock);
}

static int mr_pin(void *arg, const struct pinlease_pin *pin, struct pinlease_handle *handle)
{
	(void)arg;
	(void)pin;
	(void)handle;
	return 0;
}

/* errno, or its number: libibverbs has both ways. */
static int real_dereg(struct ibv_mr *real)
{
	int r;

	errno = 0;
	pre_inside++;
	r = pre_next.dereg_mr(real);
	pre_inside--;
	return r < 0 ? errno : r;
}

/*
 * From a thread of the library when a break is answered; from ours in a release, when the
 * region is gone, or was never made.
 */
static int mr_unpin(void *arg, struct pinlease_handle *handle)
{
	struct mr_part *part = arg;
	struct mr *mr = part->mr;
	char name[256];
	int r = 0;

	(void)handle;
	pthread_mutex_lock(&mr->lock);
	if (mr->real)
		r = real_dereg(mr->real);
	if (!r && mr->real) {
		pre_fd_name(part->map.fd, name, sizeof(name));
		pre_say("%s is about to change: its memory region, lkey 0x%x, rkey 0x%x, is gone", name,
			mr->seen.mr.lkey, mr->seen.mr.rkey);
	}
	if (!r) {
		mr->real = NULL;
		mr->broken = true;
	}
	pthread_mutex_unlock(&mr->lock);
	return -r;
}

static const struct pinlease_backend mr_backend = {
	.version = PINLEASE_BACKEND_VERSION,
	.flags = PINLEASE_BACKEND_OWN_MR,
	.name = "preload",
	.pin = mr_pin,
	.unpin = mr_unpin,
};

/* hold: the region is an operation in flight. mrs.lock, since a change of the program's own ends it, too. */
static int part_hold(struct mr_part *part)
{
	int r = 0;

	pthread_mutex_lock(&mrs.lock);
	if (pre_config.policy == PRE_HOLD && part->lease && !part->held) {
		r = pinlease_dma_begin(part->lease, 1, &part->gen);
		part->held = !r;
	}
	pthread_mutex_unlock(&mrs.lock);
	return r;
}

static void part_end(struct mr_part *part)
{
	if (part->held)
		pinlease_dma_end(part->lease, 1, part->gen);
	part->held = false;
}

/* Each part of a region in use that is over this file. */
static void parts_each(const struct pre_file *file, void (*fn)(struct mr_part *part))
{
	struct mr *mr;
	int i;

	for (mr = mrs.list; mr; mr = mr->next)
		for (i = 0; i < mr->parts; i++)
			if (mr->part[i].file == file)
				fn(&mr->part[i]);
}

void pre_mr_yield(const struct pre_file *file)
{
	pthread_mutex_lock(&mrs.lock);
	parts_each(file, part_end);
	pthread_mutex_unlock(&mrs.lock);
}

static int part_attach(struct mr_part *part, struct pinlease_why *why)
{
	struct pre_file *file;
	int r = pre_file_get(part->map.fd, why, &file);

	if (r)
		return r;
	pthread_mutex_lock(&mrs.lock);
	part->file = file;
	pthread_mutex_unlock(&mrs.lock);
	return 0;
}

static int part_size(const struct mr_part *part, uint64_t *size)
{
	struct stat st;

	if (fstat(part->map.fd->fd, &st))
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

/*
 * Whole pages, to the end of the file at most. For writing if a device may write: populating
 * would make clean pages dirty for the others.
 */
static int part_acquire(struct mr_part *part, const struct pre_ask *ask, struct pinlease_why *why)
{
	struct pinlease_opts opts = { .size = sizeof(opts), .pd = ask->pd, .mode = PINLEASE_MODE_PINNED };
	uintptr_t page = part->map.fd->page, start = part->map.start / page * page;
	uint64_t off = part->map.off - (part->map.start - start), len = part->map.end - start, size = 0;
	bool writable = part->map.fd->writable;
	int r = part_size(part, &size);

	if (r)
		return r;
	if (off + len > size)
		len = size > off ? size - off : 0;
	opts.access = writable && (ask->access & MR_WRITES) ? PINLEASE_WRITE : PINLEASE_READ;
	opts.flags = PINLEASE_L_MANUAL;
	/* A pin over a hole would not see who writes there later; before 6.5 it fills them, too. */
	if (writable && opts.access == PINLEASE_READ)
		opts.flags |= PINLEASE_L_HOLE_FILL;
	opts.addr = (void *)start;
	opts.deadline_ms = pre_config.deadline_ms;
	opts.backend = &mr_backend;
	opts.backend_arg = part;
	r = pinlease_acquire(part->file->file, off, len, &opts, why, &part->lease);
	if (r)
		return r;
	why->reason = PINLEASE_WHY_BROKEN;
	return part_hold(part);
}

/* Answers false if it is still there, with the region's slot as its argument. */
static bool part_release(struct mr_part *part)
{
	int tries, r = -EBUSY;

	if (!part->lease)
		return true;
	pthread_mutex_lock(&mrs.lock);
	part_end(part);
	pthread_mutex_unlock(&mrs.lock);
	/* A second one gives up what the first could not keep. */
	for (tries = 0; tries < 2 && r; tries++)
		r = pinlease_release(part->lease);
	if (!r)
		part->lease = NULL;
	return !r;
}

static bool mr_unlease(struct mr *mr)
{
	bool gone = true;
	int i;

	for (i = 0; i < mr->parts; i++)
		gone &= part_release(&mr->part[i]);
	return gone;
}

static int mr_lease(struct mr *mr, const struct pre_ask *ask, struct pinlease_why *why, int *at)
{
	struct mr_part *part;
	int i, r = 0;

	for (i = 0; !r && i < mr->parts; i++) {
		part = &mr->part[i];
		*why = (struct pinlease_why){ .reason = PINLEASE_WHY_NONE };
		*at = i;
		if (!part->file)
			r = part_attach(part, why);
		if (!r)
			r = part_acquire(part, ask, why);
	}
	return r;
}

static void mr_drop(struct mr *mr)
{
	int i;

	if (!mr_unlease(mr)) {
		pre_say("a lease cannot be released: it stays");
		return;
	}
	for (i = 0; i < mr->parts; i++) {
		if (mr->part[i].file)
			pre_file_put(mr->part[i].file);
		pre_fd_put(mr->part[i].map.fd);
	}
	mr_give(mr);
}

/* Once for each file and reason: programs register again and again. */
static void say_bare(const struct mr_part *part, int r, const struct pinlease_why *why)
{
	uint64_t bit = 1ull << why->reason % 64;
	char name[256], who[32] = "";

	if (atomic_fetch_or(&part->map.fd->told, bit) & bit)
		return;
	pre_fd_name(part->map.fd, name, sizeof(name));
	if (why->pid)
		snprintf(who, sizeof(who), ", process %d", (int)why->pid);
	pre_say("%s: registered without a lease: %s (%s%s)", name, pinlease_reason_str(why->reason),
		strerror(-r), who);
}

static void say_refused(const struct mr *mr)
{
	int saved = errno;
	char name[256];

	pre_fd_name(mr->part[0].map.fd, name, sizeof(name));
	pre_say("%s: registering it is refused, as it is without a lease: %s", name, strerror(saved));
	errno = saved;
}

static void tell_leased(const struct mr *mr)
{
	char name[256];
	int i;

	for (i = 0; pre_config.verbose && i < mr->parts; i++) {
		pre_fd_name(mr->part[i].map.fd, name, sizeof(name));
		pre_tell("%s: leased from %llu, %zu bytes, lkey 0x%x, rkey 0x%x", name,
			 (unsigned long long)mr->part[i].map.off,
			 (size_t)(mr->part[i].map.end - mr->part[i].map.start), mr->seen.mr.lkey,
			 mr->seen.mr.rkey);
	}
}

enum made { MADE_NOT, MADE_LEASED, MADE_REFUSED };

/* All leases are held: the region is made, unless one has been broken meanwhile. */
static enum made mr_make(struct mr *mr, const struct pre_ask *ask)
{
	enum made made = MADE_NOT;

	pthread_mutex_lock(&mr->lock);
	if (!mr->broken) {
		mr->real = ask->make(ask);
		made = mr->real ? MADE_LEASED : MADE_REFUSED;
	}
	if (made == MADE_LEASED)
		memcpy(&mr->seen, mr->real, sizeof(mr->seen));
	pthread_mutex_unlock(&mr->lock);
	return made;
}

static enum made mr_try(struct mr *mr, const struct pre_ask *ask)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	enum made made = MADE_NOT;
	int tries, r = 0, at = 0, saved;

	for (tries = 0; tries < MR_TRIES; tries++) {
		r = mr_lease(mr, ask, &why, &at);
		if (!r)
			made = mr_make(mr, ask);
		saved = errno;
		if (made == MADE_LEASED)
			return made;
		/* After this nobody calls unpin. */
		if (!mr_unlease(mr))
			return MADE_NOT;
		mr->broken = false;
		errno = saved;
		if (made == MADE_REFUSED)
			return made;
		if (r && why.reason != PINLEASE_WHY_BROKEN)
			break;
	}
	say_bare(&mr->part[at], r ? r : -EAGAIN, &why);
	return made;
}

static struct mr *mr_of(const struct pre_ask *ask)
{
	struct pre_part parts[PRE_PARTS];
	int n = pre_maps_find(ask->addr, ask->len, parts, PRE_PARTS), i;
	struct mr *mr = n > 0 ? mr_take(parts, n) : NULL;

	if (n < 0)
		pre_say("a memory region spans more than %d files: registered without a lease", PRE_PARTS);
	for (i = 0; !mr && i < n; i++)
		pre_fd_put(parts[i].fd);
	return mr;
}

struct ibv_mr *pre_mr_new(const struct pre_ask *ask)
{
	struct mr *mr = mr_of(ask);
	enum made made = MADE_NOT;
	int saved;

	if (!mr)
		return ask->make(ask);
	pre_inside++;
	made = mr_try(mr, ask);
	saved = errno;
	if (made == MADE_REFUSED)
		say_refused(mr);
	if (made == MADE_LEASED)
		tell_leased(mr);
	else
		mr_drop(mr);
	pre_inside--;
	errno = saved;
	if (made == MADE_NOT)
		return ask->make(ask);
	return made == MADE_LEASED ? &mr->seen.mr : NULL;
}

/* What the real one refuses (a window is bound) stays leased; a dead one is freed. */
int pre_mr_free(struct ibv_mr *seen)
{
	struct mr *mr = (struct mr *)(void *)seen;
	int r = 0;

	pthread_mutex_lock(&mr->lock);
	if (mr->real)
		r = real_dereg(mr->real);
	if (!r)
		mr->real = NULL;
	pthread_mutex_unlock(&mr->lock);
	if (r)
		return r;
	pre_inside++;
	mr_drop(mr);
	pre_inside--;
	return 0;
}

/* The regions are the parent's: here ibv_dereg_mr frees a copy. */
void pre_mr_child(void)
{
	struct mr *mr;

	for (mr = mrs.list; mr; mr = mr->next) {
		mr->real = NULL;
		mr->parts = 0;
		mr->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
	}
	mrs.lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}
