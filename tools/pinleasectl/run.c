/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinleasectl run: start a program with libpinlease-preload.so, see pinlease-preload(1). The
 * library is found from where this program lies: installed, or built.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define PRELOAD "libpinlease-preload.so"

/* As env(1) and nohup(1) have it. */
enum run_exit { RUN_CANNOT = 126, RUN_NO_PROGRAM = 127 };

static bool run_library(char *path, size_t size)
{
	static const char *const places[] = { CTL_PRELOAD_DIR, "../preload" };
	char self[PATH_MAX / 2];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;
	size_t i;

	if (n < 0)
		return false;
	self[n] = '\0';
	slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		n = snprintf(path, size, "%s/%s/" PRELOAD, self, places[i]);
		if (n > 0 && (size_t)n < size && !access(path, R_OK))
			return true;
	}
	return false;
}

/* Words of PINLEASE_PRELOAD, as tools/preload reads them. */
struct run_words {
	char text[1024];
	bool wrong;
};

static void run_wrong(struct run_words *words, const char *name, const char *value, const char *wanted)
{
	ctl_say("run: --%s %s: %s", name, value, wanted);
	words->wrong = true;
}

static void run_word(struct run_words *words, const char *name, const char *value)
{
	size_t len = strlen(words->text), room = sizeof(words->text) - len;

	if (snprintf(words->text + len, room, "%s%s%s%s", len ? "," : "", name, value ? "=" : "",
		     value ? value : "") >= (int)room)
		run_wrong(words, name, value ? value : "", "too long");
}

static void run_policy(struct run_words *words, const char *text)
{
	static const char *const policies[] = { "revoke", "hold" };
	uint32_t policy;

	if (ctl_name(text, policies, 2, &policy))
		run_word(words, "policy", text);
	else
		run_wrong(words, "policy", text, "is neither revoke nor hold");
}

static void run_number(struct run_words *words, const char *name, const char *text, uint64_t least,
		       uint64_t most)
{
	char decimal[24], wanted[64];
	uint64_t n;

	if (ctl_number(text, most, &n) && n >= least) {
		snprintf(decimal, sizeof(decimal), "%llu", (unsigned long long)n);
		run_word(words, name, decimal);
		return;
	}
	snprintf(wanted, sizeof(wanted), "is no number from %llu to %llu", (unsigned long long)least,
		 (unsigned long long)most);
	run_wrong(words, name, text, wanted);
}

/* The program may go to another folder. */
static void run_log(struct run_words *words, const char *name)
{
	char path[256] = "";
	size_t len = 0;

	if (name[0] != '/' && getcwd(path, sizeof(path) - 1)) {
		len = strlen(path);
		path[len++] = '/';
	}
	if (strchr(name, ',') || strchr(path, ','))
		run_wrong(words, "log", name, "has a comma in its path");
	else if (snprintf(path + len, sizeof(path) - len, "%s", name) >= (int)(sizeof(path) - len))
		run_wrong(words, "log", name, "is too long a path");
	else
		run_word(words, "log", path);
}

/* Each option that is wrong is said, and why. */
static bool run_parse(int argc, char **argv, struct run_words *words)
{
	static const struct option options[] = {
		{ "policy", required_argument, NULL, 'p' }, { "deadline", required_argument, NULL, 't' },
		{ "signal", required_argument, NULL, 's' }, { "log", required_argument, NULL, 'l' },
		{ "verbose", no_argument, NULL, 'v' },	    { "quiet", no_argument, NULL, 'q' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "+p:t:s:l:vq", options, NULL)) != -1) {
		switch (c) {
		case 'p':
			run_policy(words, optarg);
			break;
		case 't':
			run_number(words, "deadline", optarg, 1, 3600000);
			break;
		case 's':
			run_number(words, "signal", optarg, (uint64_t)SIGRTMIN, (uint64_t)SIGRTMAX);
			break;
		case 'l':
			run_log(words, optarg);
			break;
		case 'v':
			run_word(words, "verbose", NULL);
			break;
		case 'q':
			run_word(words, "quiet", NULL);
			break;
		default:
			words->wrong = true;
		}
	}
	if (!words->wrong && optind == argc) {
		ctl_say("run: which program?");
		words->wrong = true;
	}
	return !words->wrong;
}

/* Behind what is there already: AddressSanitizer's library has to be the first. */
static bool run_preload(const char *library)
{
	const char *others = getenv("LD_PRELOAD");
	char *all;
	bool set;

	if (!others || !*others)
		return !setenv("LD_PRELOAD", library, 1);
	if (asprintf(&all, "%s:%s", others, library) < 0)
		return false;
	set = !setenv("LD_PRELOAD", all, 1);
	free(all);
	return set;
}

int ctl_run(int argc, char **argv)
{
	struct run_words words = { .wrong = false };
	char library[PATH_MAX];
	int err;

	if (!run_parse(argc, argv, &words))
		return ctl_usage();
	if (!run_library(library, sizeof(library))) {
		ctl_say(PRELOAD " is not where it belongs");
		return RUN_CANNOT;
	}
	if (!run_preload(library) || setenv("PINLEASE_PRELOAD", words.text, 1)) {
		ctl_say("%s", strerror(errno));
		return RUN_CANNOT;
	}
	execvp(argv[optind], argv + optind);
	err = errno;
	ctl_say("%s: %s", argv[optind], strerror(err));
	return err == ENOENT ? RUN_NO_PROGRAM : RUN_CANNOT;
}
