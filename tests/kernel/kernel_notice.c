/* SPDX-License-Identifier: BSD-3-Clause */
/* What inotify says of the names of a leased file, and whom its signal reaches. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "scene.h"

#define EVENTS (IN_MOVE_SELF | IN_ATTRIB)

struct watched {
	struct held held;
	char beside[KT_PATH_MAX + 8];
	int notify;
};

static void watch(struct watched *w, enum scene_fs which)
{
	char self[32];

	held_open(&w->held, which, F_WRLCK);
	snprintf(w->beside, sizeof(w->beside), "%s.beside", w->held.path);
	w->notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	assert_true(w->notify >= 0);
	/* By the descriptor: the name may be another file's by now. It opens nothing: no break. */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", w->held.fd);
	assert_true(inotify_add_watch(w->notify, self, EVENTS) >= 0);
	held_is_untouched(&w->held);
}

static void unwatch(struct watched *w)
{
	close(w->notify);
	held_close(&w->held);
	unlink(w->beside);
}

/* All that has come, or'ed. */
static uint32_t seen(struct watched *w)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	const struct inotify_event *ev;
	uint32_t mask = 0;
	ssize_t n, at;

	while ((n = read(w->notify, buf, sizeof(buf))) > 0) {
		for (at = 0; at < n; at += (ssize_t)(sizeof(*ev) + ev->len)) {
			ev = (const struct inotify_event *)(const void *)(buf + at);
			mask |= ev->mask;
		}
	}
	return mask;
}

static nlink_t links(const struct watched *w)
{
	struct stat st;

	assert_int_equal(fstat(w->held.fd, &st), 0);
	return st.st_nlink;
}

static void a_rename_is_a_move_self_and_no_break(void **state)
{
	struct watched w;

	(void)state;
	for_each_fs(which)
	{
		watch(&w, which);
		assert_int_equal(rename(w.held.path, w.beside), 0);
		assert_int_equal(seen(&w), IN_MOVE_SELF);
		assert_int_equal(links(&w), 1);
		held_is_untouched(&w.held);
		unwatch(&w);
	}
}

static void unlink_and_replacement_are_an_attrib_with_a_link_less(void **state)
{
	struct watched w;
	int fd;

	(void)state;
	for_each_fs(which)
	{
		watch(&w, which);
		assert_int_equal(unlink(w.held.path), 0);
		assert_int_equal(seen(&w), IN_ATTRIB);
		assert_int_equal(links(&w), 0);
		held_is_untouched(&w.held);
		unwatch(&w);

		watch(&w, which);
		fd = open(w.beside, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		close(fd);
		assert_int_equal(rename(w.beside, w.held.path), 0);
		assert_int_equal(seen(&w), IN_ATTRIB);
		assert_int_equal(links(&w), 0);
		held_is_untouched(&w.held);
		unwatch(&w);
	}
}

/* So IN_ATTRIB alone says nothing. */
static void a_new_link_and_chmod_are_an_attrib_too(void **state)
{
	struct watched w;

	(void)state;
	for_each_fs(which)
	{
		watch(&w, which);
		assert_int_equal(chmod(w.held.path, 0640), 0);
		assert_int_equal(seen(&w), IN_ATTRIB);
		assert_int_equal(link(w.held.path, w.beside), 0);
		assert_int_equal(seen(&w), IN_ATTRIB);
		assert_int_equal(links(&w), 2);
		held_is_untouched(&w.held);
		unwatch(&w);
	}
}

static void inotify_signals_the_owning_thread_and_names_itself(void **state)
{
	struct f_owner_ex owner = { .type = F_OWNER_TID, .pid = (pid_t)syscall(SYS_gettid) };
	struct watched w;
	siginfo_t info;

	(void)state;
	watch(&w, TMPFS);
	assert_int_equal(fcntl(w.notify, F_SETSIG, SCENE_SIG), 0);
	assert_int_equal(fcntl(w.notify, F_SETOWN_EX, &owner), 0);
	assert_int_equal(fcntl(w.notify, F_SETFL, O_NONBLOCK | O_ASYNC), 0);
	assert_int_equal(rename(w.held.path, w.beside), 0);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_LONG, &info), 1);
	assert_int_equal(info.si_fd, w.notify);
	assert_int_equal(seen(&w), IN_MOVE_SELF);
	assert_int_equal(kt_sig_wait(SCENE_SIG, SCENE_MS, NULL), 0);
	unwatch(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_rename_is_a_move_self_and_no_break),
		cmocka_unit_test(unlink_and_replacement_are_an_attrib_with_a_link_less),
		cmocka_unit_test(a_new_link_and_chmod_are_an_attrib_too),
		cmocka_unit_test(inotify_signals_the_owning_thread_and_names_itself),
	};

	kt_init();
	return cmocka_run_group_tests(tests, scene_setup, NULL);
}
