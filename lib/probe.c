/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <infiniband/verbs.h>

#include "backend.h"
#include "lease.h"
#include "probe.h"
#include "sys.h"

/* What a registration for reading may not have. */
#define IBV_READS                                                                                  \
	(~(uint32_t)(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC | \
		     IBV_ACCESS_MW_BIND))
/* A provider that will not deregister what was registered a moment ago is asked again so often. */
#define RELEASE_TRIES 3

struct probe {
	struct pl_env *env;
	const char *path; /* NULL: fd */
	int fd;
	const struct pinlease_probe_opts *opts;
	struct pinlease_why *why;
};

/* Who would be disturbed? */
struct held {
	struct pl_fileid id;
	bool reads_only; /* the file would be opened for reading only */
	pid_t pid;
};

/* A lease for reading lets readers pass. */
static int held_each(void *arg, const struct pl_sys_lease *lease)
{
	const struct pl_sys_mapping file = { .dev = lease->dev, .ino = lease->ino };
	struct held *h = arg;

	if (!pl_filemap_is(&file, &h->id) || (lease->reads && h->reads_only))
		return 0;
	h->pid = lease->pid;
	return 1;
}

/*
 * Before anything is opened: O_PATH is no open in the sense of leases. A lease that was taken
 * in another pid namespace, or by a process that has ended, is not listed in /proc/locks;
 * hence also O_NONBLOCK in the opens that follow (PL_F_NO_WAIT).
 */
static int probe_look(const struct probe *p)
{
	bool force = p->opts->flags & PINLEASE_PROBE_FORCE;
	struct held h = { .reads_only = p->opts->access == PINLEASE_READ };
	uint32_t reason = PINLEASE_WHY_NONE;
	int fd = p->path ? pl_sys_open(p->path, O_PATH) : p->fd, r;

	if (fd < 0) {
		pl_why_set(p->why, PINLEASE_AT_OPEN, p->path ? PINLEASE_WHY_OPEN : PINLEASE_WHY_BAD_FD, fd);
		return p->path ? fd : -EBADF;
	}
	r = pl_fileid_get(fd, &h.id, NULL, &reason);
	if (r)
		pl_why_set(p->why, PINLEASE_AT_OPEN, reason, r);
	if (p->path)
		pl_sys_close(fd);
	/* An fd is open already: nothing is opened, and a lease that stands beside it stays. */
	if (r || force || !p->path || pl_sys_each_lease(held_each, &h) <= 0)
		return r;
	pl_refuse(p->why, PINLEASE_AT_GUARD, PINLEASE_WHY_WOULD_BREAK, -EBUSY);
	if (p->why)
		p->why->pid = h.pid;
	return -EBUSY;
}

static int probe_open(const struct probe *p, uint32_t guard, uint32_t access, struct pinlease_why *why,
		      struct pinlease_file **file)
{
	struct pinlease_file_opts o = {
		.size = sizeof(o),
		.access = access,
		.guard = guard,
		.flags = p->opts->file_flags | PL_F_TRIAL,
	};

	if (!(p->opts->flags & PINLEASE_PROBE_FORCE))
		o.flags |= PL_F_NO_WAIT;
	return p->path ? pl_file_open(p->env, p->path, &o, why, file)
		       : pl_file_attach(p->env, p->fd, &o, why, file);
}

/* The range that is asked for: a page, or what there is of one, unless the caller has said more. */
static uint64_t probe_len(const struct probe *p, const struct pinlease_file *file)
{
	uint64_t off = p->opts->off, len = p->opts->len, size;

	if (len || pl_fileid_size(file->fd, &file->id, &size))
		return len;
	return size > off ? pl_min_u64(file->id.page, size - off) : file->id.page;
}

static int probe_release(struct pinlease *lease, struct pinlease_why *why)
{
	int r, i;

	for (i = 0, r = -EBUSY; i < RELEASE_TRIES && r; i++)
		r = pl_lease_release(lease);
	return r ? pl_refuse(why, PINLEASE_AT_REGISTER, PINLEASE_WHY_DEREG, -EBUSY) : 0;
}

/* Acquires and releases. *err: what acquire said. Fails only if the lease cannot be got rid of. */
static int probe_acquire(const struct probe *p, struct pinlease_file *file, uint32_t mode, int32_t *err,
			 struct pinlease_why *why, struct pinlease_lease_info *info)
{
	uint32_t reads = file->access == PINLEASE_READ ? IBV_READS : UINT32_MAX;
	struct pinlease_opts o = {
		.size = sizeof(o),
		.pd = p->opts->pd,
		.mode = mode,
		.ibv_access = p->opts->ibv_access & reads,
		.backend = p->opts->backend,
		.backend_arg = p->opts->backend_arg,
	};
	struct pinlease *lease;

