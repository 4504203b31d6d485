/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pinleasectl doctor: what of this machine, and of the rights that this process has, the
 * library depends on, and what to change. A problem is what makes something fail; a
 * note is what makes it weaker, slower or smaller.
 */
#include <getopt.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "doctor.h"

#define BREAK_TIME_SHORT 5u /* seconds: below it there is little left to write staged memory back in */
#define SIGNALS_FEW	 1024u
#define FILES_FEW	 4096u

/* PROC_USER_INIT_INO of the kernel: the initial user namespace is the one that has this number. */
#define FIRST_USER_NAMESPACE 0xeffffffdu

/*
 * For leases, locked memory and descriptors in flight the kernel asks capable(): what root
 * of another user namespace has in capget(2) does not count. Without such namespaces there
 * is no file to look at.
 */
static bool has_cap(int cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	struct stat st;

	if (!stat("/proc/self/ns/user", &st) && st.st_ino != FIRST_USER_NAMESPACE)
		return false;
	memset(data, 0, sizeof(data));
	if (syscall(SYS_capget, &head, data))
		return false;
	return data[CAP_TO_INDEX(cap)].effective & CAP_TO_MASK(cap);
}

static void check_kernel(struct doctor *d)
{
	if (!ctl_kernel_from(d->kernel, 5, 14))
		doctor_say(d, "kernel", d->kernel, DOCTOR_PROBLEM,
			   "MADV_POPULATE_WRITE is missing: Linux 5.14 or newer is needed");
	else if (!ctl_kernel_from(d->kernel, 6, 5))
		doctor_say(
			d, "kernel", d->kernel, DOCTOR_NOTE,
			"before Linux 6.5 a registration for reading is a write pin, so RDMA reads of files "
			"are staged");
	else
		doctor_say(d, "kernel", d->kernel, DOCTOR_OK, "");
}

static void check_sysctls(struct doctor *d)
{
	char text[32] = "unknown";
	unsigned long seconds;

	if (!ctl_read_line("/proc/sys/fs/leases-enable", text, sizeof(text)))
		doctor_say(d, "fs.leases-enable", "unknown", DOCTOR_NOTE, "/proc/sys cannot be read");
	else if (!strcmp(text, "0"))
		doctor_say(d, "fs.leases-enable", text, DOCTOR_PROBLEM,
			   "nobody can lease a file: sysctl fs.leases-enable=1");
	else
		doctor_say(d, "fs.leases-enable", text, DOCTOR_OK, "");
	if (!ctl_read_line("/proc/sys/fs/lease-break-time", text, sizeof(text)))
		return;
	seconds = strtoul(text, NULL, 10);
	if (!seconds)
		doctor_say(d, "fs.lease-break-time", text, DOCTOR_NOTE,
			   "an opener waits for ever for a holder that is stopped: sysctl "
			   "fs.lease-break-time=45");
	else if (seconds < BREAK_TIME_SHORT)
		doctor_say(d, "fs.lease-break-time", text, DOCTOR_NOTE,
			   "little time to drain and write back in: sysctl fs.lease-break-time=45");
	else
		doctor_say(d, "fs.lease-break-time", text, DOCTOR_OK, "");
}

static void limit_text(rlim_t limit, unsigned int unit, char *buf, size_t size)
{
	if (limit == RLIM_INFINITY)
		snprintf(buf, size, "unlimited");
	else
		snprintf(buf, size, "%llu%s", (unsigned long long)(limit / unit), unit == 1024 ? " KiB" : "");
}

static void check_memlock(struct doctor *d)
{
	struct rlimit limit = { .rlim_cur = 0 };
	char value[48];

	getrlimit(RLIMIT_MEMLOCK, &limit);
	limit_text(limit.rlim_cur, 1024, value, sizeof(value));
	if (limit.rlim_cur == RLIM_INFINITY || has_cap(CAP_IPC_LOCK))
		doctor_say(d, "memlock", value, DOCTOR_OK, "");
	else
		doctor_say(
			d, "memlock", value, DOCTOR_NOTE,
			"all that is registered has to fit: ulimit -l, limits.conf(5) or LimitMEMLOCK=, or "
			"CAP_IPC_LOCK");
}

static void check_sigpending(struct doctor *d)
{
	struct rlimit limit = { .rlim_cur = 0 };
	char value[48];

	getrlimit(RLIMIT_SIGPENDING, &limit);
	limit_text(limit.rlim_cur, 1, value, sizeof(value));
	if (limit.rlim_cur < SIGNALS_FEW)
		doctor_say(d, "sigpending", value, DOCTOR_NOTE,
			   "when more breaks come at once, the rest is found up to half a second later: "
			   "ulimit -i");
	else
		doctor_say(d, "sigpending", value, DOCTOR_OK, "");
}

