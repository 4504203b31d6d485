/* SPDX-License-Identifier: BSD-3-Clause */
/* pinleasectl probe: pinlease_probe's table, for people and for programs. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "ctl.h"

#define TEXT_MAX 512

struct ask {
	struct ctl_file file;
	struct ctl_device device;
	struct pinlease_probe_opts opts;
	struct pinlease_probe_result table;
	bool json;
};

static struct ctl_asked asked_cell(const struct ask *ask, const struct pinlease_probe_cell *c)
{
	return (struct ctl_asked){ .file = &ask->file,
				   .device = &ask->device,
				   .guard = c->guard,
				   .mode = c->mode,
				   .access = c->access,
				   .err = c->err,
				   .why = &c->why };
}

static void cell_text(const struct ask *ask, const struct pinlease_probe_cell *c, char text[TEXT_MAX])
{
	const struct ctl_asked asked = asked_cell(ask, c);

	if (c->err)
		ctl_text(&asked, text, TEXT_MAX);
	else if (c->mode == PINLEASE_MODE_ODP && ask->table.odp_err)
		snprintf(text, TEXT_MAX,
			 "by name only: for page-aligned offsets and lengths at path MTU 4096, since "
			 "%s failed the check of its on-demand paging",
			 ask->device.name);
	else
		snprintf(text, TEXT_MAX, "works");
}

static void auto_text(const struct ask *ask, const struct pinlease_probe_auto *a, char text[TEXT_MAX])
{
	const struct ctl_asked asked = { .file = &ask->file,
					 .device = &ask->device,
					 .guard = a->guard,
					 .mode = a->mode,
					 .access = a->access,
					 .err = a->err,
					 .why = &a->why };

	if (a->err)
		ctl_text(&asked, text, TEXT_MAX);
	else
		ctl_text_mode(&asked, a->mode_reason, text, TEXT_MAX);
}

/* JSON */

static void json_head(const struct ask *ask)
{
	json_string("file", ask->file.path);
	json_string("fs", ask->file.fs);
	json_bool("dax", ask->file.dax);
	json_string("kernel", ask->file.kernel);
	json_string("device", ask->device.name);
}

static void json_auto(const struct ask *ask, const struct pinlease_probe_auto *a)
{
	char text[TEXT_MAX];

	auto_text(ask, a, text);
	json_open(ctl_access_name(a->access), '{');
	json_string("guard", a->err ? NULL : ctl_guard_name(a->guard));
	json_string("mode", a->err ? NULL : ctl_mode_name(a->mode));
	json_string("reason", pinlease_reason_name(a->err ? a->why.reason : a->mode_reason));
	json_string("text", text);
	json_close();
}

static void print_json(const struct ask *ask)
{
	const struct pinlease_probe_cell *c;
	char text[TEXT_MAX];
	uint32_t i;

	json_open(NULL, '{');
	json_head(ask);
	json_open("cells", '[');
	for (i = 0; i < ask->table.count; i++) {
		c = &ask->table.cell[i];
		cell_text(ask, c, text);
		json_open(NULL, '{');
		json_string("guard", ctl_guard_name(c->guard));
		json_string("mode", ctl_mode_name(c->mode));
		json_string("access", ctl_access_name(c->access));
		json_bool("ok", !c->err);
		json_string("reason", pinlease_reason_name(c->err ? c->why.reason : PINLEASE_WHY_NONE));
		json_string("text", text);
		json_close();
	}
	json_close();
	json_open("auto", '{');
	json_auto(ask, &ask->table.auto_read);
	json_auto(ask, &ask->table.auto_write);
	json_close();
	json_close();
}

/* For people */

static const struct pinlease_probe_cell *find_cell(const struct ask *ask, uint32_t guard, uint32_t mode,
						   uint32_t access)
{
	const struct pinlease_probe_cell *c = ask->table.cell, *end = c + ask->table.count;

	while (c < end && (c->guard != guard || c->mode != mode || c->access != access))
		c++;
	return c < end ? c : NULL;
}

static void print_yes_no(const struct pinlease_probe_cell *c, unsigned int width)
{
	term_cell(!c ? "-" : c->err ? "no" : "yes", width, !c || c->err ? TERM_BAD : TERM_GOOD);
}

static void print_table(const struct ask *ask)
{
	uint32_t guard, mode;

	term_cell("guard   mode    read  write", 0, TERM_BOLD);
	putchar('\n');
	for (guard = PINLEASE_GUARD_LEASE; guard <= PINLEASE_GUARD_NONE; guard++) {
		for (mode = PINLEASE_MODE_PINNED; mode <= PINLEASE_MODE_STAGED; mode++) {
			printf("%-8s%-8s", ctl_guard_name(guard), ctl_mode_name(mode));
			print_yes_no(find_cell(ask, guard, mode, PINLEASE_READ), 6);
			print_yes_no(find_cell(ask, guard, mode, PINLEASE_WRITE), 0);
			putchar('\n');
		}
	}
}

static void print_auto(const struct ask *ask, const struct pinlease_probe_auto *a)
{
	char text[TEXT_MAX], choice[TEXT_MAX + 64];

	auto_text(ask, a, text);
	if (a->err)
		snprintf(choice, sizeof(choice), "nothing: %s", text);
	else
		snprintf(choice, sizeof(choice), "guard %s, mode %s: %s", ctl_guard_name(a->guard),
			 ctl_mode_name(a->mode), text);
	printf("auto, %-7s", ctl_access_name(a->access));
	term_wrap(13, choice);
}