	*err = pl_lease_acquire(file, p->opts->off, probe_len(p, file), &o, why, &lease);
	if (*err)
		return 0;
	pl_lease_get_info(lease, info);
	return probe_release(lease, p->why);
}

/* With a lease still there, which nobody but us knows of, the file has to stay. */
static void probe_close(struct pinlease_file *file)
{
	if (!pl_file_close(file))
		return;
	pthread_mutex_lock(&file->lock);
	file->abandoned = true;
	pthread_mutex_unlock(&file->lock);
}

static void clean_file(void *arg, struct pl_registered *obj)
{
	struct pinlease_file *file = pl_container(obj, struct pinlease_file, registered);
	struct pinlease *lease = NULL;
	bool abandoned;

	(void)arg;
	pthread_mutex_lock(&file->lock);
	abandoned = file->abandoned;
	if (abandoned && !pl_list_empty(&file->leases))
		lease = pl_container(file->leases.next, struct pinlease, link);
	pthread_mutex_unlock(&file->lock);
	if (abandoned) {
		/* An orphan is tried again by itself. */
		if (lease && !lease->orphan)
			pl_lease_release(lease);
		pl_file_close(file);
	}
	pl_file_put(file);
}

void pl_probe_clean(struct pl_env *env)
{
	pl_registry_each(&env->registry, clean_file, NULL);
}

/* The modes under one guard, for one access. */
static int probe_guard(const struct probe *p, uint32_t guard, uint32_t access,
		       struct pinlease_probe_result *out)
{
	struct pinlease_lease_info info;
	struct pinlease_probe_cell *cell;
	struct pinlease_why why = { .stage = 0 };
	struct pinlease_file *file = NULL;
	int err = probe_open(p, guard, access, &why, &file), r = 0;
	uint32_t mode;

	for (mode = PINLEASE_MODE_PINNED; mode <= PINLEASE_MODE_STAGED && !r; mode++) {
		cell = &out->cell[out->count++];
		*cell = (struct pinlease_probe_cell){ .guard = guard, .mode = mode, .access = access };
		if (err) {
			cell->err = err;
			cell->why = why;
		} else {
			r = probe_acquire(p, file, mode, &cell->err, &cell->why, &info);
		}
	}
	if (file)
		probe_close(file);
	return r;
}

static int probe_auto(const struct probe *p, uint32_t access, struct pinlease_probe_auto *out)
{
	struct pinlease_lease_info info;
	struct pinlease_file *file;
	int r;

	out->access = access;
	out->err = probe_open(p, PINLEASE_GUARD_AUTO, access, &out->why, &file);
	if (out->err)
		return 0;
	r = probe_acquire(p, file, PINLEASE_MODE_AUTO, &out->err, &out->why, &info);
	if (!r && !out->err) {
		out->guard = info.guard;
		out->mode = info.mode;
		out->mode_reason = info.mode_reason;
	}
	probe_close(file);
	return r;
}

static int probe_access(const struct probe *p, uint32_t access, struct pinlease_probe_result *out)
{
	uint32_t guard;
	int r = 0;

	if (p->opts->access && p->opts->access != access)
		return 0;
	for (guard = PINLEASE_GUARD_LEASE; guard <= PINLEASE_GUARD_NONE && !r; guard++)
		r = probe_guard(p, guard, access, out);
	if (r)
		return r;
	return probe_auto(p, access, access == PINLEASE_READ ? &out->auto_read : &out->auto_write);
}

/* What AUTO goes by. */
static void probe_odp(const struct probe *p, struct pinlease_probe_result *out)
{
	out->odp_err = -EOPNOTSUPP;
	out->odp_reason = PINLEASE_WHY_NO_ODP;
	if (!p->opts->pd)
		return;
	out->odp_err = pl_backend_odp.capable(p->opts->pd, NULL, &out->odp_reason);
	if (!out->odp_err)
		out->odp_reason = PINLEASE_WHY_NONE;
}

int pl_probe(struct pl_env *env, const char *path, int fd, const struct pinlease_probe_opts *opts,
	     struct pinlease_why *why, struct pinlease_probe_result *out)
{
	const struct probe p = { .env = env, .path = path, .fd = fd, .opts = opts, .why = why };
	int r = probe_look(&p);

	if (!r)
		r = probe_access(&p, PINLEASE_READ, out);
	if (!r)
		r = probe_access(&p, PINLEASE_WRITE, out);
	probe_odp(&p, out);
	if (!pl_account_has_membarrier())
		out->flags |= PINLEASE_PROBE_NO_MEMBARRIER;
	return r;
}
