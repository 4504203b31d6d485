/* SPDX-License-Identifier: BSD-3-Clause */
/* Layer 8: the public functions; arguments are checked and normalised here, once. */
#include <errno.h>

#include "api_export.h"
#include "ctx.h"
#include "lease.h"
#include "opts.h"
#include "probe.h"
#include "sys.h"

#define FILE_FLAGS PINLEASE_F_NO_ANCHOR

PL_API int pinlease_ctx_new(const struct pinlease_ctx_opts *opts, struct pinlease_ctx **ctx)
{
	struct pinlease_ctx_opts o;
	int r;

	if (!ctx)
		return -EINVAL;
	r = pl_opts_in(&o, sizeof(o), sizeof(o), opts);
	if (r)
		return r;
	if (o.flags)
		return -EINVAL;
	return pl_ctx_new(&o, ctx);
}

PL_API int pinlease_ctx_free(struct pinlease_ctx *ctx)
{
	return ctx ? pl_ctx_free(ctx) : 0;
}

PL_API int pinlease_ctx_fd(const struct pinlease_ctx *ctx)
{
	if (!ctx)
		return -EINVAL;
	return pl_forked(ctx->env.fork_gen) ? -ECHILD : ctx->env.events.fd;
}

PL_API int pinlease_ctx_next_event(struct pinlease_ctx *ctx, struct pinlease_event *ev)
{
	struct pinlease_event e = { .size = sizeof(e) };
	int r;

	if (!ctx || !ev || !pl_opts_fits(sizeof(e), ev))
		return -EINVAL;
	if (pl_forked(ctx->env.fork_gen))
		return -ECHILD;
	r = pl_ctx_next_event(ctx, &e);
	if (r > 0)
		pl_opts_out(&e, sizeof(e), sizeof(e), ev);
	return r;
}

static int file_opts(const struct pinlease_file_opts *opts, struct pinlease_file_opts *o,
		     struct pinlease_why *why)
{
	int r = pl_opts_in(o, sizeof(*o), sizeof(*o), opts);

	if (r)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_OPTS_SIZE, r);
	if (o->access > PINLEASE_WRITE || o->guard > PINLEASE_GUARD_NONE || (o->flags & ~FILE_FLAGS) ||
	    o->reserved)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	return 0;
}

PL_API int pinlease_file_open(struct pinlease_ctx *ctx, const char *path,
			      const struct pinlease_file_opts *opts, struct pinlease_why *why,
			      struct pinlease_file **file)
{
	struct pinlease_file_opts o;
	int r;

	if (!ctx || !path || !file)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	if (pl_forked(ctx->env.fork_gen))
		return -ECHILD;
	r = file_opts(opts, &o, why);
	return r ? r : pl_file_open(&ctx->env, path, &o, why, file);
}

PL_API int pinlease_file_attach(struct pinlease_ctx *ctx, int fd, const struct pinlease_file_opts *opts,
				struct pinlease_why *why, struct pinlease_file **file)
{
	struct pinlease_file_opts o;
	int r;

	if (!ctx || !file)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	if (pl_forked(ctx->env.fork_gen))
		return -ECHILD;
	r = file_opts(opts, &o, why);
	return r ? r : pl_file_attach(&ctx->env, fd, &o, why, file);
}

PL_API int pinlease_file_close(struct pinlease_file *file)
{
	if (!file)
		return 0;
	if (pl_forked(file->fork_gen)) {
		pl_sys_free(file);
		return 0;
	}
	return pl_file_close(file);
}

PL_API int pinlease_file_truncate(struct pinlease_file *file, uint64_t len)
{
	if (!file)
		return -EINVAL;
	return pl_forked(file->fork_gen) ? -ECHILD : pl_file_truncate(file, len);
}

PL_API int pinlease_file_allocate(struct pinlease_file *file, int mode, uint64_t off, uint64_t len)
{
	if (!file)
		return -EINVAL;
	return pl_forked(file->fork_gen) ? -ECHILD : pl_file_allocate(file, mode, off, len);
}

