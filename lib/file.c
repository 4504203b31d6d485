/* SPDX-License-Identifier: BSD-3-Clause */
/* A file: one open file description, its guard, its anchor. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "culprit.h"
#include "lease.h"
#include "sys.h"

static int refuse(struct pinlease_why *why, uint32_t stage, uint32_t reason, int err)
{
	pl_why_set(why, stage, reason, err);
	return err;
}

/* Is fd open for what access and the guard need? */
static int file_check_fd(struct pinlease_file *file, struct pinlease_why *why)
{
	int flags = pl_sys_get_flags(file->fd), mode;

	if (flags < 0)
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_BAD_FD, flags);
	mode = flags & O_ACCMODE;
	if ((flags & O_PATH) || mode == O_WRONLY || (file->access == PINLEASE_WRITE && mode != O_RDWR))
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_BAD_FD, -EBADF);
	/* F_RDLCK on a descriptor open for writing is always refused (check_conflicting_open). */
	if (file->guard.ops == &pl_guard_lease && file->access == PINLEASE_READ && mode != O_RDONLY)
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_BAD_FD, -EBADF);
	file->appends = flags & O_APPEND;
	return 0;
}

static int file_find_guard(struct pinlease_file *file, uint32_t kind, struct pinlease_why *why)
{
	uint32_t reason = PINLEASE_WHY_NONE;
	int r;

	file->guard.fd = file->fd;
	file->guard.access = file->access;
	file->guard.signo = file->env->signo;
	file->guard.tid = file->env->breaker_tid;
	file->guard.trial = file->trial;
	file->guard.ops = pl_guard_find(&file->guard, kind, &file->id, &reason, &r);
	if (!file->guard.ops)
		return refuse(why, PINLEASE_AT_GUARD, reason, r);
	return 0;
}

/* Under a seal no writable mapping can be made later: the whole file is mapped first. */
static int file_map_base(struct pinlease_file *file, uint64_t size, struct pinlease_why *why)
{
	int r;

	file->came_sealed = pl_guard_came_sealed(file->fd);
	if (file->guard.ops != &pl_guard_seal)
		return 0;
	if (file->came_sealed && file->access == PINLEASE_WRITE)
		return 0;
	if (!size)
		return refuse(why, PINLEASE_AT_SIZE, PINLEASE_WHY_RANGE, -EINVAL);
	r = pl_filemap_new(file->fd, 0, size, file->access, &file->id, &file->base);
	return r ? refuse(why, PINLEASE_AT_MAP, PINLEASE_WHY_MEMORY, r) : 0;
}

static int file_take_guard(struct pinlease_file *file, struct pinlease_why *why)
{
	uint32_t reason = PINLEASE_WHY_NONE;
	int32_t pid = 0;
	int r;

	/* The lease of another ctx, or the application's own, on the same description: not ours to steal. */
	if (file->guard.ops == &pl_guard_lease) {
		r = pl_sys_get_lease(file->fd);
		if (r != F_UNLCK)
			return refuse(why, PINLEASE_AT_GUARD,
				      r < 0 ? PINLEASE_WHY_NO_LEASES : PINLEASE_WHY_LEASED,
				      r < 0 ? r : -EBUSY);
	}
	file->armed_ns = file->unbroken_ns = pl_sys_now();
	r = file->guard.ops->take(&file->guard, &reason);
	if (!r)
		return 0;
	if (reason == PINLEASE_WHY_OPENER)
		pl_culprit_find(&file->id, file->fd, &reason, &pid);
	if (reason == PINLEASE_WHY_NO_LEASES)
		r = -EOPNOTSUPP;
	refuse(why, PINLEASE_AT_GUARD, reason, r);
	if (why)
		why->pid = pid;
	return r;
}

static int file_anchor(struct pinlease_file *file, struct pinlease_why *why)
{
	int r;

	file->anchor = -1;
	if (!file->guard.ops->breaks || (file->flags & PINLEASE_F_NO_ANCHOR))
		return 0;
	r = pl_sys_anchor_new(file->fd, &file->anchor);
	if (!r) {
		file->fork.anchor = file->anchor;
		return 0;
	}
	file->anchor = -1;
	return refuse(why, PINLEASE_AT_ANCHOR,
		      r == -ENOMEM ? PINLEASE_WHY_MEMORY : PINLEASE_WHY_IN_FLIGHT_FDS, r);
}

