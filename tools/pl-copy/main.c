/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <getopt.h>
#include <pinlease.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "copy.h"
#include "progress.h"

#define PORT	4794
#define RETRY_S 60

static const char usage_text[] =
	"usage: pl-copy [-p PORT] [-r SECONDS] [--preserve] [-q] [--json] FILE HOST:PATH\n"
	"       pl-copy --serve [-p PORT] [-a ADDRESS] [--root DIR] [-q]\n";

static const char help_text[] =
	"\nCopies FILE by RDMA to where pl-copy --serve runs, or goes on with a copy that ended early.\n\n"
	"  -p, --port PORT      the port of the server (4794); serving, 0: any that is free\n"
	"  -r, --retry SECONDS  after a lost connection, try again for so long (60)\n"
	"      --preserve       keep permissions and time of modification\n"
	"  -q, --quiet          say nothing but errors\n"
	"      --json           a report at the end, as a JSON object\n"
	"      --serve          take files until a signal\n"
	"  -a, --address ADDR   listen there only\n"
	"      --root DIR       put files below this directory (the current one)\n"
	"      --version\n";

enum { OPT_SERVE = 256, OPT_ROOT, OPT_PRESERVE, OPT_JSON, OPT_VERSION };

static const struct option long_options[] = {
	{ "serve", no_argument, NULL, OPT_SERVE },
	{ "root", required_argument, NULL, OPT_ROOT },
	{ "port", required_argument, NULL, 'p' },
	{ "address", required_argument, NULL, 'a' },
	{ "retry", required_argument, NULL, 'r' },
	{ "preserve", no_argument, NULL, OPT_PRESERVE },
	{ "quiet", no_argument, NULL, 'q' },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

struct arguments {
	struct serve_options serve;
	struct send_options send;
	bool serves;
	bool only_serve, only_send; /* an option was there that has no meaning for the other */
};

void say(const char *fmt, ...)
{
	va_list ap;

	progress_clear();
	fputs("pl-copy: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

static int usage(void)
{
	fputs(usage_text, stderr);
	return STATUS_USAGE;
}

static bool number(const char *text, unsigned long max, unsigned long *value)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoul(text, &end, 10);
	return !errno && !*end && *value <= max;
}

/*
 * HOST:PATH, or [ADDRESS]:PATH for an address that has colons itself. An empty path is the
 * folder that is served.
 */
static bool split(const char *to, char *host, size_t host_size, char *path, size_t path_size)
{
	const char *start = to, *end;

	if (*to == '[') {
		start = to + 1;
		end = strchr(start, ']');
		if (!end || end[1] != ':')
			return false;
		snprintf(path, path_size, "%s", end + 2);
	} else {
		end = strchr(to, ':');
		if (!end)
			return false;
		snprintf(path, path_size, "%s", end + 1);
	}
	if (end == start || (size_t)(end - start) >= host_size || strlen(to) >= path_size)
		return false;
	snprintf(host, host_size, "%.*s", (int)(end - start), start);
	return true;
}

/* 0; 1: --help or --version was answered; -1: nonsense. */
static int parse_option(struct arguments *a, int option)
{
	unsigned long value;

	switch (option) {
	case OPT_SERVE:
		a->serves = true;
		return 0;
	case OPT_ROOT:
		a->serve.root = optarg;
		a->only_serve = true;
		return 0;
	case 'a':
		a->serve.address = optarg;
		a->only_serve = true;
		return 0;
	case 'p':
		if (!number(optarg, UINT16_MAX, &value))
			return -1;
		a->serve.port = a->send.port = (uint16_t)value;
		return 0;
	case 'r':
		if (!number(optarg, UINT32_MAX, &value))
			return -1;
		a->send.retry_s = (uint32_t)value;
		a->only_send = true;
		return 0;
	case 'q':
		a->serve.quiet = a->send.quiet = true;
		return 0;
	case OPT_PRESERVE:
		a->send.preserve = a->only_send = true;
		return 0;
	case OPT_JSON:
		a->send.json = a->only_send = true;
		return 0;
	case 'h':
		fputs(usage_text, stdout);
		fputs(help_text, stdout);
		return 1;
	case OPT_VERSION:
		printf("pl-copy %s\n", pinlease_version());
		return 1;
	default:
		return -1;
	}
}

/* Standard output could be written in full: status; otherwise failure, and says so. */
static int finish(int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	say("standard output: %s", strerror(errno));
	return status ? status : STATUS_FAILED;
}

int main(int argc, char **argv)
{
	struct arguments a = { .serve = { .root = ".", .port = PORT },
			       .send = { .port = PORT, .retry_s = RETRY_S } };
	int option, r;

	while ((option = getopt_long(argc, argv, "p:a:r:qh", long_options, NULL)) != -1) {
		r = parse_option(&a, option);
		if (r)
			return r < 0 ? usage() : finish(STATUS_OK);
	}
	if (a.serves)
		return a.only_send || optind != argc ? usage() : finish(serve(&a.serve));
	if (a.only_serve || argc - optind != 2 || !a.send.port)
		return usage();
	a.send.file = argv[optind];
	a.send.to = argv[optind + 1];
	if (!split(a.send.to, a.send.host, sizeof(a.send.host), a.send.path, sizeof(a.send.path))) {
		say("%s: is not HOST:PATH, nor [ADDRESS]:PATH", a.send.to);
		return usage();
	}
	return finish(send_file(&a.send));
}
