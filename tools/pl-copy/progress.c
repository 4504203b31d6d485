/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "conn.h"
#include "progress.h"

#define SHOW_NS (200ull * 1000000)

static struct {
	const char *name;
	bool terminal, quiet, shown;
	uint64_t last_ns, last_written;
	double rate; /* smoothed */
} view;

void progress_start(const char *file, bool quiet)
{
	const char *slash = strrchr(file, '/');

	view.name = slash ? slash + 1 : file;
	view.terminal = isatty(STDERR_FILENO);
	view.quiet = quiet;
}

/* "1.5 GiB" */
static const char *amount(double bytes, char buf[16])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	unsigned int i = 0;

	while (bytes >= 1000 && i < sizeof(units) / sizeof(units[0]) - 1) {
		bytes /= 1024;
		i++;
	}
	snprintf(buf, 16, i && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[i]);
	return buf;
}

static void measure(const struct counts *c, uint64_t now)
{
	double seconds = (double)(now - view.last_ns) / 1e9;
	double rate = view.last_ns ? (double)(c->written - view.last_written) / seconds : 0;

	view.rate = view.rate > 0 ? 0.7 * view.rate + 0.3 * rate : rate;
	view.last_ns = now;
	view.last_written = c->written;
}

/* "1:02:03 left", at the speed there has been on this connection. */
static const char *rest(const struct counts *c, uint64_t now, char buf[32])
{
	double seconds = (double)(now - c->connected_ns) / 1e9;
	unsigned long left;

	*buf = '\0';
	if (!c->done || c->done == c->size || !c->connected_ns)
		return buf;
	seconds *= (double)(c->size - c->done) / (double)c->done;
	left = seconds < 1e9 ? (unsigned long)seconds : 1000000000ul;
	if (left >= 3600)
		snprintf(buf, 32, "  %lu:%02lu:%02lu left", left / 3600, left / 60 % 60, left % 60);
	else
		snprintf(buf, 32, "  %lu:%02lu left", left / 60, left % 60);
	return buf;
}

static const char *breaks(const struct counts *c, char buf[24])
{
	snprintf(buf, 24, "%u break%s", c->breaks, c->breaks == 1 ? "" : "s");
	return buf;
}

/* A long name leaves room for the rest. */
void progress_show(const struct counts *c, const char *state)
{
	struct winsize size = { .ws_col = 80 };
	uint64_t now = now_ns();
	char line[256], done[16], all[16], rate[16], left[32], broken[24];
	int columns, name, n;

	if (!view.terminal || view.quiet || now - view.last_ns < SHOW_NS)
		return;
	measure(c, now);
	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) || size.ws_col < 20)
		size.ws_col = 80;
	columns = size.ws_col - 1;
	n = snprintf(line, sizeof(line), " %3u%%  %s of %s  %s/s%s  %s%s%s",
		     c->size ? (unsigned int)((double)c->done * 100 / (double)c->size) : 100,
		     amount((double)c->done, done), amount((double)c->size, all), amount(view.rate, rate),
		     rest(c, now, left), breaks(c, broken), *state ? "  " : "", state);
	name = columns - n > 10 ? columns - n : 10;
	fprintf(stderr, "\r%.*s%.*s\033[K", name, view.name, columns > name ? columns - name : 0, line);
	fflush(stderr);
	view.shown = true;
}

void progress_clear(void)
{
	if (view.shown)
		fputs("\r\033[K", stderr);
	view.shown = false;
}

static void json_string(const char *key, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;

	printf("\"%s\": \"", key);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if (*s < 0x20 || *s >= 0x7f)
			/* A file name is bytes: each as the character of that number, so that it always
			 * parses. */
			printf("\\u%04x", *s);
		else
			putchar(*s);
	}
	fputs("\", ", stdout);
}

static double seconds_of(const struct counts *c)
{
	return (double)(c->end_ns - c->start_ns) / 1e9;
}

static void end_json(const struct send_options *options, const struct counts *c)
{
	char sum[SUM_TEXT] = "";

	if (c->summed)
		sum_text(&c->sum, sum);
	putchar('{');
	json_string("file", options->file);
	json_string("to", options->to);
	json_string("sum", sum);
	json_string("error", c->error);
	printf("\"ok\": %s, \"size\": %llu, \"durable\": %llu, \"sent\": %llu, \"there\": %llu, \"holes\": "
	       "%llu, "
	       "\"written\": %llu, \"seconds\": %.3f, \"breaks\": %u, \"connections\": %u, \"wrong\": %u, "
	       "\"again\": %u}\n",
	       *c->error ? "false" : "true", (unsigned long long)c->size, (unsigned long long)c->done,
	       (unsigned long long)c->sent, (unsigned long long)c->there, (unsigned long long)c->holes,
	       (unsigned long long)c->written, seconds_of(c), c->breaks, c->connections, c->wrong, c->again);
}

void progress_end(const struct send_options *options, const struct counts *c)
{
	char all[16], rate[16], broken[24], sum[SUM_TEXT];

	progress_clear();
	if (options->json)
		end_json(options, c);
	if (*c->error || options->quiet || options->json)
		return;
	sum_text(&c->sum, sum);
	printf("%s: %s in %.2f s, %s/s, %s, sum %s", view.name, amount((double)c->size, all), seconds_of(c),
	       amount((double)c->written / (seconds_of(c) > 0 ? seconds_of(c) : 1), rate), breaks(c, broken),
	       sum);
	if (c->there)
		printf(", %s were there", amount((double)c->there, all));
	if (c->connections > 1)
		printf(", %u connections", c->connections);
	putchar('\n');
}