static int file_init(struct pinlease_file *file, struct pl_env *env, int fd,
		     const struct pinlease_file_opts *opts)
{
	int r = pl_sys_cond_init(&file->cond);

	if (r)
		return r;
	pthread_mutex_init(&file->lock, NULL);
	pl_list_init(&file->leases);
	pl_list_init(&file->buried);
	pl_work_init(&file->work, PL_WORK_FILE);
	pl_work_init(&file->flush, PL_WORK_FLUSH);
	file->env = env;
	file->fork_gen = env->fork_gen;
	file->fd = fd;
	file->anchor = -1;
	file->access = opts->access ? opts->access : PINLEASE_WRITE;
	file->flags = opts->flags;
	file->trial = opts->flags & PL_F_TRIAL;
	file->state = PL_FILE_HELD;
	file->limit_ns = PL_NEVER;
	return 0;
}

static void file_free(struct pinlease_file *file)
{
	struct pl_list *pos, *next;
	struct pinlease *lease;

	pl_list_for_each_safe(pos, next, &file->buried) {
		lease = pl_container(pos, struct pinlease, link);
		pl_agenda_cancel(&file->env->agenda, &lease->work);
		pl_lease_destroy(lease);
	}
	if (file->base.addr)
		pl_filemap_free(&file->base);
	pl_disk_put(&file->env->disks, file->disk);
	pthread_cond_destroy(&file->cond);
	pthread_mutex_destroy(&file->lock);
	pl_sys_free(file);
}

/* Where nobody waits for us there is no time to keep. */
static int file_find_disk(struct pinlease_file *file, struct pinlease_why *why)
{
	if (!file->guard.ops->breaks || file->access != PINLEASE_WRITE)
		return 0;
	file->disk = pl_disk_get(&file->env->disks, file->id.dev);
	return file->disk ? 0 : refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_MEMORY, -ENOMEM);
}

static int file_set_up(struct pinlease_file *file, uint32_t kind, struct pinlease_why *why)
{
	uint32_t reason = PINLEASE_WHY_NONE;
	uint64_t size = 0;
	int r = pl_fileid_get(file->fd, &file->id, &size, &reason);

	if (r)
		return refuse(why, PINLEASE_AT_OPEN, reason, r);
	r = file_find_guard(file, kind, why);
	if (!r)
		r = file_find_disk(file, why);
	if (!r)
		r = file_check_fd(file, why);
	if (!r)
		r = file_map_base(file, size, why);
	if (!r)
		r = file_take_guard(file, why);
	if (r)
		return r;
	r = file_anchor(file, why);
	if (r) {
		file->guard.ops->let_go(&file->guard);
		return r;
	}
	return 0;
}

/* A name says nothing of what a seal or a device holds. */
static void file_watch(struct pinlease_file *file)
{
	int r;

	file->noticed.fd = -1;
	if (!file->guard.ops->changes)
		return;
	r = pl_notice_add(&file->env->notices, file->fd, &file->id, &file->noticed);
	if (r)
		pl_log_write(&file->env->log, 6, "file %p: renames will not be told (%d)", (void *)file, r);
}

void pl_file_notice(struct pl_noticed *who)
{
	struct pinlease_file *file = pl_container(who, struct pinlease_file, noticed);
	struct pinlease_event ev = { .type = PINLEASE_EV_NOTICE, .cause = PINLEASE_BY_NAMESPACE };
	struct pinlease *lease;
	struct pl_list *pos;

	pthread_mutex_lock(&file->lock);
	pl_list_for_each(pos, &file->leases) {
		lease = pl_container(pos, struct pinlease, link);
		ev.len = lease->now_len;
		if (pl_lease_state(lease) != PINLEASE_INIT)
			pl_lease_emit(lease, &ev);
	}
	pthread_mutex_unlock(&file->lock);
	pl_events_wake(&file->env->events);
}

/* Takes over fd on success only. */
static int file_new(struct pl_env *env, int fd, const struct pinlease_file_opts *opts,
		    struct pinlease_why *why, struct pinlease_file **out)
{
	struct pinlease_file *file = pl_sys_alloc(sizeof(*file));
	int r;

