/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * demo-check LOG CUT_OFF CUT_NS [IMAGE UNTIL_NS]...: counts the missing writes. It does not
 * know the library, and judges with and without it alike.
 *
 * LOG has the writes whose completion succeeded, in the order of their completions. An
 * IMAGE is what somebody found in the file; UNTIL_NS is when it may be relied on: writes
 * acknowledged later are not expected in it. The change cut off what lies from CUT_OFF
 * on, and returned at CUT_NS.
 *
 * A write is missing when its completion succeeded, no later acknowledged write covers
 * it, and the file does not hold it (or what was posted to its slot later), except where
 * the change itself removed that range and the completion was polled before the change
 * returned. A write that several images miss is counted once.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tell.h"

#define SLOTS 65536u	/* what demo_word has bits for */
#define WORDS (DEMO_SLOT / sizeof(uint64_t))

struct blob {
	void *data;
	size_t len;
};

static struct blob load(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct blob b = { 0 };
	struct stat st;
	ssize_t n;
	size_t done = 0;

	if (fd < 0 || fstat(fd, &st))
		give_up(path, errno);
	b.len = (size_t)st.st_size;
	b.data = malloc(b.len + 1);
	if (!b.data)
		give_up(path, ENOMEM);
	for (; done < b.len; done += (size_t)n) {
		n = read(fd, (char *)b.data + done, b.len - done);
		if (n <= 0)
			give_up(path, n ? errno : EIO);
	}
	close(fd);
	return b;
}

/* Does the image hold write w, or in its place one that was posted later? */
static bool held(const struct blob *image, const struct demo_acked *w)
{
	const uint64_t *words = image->data;
	size_t i;

	if ((w->slot + 1) * DEMO_SLOT > image->len)
		return false;
	for (i = w->slot * WORDS; i < (w->slot + 1) * WORDS; i++)
		if (words[i] < demo_word(w->seq, w->slot) || words[i] % SLOTS != w->slot)
			return false;
	return true;
}

struct judge {
	struct demo_acked *log;
	size_t acked;
	uint64_t cut_slot, cut_ns;
	bool *missing;	/* of each write in the log */
	size_t *last;	/* of each slot: 1 + the index of the last write */
	size_t count, looked;
};

static void look(struct judge *j, const char *path, uint64_t until_ns)
{
	struct blob image = load(path);
	size_t i, slot;

	memset(j->last, 0, SLOTS * sizeof(*j->last));
	for (i = 0; i < j->acked; i++)
		if (j->log[i].polled_ns <= until_ns && j->log[i].slot < SLOTS)
			j->last[j->log[i].slot] = i + 1;
	for (slot = 0; slot < SLOTS; slot++) {
		if (!j->last[slot])
			continue;
		i = j->last[slot] - 1;
		if (slot >= j->cut_slot && j->log[i].polled_ns <= j->cut_ns)
			continue;
		j->looked++;
		if (j->missing[i] || held(&image, &j->log[i]))
			continue;
		j->missing[i] = true;
		j->count++;
	}
	free(image.data);
}

int main(int argc, char **argv)
{
	struct judge j = { 0 };
	struct blob log;
	int i;

	if (argc < 6 || argc % 2)
		give_up("usage: demo-check LOG CUT_OFF CUT_NS IMAGE UNTIL_NS...", EINVAL);
	log = load(argv[1]);
	j.log = log.data;
	j.acked = log.len / sizeof(*j.log);
	j.cut_slot = strtoull(argv[2], NULL, 10) / DEMO_SLOT;
	j.cut_ns = strtoull(argv[3], NULL, 10);
	j.missing = calloc(j.acked + 1, sizeof(*j.missing));
	j.last = calloc(SLOTS, sizeof(*j.last));
	if (!j.missing || !j.last)
		give_up("memory", ENOMEM);
	for (i = 4; i < argc; i += 2)
		look(&j, argv[i], strtoull(argv[i + 1], NULL, 10));
	tell("checked %zu %zu %zu", j.acked, j.count, j.looked);
	free(j.last);
	free(j.missing);
	free(j.log);
	return 0;
}
