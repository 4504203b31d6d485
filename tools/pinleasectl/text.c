/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reasons in words that a user can act on: what was refused, why on this file, kernel and
 * device, and what to use instead. What is not told apart here is pinlease_reason_str's sentence.
 */
#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

#include "ctl.h"

#define SAY(...) snprintf(buf, size, __VA_ARGS__)

/* " (EFAULT)": developers look for the name, not for the sentence. Nothing if there is none. */
static const char *errno_text(int err, char buf[32])
{
	const char *name = err ? strerrorname_np(err) : NULL;

	buf[0] = '\0';
	if (name)
		snprintf(buf, 32, " (%s)", name);
	return buf;
}

static bool old_kernel(const struct ctl_asked *a)
{
	return !ctl_kernel_from(a->file->kernel, 6, 5);
}

/* The process in the way, by pid and name: " (process 123, cat)". */
static void say_process(int32_t pid, char *buf, size_t size)
{
	char path[32], comm[32], shown[4 * sizeof(comm)];

	if (!pid) {
		SAY(" (a process that this user may not see, or one that has ended)");
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	if (!ctl_read_line(path, comm, sizeof(comm))) {
		SAY(" (process %d)", pid);
		return;
	}
	ctl_shown(comm, shown, sizeof(shown));
	SAY(" (process %d, %s)", pid, shown);
}

static void say_dirty_tracked(const struct ctl_asked *a, char *buf, size_t size)
{
	if (old_kernel(a))
		SAY("write pin refused: %s page cache, before Linux 6.5 the kernel makes long-term write "
		    "pins "
		    "of dirty-tracked files, and fsync then returns 0 while the disk keeps old data; use "
		    "staged, or odp on a device that has it",
		    a->file->fs);
	else
		SAY("write pin refused: %s page cache, this kernel refuses long-term write pins of "
		    "dirty-tracked files (EFAULT); use staged, or odp on a device that has it",
		    a->file->fs);
}

static void say_pin_refused(const struct ctl_asked *a, char *buf, size_t size)
{
	char number[32];

	if (a->access == PINLEASE_READ && a->device->ring)
		SAY("read pin refused: io_uring pins for writing always, which a file that is open for "
		    "reading refuses; use staged");
	else if (a->access == PINLEASE_READ && old_kernel(a))
		SAY("read pin refused%s: before Linux 6.5 a registration for reading is a write pin in "
		    "disguise, which a file that is open for reading refuses; use staged",
		    errno_text(a->why->sys_errno, number));
	else
		SAY("%s registration refused by the kernel or the driver of the device%s; use staged",
		    ctl_access_name(a->access), errno_text(a->why->sys_errno, number));
}

static void say_no_odp(const struct ctl_asked *a, char *buf, size_t size)
{
	if (a->device->name)
		SAY("device %s does not do on-demand paging for this; use pinned or staged", a->device->name);
	else
		SAY("on-demand paging is a device's: name one with -d");
}

static void say_data_check(const struct ctl_asked *a, char *buf, size_t size)
{
	SAY("device %s put bytes in the wrong place when its on-demand paging was checked, and below path "
	    "MTU 4096 "
	    "nothing can be done about it; use staged, or pinned where the kernel makes the pin",
	    a->device->name ? a->device->name : "?");
}

static void say_no_seals(const struct ctl_asked *a, char *buf, size_t size)
{
	if (a->why->sys_errno == EPERM)
		SAY("seals can only be put on through a descriptor that may write: ask for write access, or "
		    "let "
		    "the maker of the memfd seal it");
	else
		SAY("no seals here: only a memfd made with MFD_ALLOW_SEALING takes them; use the lease "
		    "guard");
}

static void say_in_the_way(const struct ctl_asked *a, char *buf, size_t size)
{
	char who[192];

	say_process(a->why->pid, who, sizeof(who));
	SAY("no lease for %s: somebody has the file open%s; close it there and ask again",
	    a->access == PINLEASE_READ ? "reading while it can be written" : "writing", who);
}

static void say_would_break(const struct ctl_asked *a, char *buf, size_t size)
{
	char who[192];

	say_process(a->why->pid, who, sizeof(who));
	SAY("somebody holds a lease on the file%s, which a closer look would break; let it end, or use "
	    "--force, and the holder has to let go for a moment",
	    who);
}

static void say_not_owner(const struct ctl_asked *a, char *buf, size_t size)
{
	const struct passwd *owner = getpwuid(a->file->owner);

	SAY("only the owner of a file may lease it: run as %s, or grant CAP_LEASE (setcap cap_lease+ep "
	    "PROGRAM)",
	    owner ? owner->pw_name : "its owner");
}

static void say_no_leases(const struct ctl_asked *a, char *buf, size_t size)
{
	char enabled[8], number[32];

	if (ctl_read_line("/proc/sys/fs/leases-enable", enabled, sizeof(enabled)) && !strcmp(enabled, "0"))
		SAY("leases are switched off: sysctl fs.leases-enable=1");
	else
		SAY("%s gives no leases on this kernel%s; guard none, by name, knows of changes made through "
		    "the library only",
		    a->file->fs, errno_text(a->why->sys_errno, number));
}

static void say_file_system(const struct ctl_asked *a, char *buf, size_t size)
{
	SAY("a lease on %s does not hold off every change of the file: another file system, or guard none by "
	    "name",
	    a->file->fs);
}

static void say_hole(const struct ctl_asked *a, char *buf, size_t size)
{
	(void)a;
	SAY("the range has a hole, and a device that has pinned its zeros would not see an O_DIRECT write "
	    "into it: "
	    "fill it (fallocate does), or use staged");
}

static void say_dax(const struct ctl_asked *a, char *buf, size_t size)
{
	SAY("%s pin refused: %s with dax, whose pages the kernel never pins for long (EOPNOTSUPP); use odp "
	    "on a "
	    "device that has it, or staged",
	    ctl_access_name(a->access), a->file->fs);
}

static void say_open(const struct ctl_asked *a, char *buf, size_t size)
{
	/* Without --force the file is opened with O_NONBLOCK. */
	if (a->why->sys_errno == EAGAIN) {
		SAY("somebody whom /proc/locks does not show here, in another pid namespace perhaps, holds a "
		    "lease on "
		    "the file; ask again when it has let go, or wait for it with --force");
		return;
	}
	SAY("the file could not be opened for %s: %s", a->access == PINLEASE_READ ? "reading" : "writing",
	    strerror(a->why->sys_errno ? a->why->sys_errno : -a->err));
}

static void say_memlock(const struct ctl_asked *a, char *buf, size_t size)
{
	(void)a;
	SAY("more memory than RLIMIT_MEMLOCK allows would be pinned: ulimit -l, or a shorter range");
}

static void say_default(const struct ctl_asked *a, char *buf, size_t size)
{
	char number[32];

	SAY("%s%s", pinlease_reason_str(a->why->reason), errno_text(a->why->sys_errno, number));
}

static const struct {
	uint32_t reason;
	void (*say)(const struct ctl_asked *a, char *buf, size_t size);
} sayings[] = {
	{ PINLEASE_WHY_DIRTY_TRACKED, say_dirty_tracked },
	{ PINLEASE_WHY_PIN_REFUSED, say_pin_refused },
	{ PINLEASE_WHY_NO_ODP, say_no_odp },
	{ PINLEASE_WHY_DATA_CHECK, say_data_check },
	{ PINLEASE_WHY_NO_SEALS, say_no_seals },
	{ PINLEASE_WHY_OPENER, say_in_the_way },
	{ PINLEASE_WHY_WOULD_BREAK, say_would_break },
	{ PINLEASE_WHY_NOT_OWNER, say_not_owner },
	{ PINLEASE_WHY_NO_LEASES, say_no_leases },
	{ PINLEASE_WHY_FILESYSTEM, say_file_system },
	{ PINLEASE_WHY_HOLE, say_hole },
	{ PINLEASE_WHY_DAX, say_dax },
	{ PINLEASE_WHY_OPEN, say_open },
	{ PINLEASE_WHY_MEMLOCK, say_memlock },
};

void ctl_text(const struct ctl_asked *asked, char *buf, size_t size)
{
	size_t i;

	for (i = 0; i < sizeof(sayings) / sizeof(sayings[0]); i++) {
		if (sayings[i].reason == asked->why->reason) {
			sayings[i].say(asked, buf, size);
			return;
		}
	}
	say_default(asked, buf, size);
}

void ctl_text_mode(const struct ctl_asked *asked, uint32_t mode_reason, char *buf, size_t size)
{
	const struct pinlease_why why = { .reason = mode_reason };
	struct ctl_asked better = *asked;

	better.why = &why;
	if (mode_reason == PINLEASE_WHY_BEST && asked->mode == PINLEASE_MODE_STAGED)
		SAY("nothing better exists");
	else if (mode_reason == PINLEASE_WHY_BEST)
		SAY("%s", asked->device->name ? pinlease_reason_str(mode_reason)
					      : "no device was named: nothing had to be registered");
	else
		ctl_text(&better, buf, size);
}
