/* SPDX-License-Identifier: BSD-3-Clause */
/* pinleasectl: what its commands share. It uses the public interface only, as any program would. */
#ifndef CTL_H
#define CTL_H

#include <infiniband/verbs.h>
#include <pinlease.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Exit statuses. */
enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_USAGE = 2 };

struct ctl_command {
	const char *name, *args, *what;
	int (*run)(int argc, char **argv); /* argv[0] is the command's name; an exit status */
};

/* main.c */
/* "pinleasectl: ..." to stderr, shown as ctl_shown does. */
__attribute__((format(printf, 1, 2))) void ctl_say(const char *fmt, ...);
int ctl_usage(void); /* of the command that runs: CTL_USAGE */
/* A whole number with an optional k, M, G (powers of 1024) or, of a name, its place in names; else false. */
bool ctl_number(const char *text, uint64_t max, uint64_t *number);
bool ctl_name(const char *text, const char *const *names, size_t count, uint32_t *index);
/* "lease", "pinned", "write", "BREAKING"; "?" for what is not known. */
const char *ctl_guard_name(uint32_t guard);
const char *ctl_mode_name(uint32_t mode);
const char *ctl_access_name(uint32_t access);
bool ctl_guard_of(const char *text, uint32_t *guard);
bool ctl_mode_of(const char *text, uint32_t *mode);
/* Standard output could be written in full: status; otherwise CTL_FAILED, and says so. */
int ctl_finish(int status);

/* device.c */
struct ctl_device {
	const char *name; /* NULL: none was asked for */
	struct ibv_context *verbs;
	struct ibv_pd *pd;
	const struct pinlease_backend *backend; /* "io_uring": fixed buffers, instead of verbs */
	struct pinlease_uring *ring;
};
/* By name, or "io_uring"; NULL opens nothing and succeeds. 0, or -errno with a message. */
int ctl_device_open(const char *name, struct ctl_device *device);
void ctl_device_close(struct ctl_device *device);

/*
 * What others have named, files and processes among it, for people: what a terminal would obey
 * instead of showing it, and what is not UTF-8, is \xNN. Cut off where buf ends.
 */
#define CTL_SHOWN_MAX (4 * 4096)
void ctl_shown(const char *name, char *buf, size_t size);
/* file.c: what is known of a file without opening it */
struct ctl_file {
	const char *path;
	char shown[CTL_SHOWN_MAX]; /* path, for people */
	char fs[32];		   /* "ext4" */
	char kernel[72];
	bool dax;
	uid_t owner;
	uint64_t size;
};
void ctl_file_look(const char *path, struct ctl_file *file); /* "unknown" for what cannot be told */
bool ctl_kernel_from(const char *release, unsigned int major, unsigned int minor);
bool ctl_read_line(const char *path, char *buf, size_t size); /* without its newline */

/* text.c: reasons in words that a user can act on */
struct ctl_asked {
	const struct ctl_file *file;
	const struct ctl_device *device;
	uint32_t guard, mode, access;
	int32_t err;
	const struct pinlease_why *why;
};
void ctl_text(const struct ctl_asked *asked, char *buf, size_t size);
/* Why AUTO took that mode and no better one. */
void ctl_text_mode(const struct ctl_asked *asked, uint32_t mode_reason, char *buf, size_t size);

/* How many bytes the character at s has; 0: not UTF-8 (overlong forms and surrogates included). */
unsigned int ctl_utf8_len(const unsigned char *s);
/* json.c: to standard output; keys are NULL inside arrays, and of a string alone */
void json_open(const char *key, char bracket); /* '{' or '[' */
void json_close(void);
void json_string(const char *key, const char *value); /* value NULL: null */
void json_bool(const char *key, bool value);
void json_int(const char *key, int64_t value);

/* term.c: tables and wrapped text; colours on a terminal only */
enum term_colour { TERM_PLAIN, TERM_GOOD, TERM_BAD, TERM_NOTE, TERM_BOLD };
void term_start(void);
void term_cell(const char *text, unsigned int width, enum term_colour colour); /* padded to width */
void term_wrap(unsigned int indent, const char *text); /* from column indent on, newline at the end */

int ctl_probe(int argc, char **argv);
int ctl_hold(int argc, char **argv);
int ctl_run(int argc, char **argv);
int ctl_doctor(int argc, char **argv);

#endif
