/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <signal.h>

#include "ctx.h"
#include "lease.h"
#include "probe.h"
#include "sys.h"

/* The process-wide parts, made once and never taken down. */
static int process_setup(void)
{
	int r = pl_account_setup();

	return r ? r : pl_forkguard_setup();
}

static void (*const work_run[])(struct pl_work *work) = {
	[PL_WORK_LEASE] = pl_lease_run,
	[PL_WORK_FILE] = pl_file_run,
	[PL_WORK_FLUSH] = pl_file_flush_run,
};

static int env_init(struct pl_env *env, const struct pinlease_ctx_opts *opts)
{
	int r;

	env->signo = opts->signo ? opts->signo : SIGRTMAX - 2;
	if (env->signo < SIGRTMIN || env->signo > SIGRTMAX)
		return -EINVAL;
	env->fork_gen = pl_fork_generation();
	atomic_init(&env->break_time_ns, 45 * PL_NS_PER_S);
	pl_log_init(&env->log, opts->log, opts->log_arg);
	r = pl_events_init(&env->events);
	if (r)
		return r;
	r = pl_agenda_init(&env->agenda, PL_WORKERS, work_run);
	if (r) {
		pl_events_fini(&env->events);
		return r;
	}
	pl_registry_init(&env->registry);
	pl_disks_init(&env->disks);
	pl_notices_init(&env->notices);
	return 0;
}

static void env_fini(struct pl_env *env)
{
	pl_agenda_fini(&env->agenda);
	pl_notices_fini(&env->notices);
	pl_registry_fini(&env->registry);
	pl_disks_fini(&env->disks);
	pl_events_fini(&env->events);
}

int pl_ctx_new(const struct pinlease_ctx_opts *opts, struct pinlease_ctx **out)
{
	struct pinlease_ctx *ctx;
	int r = process_setup();

	if (r)
		return r;
	ctx = pl_sys_alloc(sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	r = env_init(&ctx->env, opts);
	if (r)
		goto free_ctx;
	r = pl_breaker_start(&ctx->breaker, &ctx->env);
	if (r)
		goto fini_env;
	/* Not worth failing for: what it tells of harms no DMA. */
	r = pl_notices_start(&ctx->env.notices, ctx->env.signo, ctx->env.breaker_tid);
	if (r)
		pl_log_write(&ctx->env.log, 5, "no inotify (%d): renames will not be told", r);
	r = pl_workers_start(&ctx->workers, &ctx->env.agenda);
	if (r)
		goto stop_breaker;
	*out = ctx;
	return 0;
stop_breaker:
	pl_breaker_stop(&ctx->breaker);
fini_env:
	env_fini(&ctx->env);
free_ctx:
	pl_sys_free(ctx);
	return r;
}

int pl_ctx_free(struct pinlease_ctx *ctx)
{
	if (pl_forked(ctx->env.fork_gen)) {
		/* The threads are the parent's; so is the state of every lock. */
		pl_sys_free(ctx->env.registry.by_fd);
		pl_disks_forget(&ctx->env.disks);
		pl_sys_free(ctx);
		return 0;
	}
	pl_probe_clean(&ctx->env);
	if (pl_registry_count(&ctx->env.registry))
		return -EBUSY;
	pl_breaker_stop(&ctx->breaker);
	pl_workers_stop(&ctx->workers);
	env_fini(&ctx->env);
	pl_sys_free(ctx);
	return 0;
}

static void event_fill(struct pl_event_box *box, struct pinlease_event *ev)
{
	struct pinlease *lease = pl_container(box, struct pinlease, box);

	ev->lease = lease;
	ev->user = lease->user;
}

int pl_ctx_next_event(struct pinlease_ctx *ctx, struct pinlease_event *ev)
{
	return pl_event_next(&ctx->env.events, ev, event_fill) ? 1 : 0;
}