PL_API int pinlease_acquire(struct pinlease_file *file, uint64_t off, uint64_t len,
			    const struct pinlease_opts *opts, struct pinlease_why *why,
			    struct pinlease **lease)
{
	struct pinlease_opts o;
	int r;

	if (!file || !lease)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	if (pl_forked(file->fork_gen))
		return -ECHILD;
	r = pl_opts_in(&o, sizeof(o), sizeof(o), opts);
	if (r)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_OPTS_SIZE, r);
	return pl_lease_acquire(file, off, len, &o, why, lease);
}

PL_API int pinlease_release(struct pinlease *lease)
{
	if (!lease)
		return 0;
	if (pl_forked(lease->fork_gen)) {
		pl_lease_forget(lease);
		return 0;
	}
	return pl_lease_release(lease);
}

PL_API int pinlease_restore(struct pinlease *lease, struct pinlease_why *why)
{
	if (!lease)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_restore(lease, why);
}

PL_API int pinlease_mr_add(struct pinlease *lease, struct ibv_pd *pd, uint32_t ibv_access, uint32_t *index)
{
	if (!lease || !pd || !index)
		return -EINVAL;
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_mr_add(lease, pd, ibv_access, index);
}

PL_API int pinlease_view_get(struct pinlease *lease, uint32_t mr_index, struct pinlease_view *view)
{
	struct pinlease_view v = { .size = sizeof(v) };
	int r;

	if (!lease || !view || view->size < sizeof(v))
		return -EINVAL;
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	r = pl_lease_view(lease, mr_index, &v);
	return r ? r : pl_opts_out(&v, sizeof(v), sizeof(v), view);
}

PL_API int pinlease_ack(struct pinlease *lease, uint32_t gen)
{
	if (!lease)
		return -EINVAL;
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	pl_lease_ack(lease, gen);
	return 0;
}

PL_API int pinlease_lease_info(struct pinlease *lease, struct pinlease_lease_info *info)
{
	struct pinlease_lease_info i = { .size = sizeof(i) };

	if (!lease || !info || info->size < sizeof(i))
		return -EINVAL;
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	pl_lease_get_info(lease, &i);
	return pl_opts_out(&i, sizeof(i), sizeof(i), info);
}

PL_API int pinlease_file_info(struct pinlease_file *file, struct pinlease_file_info *info)
{
	struct pinlease_file_info i = { .size = sizeof(i) };

	if (!file || !info || info->size < sizeof(i))
		return -EINVAL;
	if (pl_forked(file->fork_gen))
		return -ECHILD;
	pl_file_get_info(file, &i);
	return pl_opts_out(&i, sizeof(i), sizeof(i), info);
}

PL_API int pinlease_ctx_stats(struct pinlease_ctx *ctx, struct pinlease_ctx_stats *stats)
{
	struct pinlease_ctx_stats s = { .size = sizeof(s) };

	if (!ctx || !stats || stats->size < sizeof(s))
		return -EINVAL;
	if (pl_forked(ctx->env.fork_gen))
		return -ECHILD;
	s.files = pl_registry_count(&ctx->env.registry);
	pl_stats_get(&ctx->env.stats, &s);
	return pl_opts_out(&s, sizeof(s), sizeof(s), stats);
}

/* Everything but a granted begin; apart, so that dma_begin is a leaf and saves no registers. */
static __attribute__((noinline, cold)) int begin_slow(struct pinlease *lease, uint32_t n, uint32_t *gen,
						      int err)
{
	if (pl_forked(lease->fork_gen))
		return -ECHILD;
	if (err != -EALREADY)
		err = pl_account_begin(&lease->account, n, gen);
	if (err == -EALREADY)
		pl_lease_poke(lease);
	else if (err != -EAGAIN)
		return err;
	return pl_account_state(&lease->account) == PINLEASE_LOST ? -ESTALE : -EAGAIN;
}

