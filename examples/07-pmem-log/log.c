/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "log.h"

#define MAGIC 0x4c4f4721u

uint64_t log_size(uint32_t len)
{
	return (sizeof(struct log_record) + len + 7) / 8 * 8;
}

/* FNV-1a. An attacker could forge it; a torn write cannot. */
static uint64_t sum_of(uint64_t sum, const void *data, size_t len)
{
	const unsigned char *p = data;

	while (len--)
		sum = (sum ^ *p++) * 0x100000001b3u;
	return sum;
}

static uint64_t record_sum(const struct log_record *record, uint32_t len)
{
	uint64_t sum = sum_of(0xcbf29ce484222325u, record, offsetof(struct log_record, sum));

	return sum_of(sum, record->text, len);
}

void log_make(struct log_record *record, uint64_t at, const char *text, uint32_t len)
{
	memset(record, 0, log_size(len));
	record->magic = MAGIC;
	record->len = len;
	record->at = at;
	memcpy(record->text, text, len);
	record->sum = record_sum(record, len);
}

bool log_whole(const void *log, uint64_t size, uint64_t at)
{
	const struct log_record *record = (const void *)((const char *)log + at);
	uint32_t len;

	if (at + sizeof(*record) > size || record->magic != MAGIC || record->at != at)
		return false;
	len = record->len;
	return len <= LOG_TEXT_MAX && log_size(len) <= size - at && record->sum == record_sum(record, len);
}

uint64_t log_end(const void *log, uint64_t size)
{
	uint64_t at = 0;

	while (log_whole(log, size, at))
		at += log_size(((const struct log_record *)(const void *)((const char *)log + at))->len);
	return at;
}

/* stat(2) says 0 for a device-dax. */
static int device_size(dev_t dev, uint64_t *size)
{
	char line[64], name[64];
	FILE *f;
	int n;

	snprintf(name, sizeof(name), "/sys/dev/char/%u:%u/size", major(dev), minor(dev));
	f = fopen(name, "re");
	if (!f)
		return -errno;
	n = fgets(line, sizeof(line), f) ? sscanf(line, "%" SCNu64, size) : 0;
	fclose(f);
	return n == 1 ? 0 : -EINVAL;
}

int log_space(const char *path, uint64_t *space)
{
	uint64_t size;
	struct stat st;
	int r = 0;

	if (stat(path, &st))
		return -errno;
	size = (uint64_t)st.st_size;
	if (S_ISCHR(st.st_mode))
		r = device_size(st.st_rdev, &size);
	if (!r)
		*space = size < LOG_SPACE_MAX ? size : LOG_SPACE_MAX;
	return r;
}