/* A guard that is refused for every mode is refused in one line. */
static bool same_for_guard(const struct ask *ask, const struct pinlease_probe_cell *c)
{
	const struct pinlease_probe_cell *other;
	uint32_t mode;

	for (mode = PINLEASE_MODE_PINNED; mode <= PINLEASE_MODE_STAGED; mode++) {
		other = find_cell(ask, c->guard, mode, c->access);
		if (!other || memcmp(&other->why, &c->why, sizeof(c->why)))
			return false;
	}
	return true;
}

/* "any" for all modes alike, which the line of the first one says. */
static const char *reason_mode(const struct ask *ask, const struct pinlease_probe_cell *c)
{
	if (!c->err || !same_for_guard(ask, c))
		return ctl_mode_name(c->mode);
	return c->mode == PINLEASE_MODE_PINNED ? "any" : NULL;
}

static void print_reason(const struct ask *ask, const struct pinlease_probe_cell *c)
{
	uint32_t other_access = c->access == PINLEASE_READ ? PINLEASE_WRITE : PINLEASE_READ;
	const struct pinlease_probe_cell *other = find_cell(ask, c->guard, c->mode, other_access);
	const char *mode = reason_mode(ask, c), *other_mode = reason_mode(ask, other);
	char text[TEXT_MAX], other_text[TEXT_MAX];
	bool both;

	cell_text(ask, c, text);
	cell_text(ask, other, other_text);
	both = mode == other_mode && !strcmp(text, other_text);
	if (!mode || !strcmp(text, "works") || (both && c->access == PINLEASE_WRITE))
		return;
	printf("%-8s%-8s%-7s", ctl_guard_name(c->guard), mode, both ? "both" : ctl_access_name(c->access));
	term_wrap(23, text);
}

static void print_people(const struct ask *ask)
{
	uint32_t guard, mode, access;

	printf("%s: %s%s, Linux %s, %s%s\n\n", ask->file.shown, ask->file.fs,
	       ask->file.dax ? " with dax" : "", ask->file.kernel,
	       ask->device.name ? "device " : "no device: nothing is registered",
	       ask->device.name ? ask->device.name : "");
	print_table(ask);
	putchar('\n');
	print_auto(ask, &ask->table.auto_read);
	print_auto(ask, &ask->table.auto_write);
	putchar('\n');
	for (guard = PINLEASE_GUARD_LEASE; guard <= PINLEASE_GUARD_NONE; guard++)
		for (mode = PINLEASE_MODE_PINNED; mode <= PINLEASE_MODE_STAGED; mode++)
			for (access = PINLEASE_READ; access <= PINLEASE_WRITE; access++)
				print_reason(ask, find_cell(ask, guard, mode, access));
	if (ask->table.flags & PINLEASE_PROBE_NO_MEMBARRIER)
		puts("\nmembarrier(2) cannot be had: counting an operation costs a barrier");
}

/* The file cannot be examined. */
static int refuse(const struct ask *ask, int err, const struct pinlease_why *why)
{
	const struct ctl_asked asked = {
		.file = &ask->file, .device = &ask->device, .err = err, .access = PINLEASE_READ, .why = why
	};
	char text[TEXT_MAX];

	if (why->reason)
		ctl_text(&asked, text, sizeof(text));
	else
		snprintf(text, sizeof(text), "%s", strerror(-err));
	ctl_say("%s: %s", ask->file.path, text);
	if (!ask->json)
		return CTL_FAILED;
	json_open(NULL, '{');
	json_head(ask);
	json_open("error", '{');
	json_string("reason", pinlease_reason_name(why->reason));
	json_string("text", text);
	json_int("pid", why->pid);
	json_close();
	json_close();
	return CTL_FAILED;
}

static int probe(struct ask *ask)
{
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	struct pinlease_ctx *ctx;
	int r = pinlease_ctx_new(NULL, &ctx);

	if (r) {
		ctl_say("cannot start: %s", strerror(-r));
		return CTL_FAILED;
	}
	r = pinlease_probe(ctx, ask->file.path, &ask->opts, &why, &ask->table);
	pinlease_ctx_free(ctx);
	if (r)
		return refuse(ask, r, &why);
	if (ask->json)
		print_json(ask);
	else
		print_people(ask);
	return CTL_OK;
}

static bool parse(int argc, char **argv, struct ask *ask, const char **device)
{
	static const struct option options[] = {
		{ "device", required_argument, NULL, 'd' }, { "offset", required_argument, NULL, 'o' },
		{ "length", required_argument, NULL, 'l' }, { "json", no_argument, NULL, 'j' },
		{ "force", no_argument, NULL, 'f' },	    { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "d:o:l:", options, NULL)) != -1) {
		if (c == 'd')
			*device = optarg;
		else if (c == 'j')
			ask->json = true;
		else if (c == 'f')
			ask->opts.flags |= PINLEASE_PROBE_FORCE;
		else if ((c != 'o' && c != 'l') ||
			 !ctl_number(optarg, INT64_MAX, c == 'o' ? &ask->opts.off : &ask->opts.len))
			return false;
	}
	return optind == argc - 1;
}

int ctl_probe(int argc, char **argv)
{
	struct ask ask = { .opts = { .size = sizeof(ask.opts) }, .table = { .size = sizeof(ask.table) } };
	const char *device = NULL;
	int status;

	if (!parse(argc, argv, &ask, &device))
		return ctl_usage();
	ctl_file_look(argv[optind], &ask.file);
	if (ctl_device_open(device, &ask.device))
		return CTL_FAILED;
	ask.opts.pd = ask.device.pd;
	ask.opts.backend = ask.device.backend;
	ask.opts.backend_arg = ask.device.ring;
	term_start();
	status = probe(&ask);
	ctl_device_close(&ask.device);
	return status;
}
