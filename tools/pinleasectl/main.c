/* SPDX-License-Identifier: BSD-3-Clause */
/* pinleasectl: ask, show and check what libpinlease does on this machine. See pinleasectl(1). */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

static const struct ctl_command commands[] = {
	{ "probe", "FILE [-d DEVICE] [-o OFFSET] [-l LENGTH] [--json] [--force]",
	  "what works with FILE: guard, mode, access, and why not", ctl_probe },
	{ "hold", "FILE [-d DEVICE] [-o OFFSET] [-l LENGTH] [-r] [-g GUARD] [-m MODE] [-s SECONDS] [--json]",
	  "lease FILE and print what happens to the lease", ctl_hold },
	{ "run", "[--policy revoke|hold] [--deadline MS] [--signal N] [--log FILE] [-v|-q] -- PROGRAM ...",
	  "run PROGRAM with leases on the files that it registers", ctl_run },
	{ "doctor", "[--json]", "this machine: kernel, limits, rights, devices", ctl_doctor },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct ctl_command *running;

void ctl_say(const char *fmt, ...)
{
	static char raw[CTL_SHOWN_MAX], text[CTL_SHOWN_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(raw, sizeof(raw), fmt, ap);
	va_end(ap);
	ctl_shown(raw, text, sizeof(text));
	fprintf(stderr, "pinleasectl: %s\n", text);
}

int ctl_usage(void)
{
	fprintf(stderr, "usage: pinleasectl %s %s\n", running->name, running->args);
	return CTL_USAGE;
}

static int usage_all(FILE *to)
{
	size_t i;

	fputs("usage: pinleasectl COMMAND ...\n\n", to);
	for (i = 0; i < COMMANDS; i++)
		fprintf(to, "  %s %s\n      %s\n", commands[i].name, commands[i].args, commands[i].what);
	fputs("  --version\n\nSee pinleasectl(1).\n", to);
	return to == stdout ? CTL_OK : CTL_USAGE;
}

bool ctl_number(const char *text, uint64_t max, uint64_t *number)
{
	static const char units[] = "kMG";
	const char *unit;
	unsigned int shift = 0;
	unsigned long long n;
	char *end;

	/* strtoull would take a minus sign, and blanks. */
	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno)
		return false;
	unit = *end ? strchr(units, *end) : NULL;
	if (unit) {
		shift = 10 * (unsigned int)(unit - units + 1);
		end++;
	}
	if (*end || n > max >> shift)
		return false;
	*number = n << shift;
	return true;
}

static const char *const guards[] = { "auto", "lease", "seal", "static", "none" };
static const char *const modes[] = { "auto", "pinned", "odp", "staged" };

bool ctl_name(const char *text, const char *const *names, size_t count, uint32_t *index)
{
	size_t i;

	for (i = 0; i < count; i++) {
		if (!strcmp(text, names[i])) {
			*index = (uint32_t)i;
			return true;
		}
	}
	return false;
}

bool ctl_guard_of(const char *text, uint32_t *guard)
{
	return ctl_name(text, guards, sizeof(guards) / sizeof(guards[0]), guard);
}

bool ctl_mode_of(const char *text, uint32_t *mode)
{
	return ctl_name(text, modes, sizeof(modes) / sizeof(modes[0]), mode);
}

const char *ctl_guard_name(uint32_t guard)
{
	return guard < sizeof(guards) / sizeof(guards[0]) ? guards[guard] : "?";
}

const char *ctl_mode_name(uint32_t mode)
{
	return mode < sizeof(modes) / sizeof(modes[0]) ? modes[mode] : "?";
}

const char *ctl_access_name(uint32_t access)
{
	return access == PINLEASE_READ ? "read" : "write";
}

int ctl_finish(int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	ctl_say("standard output: %s", strerror(errno));
	return status ? status : CTL_FAILED;
}

int main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	size_t i;

	if (!strcmp(name, "--help") || !strcmp(name, "-h"))
		return ctl_finish(usage_all(stdout));
	if (!strcmp(name, "--version")) {
		printf("pinleasectl %s\n", pinlease_version());
		return ctl_finish(CTL_OK);
	}
	for (i = 0; i < COMMANDS; i++) {
		if (strcmp(name, commands[i].name))
			continue;
		running = &commands[i];
		return ctl_finish(running->run(argc - 1, argv + 1));
	}
	if (*name)
		ctl_say("no command %s", name);
	return usage_all(stderr);
}