PL_API int pinlease_dma_begin(struct pinlease *lease, uint32_t n, uint32_t *gen)
{
	int r;

	if (pl_unlikely(!lease || !gen))
		return -EINVAL;
	r = pl_account_begin_fast(&lease->account, n, gen);
	return pl_likely(!r) ? 0 : begin_slow(lease, n, gen, r);
}

static __attribute__((noinline, cold)) void end_slow(struct pinlease *lease, uint32_t n, uint32_t gen,
						     int err)
{
	if (pl_forked(lease->fork_gen))
		return;
	if (err != -EALREADY)
		err = pl_account_end(&lease->account, n, gen);
	if (err == -ESTALE) {
		pl_lease_end_late(lease, n, gen);
	} else if (err) {
		pl_lease_poke(lease);
		pl_account_ended();
	}
}

PL_API void pinlease_dma_end(struct pinlease *lease, uint32_t n, uint32_t gen)
{
	int r;

	if (pl_unlikely(!lease))
		return;
	r = pl_account_end_fast(&lease->account, n, gen);
	if (pl_unlikely(r))
		end_slow(lease, n, gen, r);
}

PL_API int pinlease_mark_dirty(struct pinlease *lease, uint64_t off, uint64_t len)
{
	if (!lease)
		return -EINVAL;
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_mark_dirty(lease, off, len);
}

PL_API int pinlease_sync(struct pinlease *lease, uint64_t off, uint64_t len, uint32_t flags)
{
	if (!lease || flags)
		return -EINVAL;
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_sync(lease, off, len);
}

PL_API int pinlease_save(struct pinlease *lease, int fd)
{
	if (!lease)
		return -EINVAL;
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_save(lease, fd);
}

static int probe(struct pinlease_ctx *ctx, const char *path, int fd, const struct pinlease_probe_opts *opts,
		 struct pinlease_why *why, struct pinlease_probe_result *result)
{
	struct pinlease_probe_result out = { .size = sizeof(out) };
	struct pinlease_probe_opts o;
	int r;

	if (pl_forked(ctx->env.fork_gen))
		return -ECHILD;
	r = pl_opts_in(&o, sizeof(o), sizeof(o), opts);
	if (!r && !pl_opts_fits(sizeof(out), result))
		r = -EINVAL;
	if (r)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_OPTS_SIZE, r);
	if (o.access > PINLEASE_WRITE || (o.flags & ~PINLEASE_PROBE_FORCE) || (o.file_flags & ~FILE_FLAGS) ||
	    (o.pd && o.backend))
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	r = pl_probe(&ctx->env, path, fd, &o, why, &out);
	return r ? r : pl_opts_out(&out, sizeof(out), sizeof(out), result);
}

PL_API int pinlease_probe(struct pinlease_ctx *ctx, const char *path, const struct pinlease_probe_opts *opts,
			  struct pinlease_why *why, struct pinlease_probe_result *result)
{
	if (!ctx || !path || !result)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	return probe(ctx, path, -1, opts, why, result);
}

PL_API int pinlease_probe_fd(struct pinlease_ctx *ctx, int fd, const struct pinlease_probe_opts *opts,
			     struct pinlease_why *why, struct pinlease_probe_result *result)
{
	if (!ctx || !result)
		return pl_refuse(why, PINLEASE_AT_ARGS, PINLEASE_WHY_ARGUMENT, -EINVAL);
	return probe(ctx, NULL, fd, opts, why, result);
}

PL_API int pinlease_dirty_next(struct pinlease *lease, uint64_t from, uint64_t *off, uint64_t *len)
{
	if (!lease || !off || !len)
		return -EINVAL;
	return pl_forked(lease->fork_gen) ? -ECHILD : pl_lease_dirty_next(lease, from, off, len);
}

PL_API const char *pinlease_version(void)
{
	return PL_VERSION;
}