	if (!file)
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_MEMORY, -ENOMEM);
	r = file_init(file, env, fd, opts);
	if (r) {
		pl_sys_free(file);
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_MEMORY, r);
	}
	/* First of all: a thread that forks now must not leave its child with what will be the leased fd. */
	file->fork = (struct pl_fork_file){ .fd = fd, .anchor = -1 };
	pl_fork_file_add(&file->fork);
	r = file_set_up(file, opts->guard, why);
	if (r)
		goto free_file;
	/* The table is what the breaker finds the file by; a break before this is found by the slow pass. */
	r = pl_registry_add(&env->registry, fd, &file->registered);
	if (r) {
		refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_MEMORY, r);
		goto let_go;
	}
	file_watch(file);
	*out = file;
	return 0;
let_go:
	if (file->anchor >= 0)
		pl_sys_anchor_free(file->anchor);
	file->guard.ops->let_go(&file->guard);
free_file:
	pl_fork_file_remove(&file->fork);
	if (why)
		why->guard = file->guard.ops ? file->guard.ops->kind : opts->guard;
	file_free(file);
	return r;
}

/* Looked at through O_PATH first: opening a pipe would block, and a directory is to be named as one. */
static int file_look(const char *path, struct pinlease_why *why)
{
	uint32_t reason = PINLEASE_WHY_NONE;
	struct pl_fileid id;
	int fd = pl_sys_open(path, O_PATH), r;

	if (fd < 0)
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_OPEN, fd);
	r = pl_fileid_get(fd, &id, NULL, &reason);
	pl_sys_close(fd);
	return r ? pl_refuse(why, PINLEASE_AT_OPEN, reason, r) : 0;
}

int pl_file_open(struct pl_env *env, const char *path, const struct pinlease_file_opts *opts,
		 struct pinlease_why *why, struct pinlease_file **file)
{
	int flags = opts->access == PINLEASE_READ ? O_RDONLY : O_RDWR, fd, r;

	r = file_look(path, why);
	if (r)
		return r;
	fd = pl_sys_open(path, opts->flags & PL_F_NO_WAIT ? flags | O_NONBLOCK : flags);
	if (fd < 0)
		return refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_OPEN, fd);
	r = file_new(env, fd, opts, why, file);
	if (r)
		pl_sys_close(fd);
	return r;
}

int pl_file_attach(struct pl_env *env, int fd, const struct pinlease_file_opts *opts,
		   struct pinlease_why *why, struct pinlease_file **file)
{
	int own = pl_sys_dup(fd), r;

	if (own < 0)
		return pl_refuse(why, PINLEASE_AT_OPEN, PINLEASE_WHY_BAD_FD, own);
	r = file_new(env, own, opts, why, file);
	if (r)
		pl_sys_close(own);
	return r;
}

void pl_file_put(struct pinlease_file *file)
{
	if (pl_registry_put(&file->env->registry, &file->registered))
		file_free(file);
}

int pl_file_close(struct pinlease_file *file)
{
	bool mine;

	pthread_mutex_lock(&file->lock);
	if (!pl_list_empty(&file->leases)) {
		pthread_mutex_unlock(&file->lock);
		return -EBUSY;
	}
	pthread_mutex_unlock(&file->lock);
	pl_notice_remove(&file->env->notices, &file->noticed);
	pl_registry_remove(&file->env->registry, &file->registered);
	pl_agenda_cancel(&file->env->agenda, &file->work);
	pl_agenda_cancel(&file->env->agenda, &file->flush);
	pthread_mutex_lock(&file->lock);
	/* Explicitly: an attached description lives on in the application, and so would its lease. */
	mine = !pl_fileid_other(file->fd, &file->id);
	if (mine)
		pl_file_disarm(file);
	pl_fork_file_remove(&file->fork);
	if (mine)
		pl_sys_close(file->fd);
	if (file->anchor >= 0)
		pl_sys_anchor_free(file->anchor);
	pthread_mutex_unlock(&file->lock);
	pl_file_put(file);
	return 0;
}

void pl_file_get_info(struct pinlease_file *file, struct pinlease_file_info *info)
{
	struct pl_list *pos;

	pthread_mutex_lock(&file->lock);
	info->state = (uint32_t)file->state;
	info->guard = file->guard.ops->kind;
	info->access = file->access;
	info->flags = file->flags;
	info->fd = file->fd;
	info->anchored = file->anchor >= 0;
	pl_list_for_each(pos, &file->leases)
		info->leases++;
	info->cause = file->cause;
	info->breaks = file->breaks;
	pthread_mutex_unlock(&file->lock);
}
