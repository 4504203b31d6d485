/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "source.h"

/* Bytes between holes. A file system that knows none has all of it as data. */
static uint64_t count_data(int fd, uint64_t size)
{
	off_t at = 0, hole;
	uint64_t sum = 0;

	while ((uint64_t)at < size) {
		at = lseek(fd, at, SEEK_DATA);
		hole = at < 0 ? -1 : lseek(fd, at, SEEK_HOLE);
		if (hole < 0)
			return at < 0 && errno == ENXIO ? sum : size;
		sum += (uint64_t)(hole - at);
		at = hole;
	}
	return sum;
}

int source_open(struct source *source, const char *path)
{
	int r = 0;

	/* NONBLOCK: a fifo is refused below, not waited for. */
	source->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (source->fd < 0)
		return -errno;
	if (fstat(source->fd, &source->st))
		r = -errno;
	else if (S_ISDIR(source->st.st_mode))
		r = -EISDIR;
	else if (!S_ISREG(source->st.st_mode))
		r = -EINVAL;
	else if ((uint64_t)source->st.st_size > FILE_MAX_SIZE)
		r = -EFBIG;
	if (r) {
		source_close(source);
		return r;
	}
	source->size = (uint64_t)source->st.st_size;
	source->chunks = chunk_count(source->size);
	source->data = count_data(source->fd, source->size);
	posix_fadvise(source->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	return 0;
}

void source_close(struct source *source)
{
	if (source->fd >= 0)
		close(source->fd);
	source->fd = -1;
}

/* Blocks that [from, end) of the chunk touches. */
static uint64_t blocks_of(uint64_t from, uint64_t end)
{
	uint64_t first = from / BLOCK_BYTES, last = (end - 1) / BLOCK_BYTES;
	uint64_t up_to = last == 63 ? UINT64_MAX : (1ull << (last + 1)) - 1;

	return up_to & ~((1ull << first) - 1);
}

uint64_t source_map(const struct source *source, uint64_t chunk)
{
	uint64_t start = chunk * CHUNK_BYTES, end = start + chunk_len(source->size, chunk), map = 0;
	off_t at = (off_t)start, hole;

	while ((uint64_t)at < end) {
		at = lseek(source->fd, at, SEEK_DATA);
		if (at < 0)
			return errno == ENXIO ? map : blocks_of(0, end - start);
		if ((uint64_t)at >= end)
			break;
		hole = lseek(source->fd, at, SEEK_HOLE);
		if (hole <= at || (uint64_t)hole > end)
			hole = (off_t)end;
		map |= blocks_of((uint64_t)at - start, (uint64_t)hole - start);
		at = hole;
	}
	return map;
}

static int read_all(int fd, char *buf, size_t len, uint64_t off)
{
	size_t done = 0;
	ssize_t n;

	while (done < len) {
		n = pread(fd, buf + done, len - done, (off_t)(off + done));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -ESTALE;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

int source_read(const struct source *source, uint64_t chunk, uint64_t map, char *buf)
{
	uint32_t len = chunk_len(source->size, chunk), off, n;
	int r = 0;

	for (off = 0; off < len && !r; off += n) {
		n = len - off < BLOCK_BYTES ? len - off : BLOCK_BYTES;
		if (map & 1ull << off / BLOCK_BYTES) {
			/* Neighbours in one call. */
			while (off + n < len && map & 1ull << (off + n) / BLOCK_BYTES)
				n += len - off - n < BLOCK_BYTES ? len - off - n : BLOCK_BYTES;
			r = read_all(source->fd, buf + off, n, chunk * CHUNK_BYTES + off);
		} else {
			memset(buf + off, 0, n);
		}
	}
	return r;
}

bool source_changed(const struct source *source)
{
	const struct stat *was = &source->st;
	struct stat is;

	return fstat(source->fd, &is) || is.st_size != was->st_size ||
	       is.st_mtim.tv_sec != was->st_mtim.tv_sec || is.st_mtim.tv_nsec != was->st_mtim.tv_nsec;
}
