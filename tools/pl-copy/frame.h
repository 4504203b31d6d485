/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What pl-copy and its server say to each other: one frame is one SEND. A head of 64 bytes, little-endian,
 * and a body.
 *
 *	sender                             receiver
 *	HELLO  who, what, where     ──▶
 *	                            ◀──    WELCOME  or ERROR
 *	OFFER  chunk, map, sum      ──▶
 *	                            ◀──    HAVE     it is there already: next
 *	                            ◀──    GRANT    the descriptor of a grant of this chunk
 *	RDMA WRITE ...
 *	DONE   chunk                ──▶
 *	PEER   RETURNED             ◀─▶    PEER     RECALL, RESTORED, GONE (pinlease_peers(7)), at any time
 *	                            ◀──    DURABLE  on the disk, and read back: the sum is right
 *	                            ◀──    AGAIN    it is not: offer it again
 *	FINISH                      ──▶
 *	                            ◀──    FINISHED the file has its name: the sum of all sums
 *	                            ◀──    AGAIN    for up to a window of chunks
 *
 * PING says nothing, but that whoever sends it lives.
 *
 * Before all that each hails the other in the private data of rdma_cm's connection requests, so nobody
 * sends a frame to what is no pl-copy, or another version of it.
 */
#ifndef PLC_FRAME_H
#define PLC_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "sum.h"

#define FRAME_HEAD    64u
#define FRAME_MAX     2048u	  /* head and body: the longest path, or one message of the library's */
#define CHUNK_BYTES   (4u << 20)  /* what is offered, leased, granted and synced at a time */
#define BLOCK_BYTES   (64u << 10) /* of one RDMA WRITE; a chunk's map has a bit for each: 0 is a hole */
#define CHUNK_BLOCKS  (CHUNK_BYTES / BLOCK_BYTES)
#define WINDOW	      4u	   /* chunks between OFFER and DURABLE */
#define FILE_MAX_SIZE (1ull << 46) /* 64 TiB: the sums of so many chunks fit into memory */

enum frame_type {
	FRAME_HELLO = 1,
	FRAME_OFFER,
	FRAME_DONE,
	FRAME_FINISH,
	FRAME_WELCOME,
	FRAME_GRANT,
	FRAME_HAVE,
	FRAME_DURABLE,
	FRAME_AGAIN,
	FRAME_WAITING,
	FRAME_FINISHED,
	FRAME_ERROR,
	FRAME_PEER,
	FRAME_PING,
	FRAME_LAST
};

#define FRAME_RETRY 1u /* flags of ERROR: it will pass, connect again */
#define FRAME_WRONG 2u /* flags of AGAIN: it had another sum */

struct frame {
	uint32_t type, flags;
	int32_t status;	 /* ERROR: -errno */
	uint32_t breaks; /* receiver: of this file, so far */
	uint64_t chunk;
	uint64_t map;	/* OFFER */
	uint64_t value; /* HELLO: size of the file; WELCOME: bytes of an earlier try that are there */
	struct sum sum;
	const void *body; /* in the buffer it was decoded from */
	uint32_t body_len;
};

#define HELLO_PRESERVE 1u /* flags: mode and time of the source */

struct hello {		/* the body of HELLO */
	uint8_t id[16]; /* of one run of pl-copy, over all its connections */
	uint64_t data;	/* bytes of the file that are no holes */
	uint32_t mode, flags;
	int64_t mtime_s;
	uint32_t mtime_ns;
	char path[1025]; /* at the receiver */
	char name[256];	 /* of the source, for a path that is a directory */
};

#define HAIL_BYTES 12u /* of 56 that a connection request may carry */

enum refusal { REFUSAL_NONE, REFUSAL_VERSION, REFUSAL_BUSY };

struct hail {
	uint32_t version;
	uint32_t refusal; /* REJECT only: enum refusal, or what a later version has */
};

void hail_encode(enum refusal refusal, uint8_t buf[HAIL_BYTES]);
/* 0; -EPROTO: not from a pl-copy; -EPROTONOSUPPORT: from another version. Zeros may follow. */
int hail_decode(const void *buf, size_t len, struct hail *hail);

/* Bytes, or -ENOSPC. */
int frame_encode(const struct frame *f, void *buf, size_t cap);
/* 0 or -EPROTO; a status is never positive. */
int frame_decode(const void *buf, size_t len, struct frame *f);
int hello_encode(const struct hello *hello, void *buf, size_t cap);
int hello_decode(const void *buf, size_t len, struct hello *hello);

/* What others have written, for a terminal: without control characters, and with an end. */
void frame_text(const void *from, size_t len, char *text, size_t size);

/* The length of a chunk of a file of this size: all but the last are whole. */
static inline uint32_t chunk_len(uint64_t size, uint64_t chunk)
{
	uint64_t left = size - chunk * CHUNK_BYTES;

	return left < CHUNK_BYTES ? (uint32_t)left : CHUNK_BYTES;
}

static inline uint64_t chunk_count(uint64_t size)
{
	return size / CHUNK_BYTES + (size % CHUNK_BYTES ? 1 : 0);
}

#endif
