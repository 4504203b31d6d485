/* SPDX-License-Identifier: BSD-3-Clause */
/* The places and arms of a hazard, and what is said of them. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hazard.h"

#define OTHER_MS 30000u

/* Of one arm. */
struct outcome {
	unsigned int of, wrong;
	int refused;
	uint32_t mode;
	char note[120];
};

static enum hazard_kernel kernel_now(void)
{
	return kt_kernel_from(6, 15) ? HAZARD_ODP : kt_kernel_from(6, 5) ? HAZARD_REFUSES : HAZARD_PINS;
}

static struct outcome arm_run(struct hazard *h, bool with, void (*run)(struct hazard *h))
{
	struct outcome o;
	int r;

	h->with = with;
	h->of = h->wrong = 0;
	h->refused = 0;
	h->mode = PINLEASE_MODE_AUTO;
	h->note[0] = 0;
	r = kt_pair_make(&h->dev, &h->pair, 16);
	rt_assert(!r, "no queue pairs: %s", strerror(-r));
	if (with) {
		r = pinlease_ctx_new(NULL, &h->ctx);
		rt_assert(!r, "ctx_new: %s", strerror(-r));
	}
	run(h);
	r = with ? pinlease_ctx_free(h->ctx) : 0;
	rt_assert(!r, "ctx_free: %s", strerror(-r));
	h->ctx = NULL;
	kt_pair_drop(&h->pair);
	o = (struct outcome){ .of = h->of, .wrong = h->wrong, .refused = h->refused, .mode = h->mode };
	memcpy(o.note, h->note, sizeof(o.note));
	return o;
}

static void outcome_say(const char *arm, const struct outcome *o, const char *unit)
{
	static const char *const mode[] = { "", " (pinned)", " (odp)", " (staged)" };

	if (o->refused)
		printf("%s: refused (%s)", arm, strerror(-o->refused));
	else
		printf("%s: %u of %u %s wrong%s%s%s", arm, o->wrong, o->of, unit, mode[o->mode],
		       o->note[0] ? ", " : "", o->note);
}

/* What is wrong with the two outcomes, or NULL. */
static const char *place_judge(const struct hazard *h, const struct outcome *bare, const struct outcome *with)
{
	enum hazard_bare want = h->place->bare[h->kernel];

	if (want == HAZARD_SHOWS && bare->refused)
		return "refused where it must go wrong";
	if (want == HAZARD_SHOWS && !bare->wrong)
		return "nothing went wrong bare: this test proves nothing";
	if (want == HAZARD_NOT_MADE && !bare->refused)
		return "this kernel should have refused the registration";
	if (with->wrong)
		return "WITH THE LIBRARY it is wrong";
	return with->of ? NULL : "with the library nothing was looked at";
}

/* The file system of this place, made anew unless the place before had it. False: not on this machine. */
static bool place_mount(struct hazard *h, const struct hazard_place *place)
{
	int r;

	if (h->place && !strcmp(h->place->fs, place->fs)) {
		h->place = place;
		return true;
	}
	if (h->place)
		kt_fs_drop(&h->fs);
	h->place = NULL;
	r = kt_fs_make(&h->fs, place->fs, 64);
	if (r == -ENODEV) {
		printf("%s: not asked here\n", place->fs);
		return false;
	}
	rt_assert(!r, "no %s: %s", place->fs, strerror(-r));
	h->place = place;
	return true;
}

static const char *place_run(struct hazard *h, const char *unit, void (*run)(struct hazard *h),
			     struct outcome sum[2])
{
	struct outcome bare = arm_run(h, false, run), with = arm_run(h, true, run);
	const char *bad = place_judge(h, &bare, &with);

	printf("%s%s%s: ", h->place->fs, h->place->what ? ", " : "", h->place->what ? h->place->what : "");
	outcome_say("bare", &bare, unit);
	outcome_say("; with", &with, unit);
	printf("%s%s\n", bad ? ": " : "", bad ? bad : "");
	sum[0].of += bare.of;
	sum[0].wrong += bare.wrong;
	sum[1].of += with.of;
	sum[1].wrong += with.wrong;
	return bad;
}

static void hazard_open(struct hazard *h)
{
	size_t len = (size_t)HAZARD_PAGES * HAZARD_PAGE;
	void *buf;

	h->kernel = kernel_now();
	rt_open(&h->dev);
	buf = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rt_assert(buf != MAP_FAILED, "out of memory");
	h->buf = buf;
	h->mr = ibv_reg_mr(h->dev.pd, buf, len, IBV_ACCESS_LOCAL_WRITE);
	rt_assert(h->mr, "ibv_reg_mr: %s", strerror(errno));
}

int hazard_main(const char *name, const char *unit, const struct hazard_place *places, size_t n,
		void (*run)(struct hazard *h))
{
	unsigned int bad = 0, asked = 0, shown = 0;
	struct outcome sum[2] = { 0 };
	struct hazard h = { 0 };
	size_t i;

	kt_init();
	rt_require();
	if (geteuid())
		kt_skip("mounting scratch file systems needs root");
	hazard_open(&h);
	for (i = 0; i < n; i++) {
		if (!place_mount(&h, &places[i]))
			continue;
		asked++;
		shown += places[i].bare[h.kernel] == HAZARD_SHOWS;
		bad += place_run(&h, unit, run, sum) != NULL;
	}
	if (!asked)
		kt_skip("none of its file systems is here");
	printf("%s: bare: %u of %u %s wrong; with: %u of %u; bare had to show it in %u of %u places\n", name,
	       sum[0].wrong, sum[0].of, unit, sum[1].wrong, sum[1].of, shown, asked);
	ibv_dereg_mr(h.mr);
	kt_rdma_close(&h.dev);
	return bad ? 1 : 0;
}

int hazard_other(int (*fn)(const void *arg), const void *arg, size_t len)
{
	struct kt_call *call = kt_call_start(fn, arg, len);
	int ret;

	rt_assert(call, "no other process");
	rt_assert(kt_call_done(call, OTHER_MS), "the other process does not come to an end");
	ret = call->ret;
	kt_call_end(call);
	return ret;
}
