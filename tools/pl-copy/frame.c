/* SPDX-License-Identifier: BSD-3-Clause */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "frame.h"

#define MAGIC	0x50434c50u /* "PLCP" */
#define VERSION 1u	    /* of all but hails, which stay as they are */

/* A place in a buffer; what does not fit leaves it NULL for good. */
struct cursor {
	uint8_t *at, *end;
};

static void put(struct cursor *c, const void *bytes, size_t len)
{
	if (!c->at || (size_t)(c->end - c->at) < len) {
		c->at = NULL;
		return;
	}
	memcpy(c->at, bytes, len);
	c->at += len;
}

static void put32(struct cursor *c, uint32_t value)
{
	value = htole32(value);
	put(c, &value, sizeof(value));
}

static void put64(struct cursor *c, uint64_t value)
{
	value = htole64(value);
	put(c, &value, sizeof(value));
}

static void get(struct cursor *c, void *bytes, size_t len)
{
	memset(bytes, 0, len);
	if (!c->at || (size_t)(c->end - c->at) < len) {
		c->at = NULL;
		return;
	}
	memcpy(bytes, c->at, len);
	c->at += len;
}

static uint32_t get32(struct cursor *c)
{
	uint32_t value;

	get(c, &value, sizeof(value));
	return le32toh(value);
}

static uint64_t get64(struct cursor *c)
{
	uint64_t value;

	get(c, &value, sizeof(value));
	return le64toh(value);
}

void hail_encode(enum refusal refusal, uint8_t buf[HAIL_BYTES])
{
	struct cursor c = { .at = buf, .end = buf + HAIL_BYTES };

	put32(&c, MAGIC);
	put32(&c, VERSION);
	put32(&c, refusal);
}

int hail_decode(const void *buf, size_t len, struct hail *hail)
{
	struct cursor c = { .at = (uint8_t *)(uintptr_t)buf };
	uint32_t magic;

	c.end = buf ? c.at + len : NULL;
	magic = get32(&c);
	hail->version = get32(&c);
	hail->refusal = get32(&c);
	if (!c.at || magic != MAGIC)
		return -EPROTO;
	return hail->version == VERSION ? 0 : -EPROTONOSUPPORT;
}

int frame_encode(const struct frame *f, void *buf, size_t cap)
{
	struct cursor c = { .at = buf, .end = (uint8_t *)buf + cap };

	put32(&c, MAGIC);
	put32(&c, VERSION << 16 | f->type);
	put32(&c, f->body_len);
	put32(&c, (uint32_t)f->status);
	put32(&c, f->flags);
	put32(&c, f->breaks);
	put64(&c, f->chunk);
	put64(&c, f->map);
	put64(&c, f->value);
	put(&c, f->sum.bytes, sizeof(f->sum.bytes));
	put(&c, f->body ? f->body : "", f->body_len);
	return c.at ? (int)(c.at - (uint8_t *)buf) : -ENOSPC;
}

int frame_decode(const void *buf, size_t len, struct frame *f)
{
	struct cursor c = { .at = (uint8_t *)(uintptr_t)buf };
	uint32_t magic, kind;

	c.end = c.at + len;
	magic = get32(&c);
	kind = get32(&c);
	f->body_len = get32(&c);
	f->status = (int32_t)get32(&c);
	f->flags = get32(&c);
	f->breaks = get32(&c);
	f->chunk = get64(&c);
	f->map = get64(&c);
	f->value = get64(&c);
	get(&c, f->sum.bytes, sizeof(f->sum.bytes));
	f->type = kind & 0xffff;
	f->body = c.at;
	if (!c.at || magic != MAGIC || kind >> 16 != VERSION || !f->type || f->type >= FRAME_LAST ||
	    f->body_len != (size_t)(c.end - c.at) || f->status > 0)
		return -EPROTO;
	return 0;
}

static void put_string(struct cursor *c, const char *s)
{
	uint32_t len = (uint32_t)strlen(s);

	put32(c, len);
	put(c, s, len);
}

/* No NUL inside, and one at the end. */
static int get_string(struct cursor *c, char *s, size_t size)
{
	uint32_t len = get32(c);

	if (!c->at || len >= size)
		return -EPROTO;
	get(c, s, len);
	s[len] = '\0';
	return c->at && strlen(s) == len ? 0 : -EPROTO;
}

int hello_encode(const struct hello *hello, void *buf, size_t cap)
{
	struct cursor c = { .at = buf, .end = (uint8_t *)buf + cap };

	put(&c, hello->id, sizeof(hello->id));
	put64(&c, hello->data);
	put32(&c, hello->mode);
	put32(&c, hello->flags);
	put64(&c, (uint64_t)hello->mtime_s);
	put32(&c, hello->mtime_ns);
	put_string(&c, hello->path);
	put_string(&c, hello->name);
	return c.at ? (int)(c.at - (uint8_t *)buf) : -ENOSPC;
}

int hello_decode(const void *buf, size_t len, struct hello *hello)
{
	struct cursor c = { .at = (uint8_t *)(uintptr_t)buf };

	c.end = c.at + len;
	get(&c, hello->id, sizeof(hello->id));
	hello->data = get64(&c);
	hello->mode = get32(&c);
	hello->flags = get32(&c);
	hello->mtime_s = (int64_t)get64(&c);
	hello->mtime_ns = get32(&c);
	if (get_string(&c, hello->path, sizeof(hello->path)) ||
	    get_string(&c, hello->name, sizeof(hello->name)))
		return -EPROTO;
	/* A name is that of an entry of a directory, not a way out of it. */
	if (c.at != c.end || hello->mtime_ns >= 1000000000u || !*hello->name || strchr(hello->name, '/') ||
	    !strcmp(hello->name, ".") || !strcmp(hello->name, ".."))
		return -EPROTO;
	return 0;
}

/*
 * How long the character of UTF-8 at s is; 0: none, or one that a terminal obeys. U+0080 to U+009F are
 * such ones, and so is what decoders that are careless take for them: bytes alone, and forms that are too
 * long.
 */
static size_t shown_len(const uint8_t *s, size_t left)
{
	size_t n = *s < 0x80 ? 1 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4, i;

	if (*s < 0x20 || *s == 0x7f || (*s >= 0x80 && *s < 0xc2) || *s > 0xf4 || n > left)
		return 0;
	for (i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((*s == 0xc2 || *s == 0xe0) && s[1] < 0xa0)
		return 0;
	return *s == 0xf0 && s[1] < 0x90 ? 0 : n;
}

void frame_text(const void *from, size_t len, char *text, size_t size)
{
	const uint8_t *bytes = from;
	size_t i = 0, n;

	if (len > size - 1)
		len = size - 1;
	while (i < len) {
		n = shown_len(bytes + i, len - i);
		if (n)
			memmove(text + i, bytes + i, n);
		else
			text[i] = '?';
		i += n ? n : 1;
	}
	text[len] = '\0';
}
