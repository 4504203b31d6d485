/* SPDX-License-Identifier: BSD-3-Clause */
#include <ctype.h>
#include <string.h>

#include "json_check.h"

struct parser {
	const char *at, *end;
};

static bool value(struct parser *p, unsigned int depth);

static void blanks(struct parser *p)
{
	while (p->at < p->end && strchr(" \t\r\n", *p->at) && *p->at)
		p->at++;
}

static bool take(struct parser *p, char c)
{
	if (p->at == p->end || *p->at != c)
		return false;
	p->at++;
	return true;
}

static bool word(struct parser *p, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(p->end - p->at) < n || memcmp(p->at, w, n) != 0)
		return false;
	p->at += n;
	return true;
}

static bool escape(struct parser *p)
{
	unsigned int i;

	if (!take(p, 'u')) {
		if (p->at == p->end || !*p->at || !strchr("\"\\/bfnrt", *p->at))
			return false;
		p->at++;
		return true;
	}
	for (i = 0; i < 4; i++, p->at++)
		if (p->at == p->end || !isxdigit((unsigned char)*p->at))
			return false;
	return true;
}

/* That it is UTF-8 is seen elsewhere. */
static bool string(struct parser *p)
{
	if (!take(p, '"'))
		return false;
	while (p->at < p->end && *p->at != '"') {
		if ((unsigned char)*p->at < 0x20)
			return false;
		if (*p->at++ == '\\' && !escape(p))
			return false;
	}
	return take(p, '"');
}

static bool digits(struct parser *p)
{
	const char *from = p->at;

	while (p->at < p->end && isdigit((unsigned char)*p->at))
		p->at++;
	return p->at > from;
}

static bool number(struct parser *p)
{
	const char *from;

	take(p, '-');
	from = p->at;
	if (!digits(p) || (*from == '0' && p->at > from + 1))
		return false;
	return !take(p, '.') || digits(p);
}

static bool member(struct parser *p, bool named, unsigned int depth)
{
	if (named) {
		blanks(p);
		if (!string(p))
			return false;
		blanks(p);
		if (!take(p, ':'))
			return false;
	}
	return value(p, depth);
}

static bool members(struct parser *p, char end, unsigned int depth)
{
	blanks(p);
	if (take(p, end))
		return true;
	do {
		if (!member(p, end == '}', depth))
			return false;
	} while (take(p, ','));
	return take(p, end);
}

static bool value(struct parser *p, unsigned int depth)
{
	bool good;

	blanks(p);
	if (depth > 16 || p->at == p->end)
		return false;
	if (take(p, '{'))
		good = members(p, '}', depth + 1);
	else if (take(p, '['))
		good = members(p, ']', depth + 1);
	else if (*p->at == '"')
		good = string(p);
	else
		good = word(p, "true") || word(p, "false") || word(p, "null") || number(p);
	blanks(p);
	return good;
}

bool json_check(const char *text, size_t size)
{
	struct parser p = { .at = text, .end = text + size };

	return value(&p, 0) && p.at == p.end;
}

bool json_check_lines(const char *text, size_t size)
{
	const char *end = text + size, *line;

	for (; text < end; text = line + 1) {
		line = memchr(text, '\n', (size_t)(end - text));
		if (!line || *text != '{' || !json_check(text, (size_t)(line - text)))
			return false;
	}
	return true;
}