/* Either will do, see too_many_unix_fds() in the kernel. */
static bool in_flight_is_free(void)
{
	return has_cap(CAP_SYS_RESOURCE) || has_cap(CAP_SYS_ADMIN);
}

/* A leased file takes a descriptor, its anchor's, and one in flight, which counts for all of a user's
 * processes. */
static void check_nofile(struct doctor *d)
{
	bool exempt = in_flight_is_free();
	struct rlimit limit = { .rlim_cur = 0 };
	char value[48], text[256];

	getrlimit(RLIMIT_NOFILE, &limit);
	limit_text(limit.rlim_cur, 1, value, sizeof(value));
	if (limit.rlim_cur >= FILES_FEW) {
		doctor_say(d, "nofile", value, DOCTOR_OK, "");
		return;
	}
	snprintf(text, sizeof(text), "a process can lease some %llu files%s%s: ulimit -n",
		 (unsigned long long)limit.rlim_cur / 2, exempt ? "" : ", and all of a user's processes ",
		 exempt ? "" : value);
	doctor_say(d, "nofile", value, DOCTOR_NOTE, text);
}

/* needed: false if something else does as well. */
static void check_cap(struct doctor *d, int cap, const char *name, bool needed, const char *without)
{
	bool has = has_cap(cap), ok = has || !needed;

	doctor_say(d, name, has ? "yes" : "no", ok ? DOCTOR_OK : DOCTOR_NOTE, ok ? "" : without);
}

static void check_rights(struct doctor *d)
{
	check_cap(d, CAP_LEASE, "cap_lease", true, "only files of this user can be leased");
	check_cap(d, CAP_IPC_LOCK, "cap_ipc_lock", true, "the limit memlock counts");
	check_cap(d, CAP_SYS_RESOURCE, "cap_sys_resource", !in_flight_is_free(),
		  "the limit nofile counts for descriptors in flight, one a leased file");
}

static void print_people(const struct doctor *d)
{
	static const char *const words[] = { "ok", "note", "PROBLEM" };
	static const enum term_colour colours[] = { TERM_GOOD, TERM_NOTE, TERM_BAD };
	const struct doctor_line *l;
	unsigned int i;

	for (i = 0; i < d->count; i++) {
		l = &d->line[i];
		term_cell(words[l->verdict], 9, colours[l->verdict]);
		printf("%-22s%s\n", l->name, l->value);
		if (*l->text) {
			printf("%9s", "");
			term_wrap(9, l->text);
		}
	}
	if (!d->devices)
		puts("         no RDMA device");
}

static void print_json(const struct doctor *d)
{
	static const char *const words[] = { "ok", "note", "problem" };
	unsigned int i;

	json_open(NULL, '{');
	json_string("kernel", d->kernel);
	json_int("devices", d->devices);
	json_bool("ok", !d->problems);
	json_open("checks", '[');
	for (i = 0; i < d->count; i++) {
		json_open(NULL, '{');
		json_string("name", d->line[i].name);
		json_string("value", d->line[i].value);
		json_string("verdict", words[d->line[i].verdict]);
		json_string("text", d->line[i].text);
		json_close();
	}
	json_close();
	json_close();
}

void doctor_say(struct doctor *d, const char *name, const char *value, enum doctor_verdict verdict,
		const char *text)
{
	struct doctor_line *l;

	/* A machine with that many devices is told of the first ones. */
	if (d->count == DOCTOR_LINES)
		return;
	l = &d->line[d->count++];
	snprintf(l->name, sizeof(l->name), "%s", name);
	snprintf(l->value, sizeof(l->value), "%s", value);
	snprintf(l->text, sizeof(l->text), "%s", text);
	l->verdict = verdict;
	d->problems += verdict == DOCTOR_PROBLEM;
}

int ctl_doctor(int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { NULL, 0, NULL, 0 } };
	static struct doctor d;
	struct utsname uts;
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c != 'j')
			return ctl_usage();
		json = true;
	}
	if (optind != argc)
		return ctl_usage();
	uname(&uts);
	snprintf(d.kernel, sizeof(d.kernel), "%.64s", uts.release);
	check_kernel(&d);
	check_sysctls(&d);
	check_memlock(&d);
	check_sigpending(&d);
	check_nofile(&d);
	check_rights(&d);
	doctor_try(&d);
	term_start();
	if (json)
		print_json(&d);
	else
		print_people(&d);
	return d.problems ? CTL_FAILED : CTL_OK;
}
