/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON to standard output, a member a line. Strings are file names and messages: bytes that
 * are no UTF-8, which a file name may have, become U+FFFD, so that the output always parses.
 */
#include <stdio.h>
#include <string.h>

#include "ctl.h"

#define JSON_DEPTH 8

static struct {
	char close[JSON_DEPTH];
	bool any[JSON_DEPTH]; /* a member is there already */
	unsigned int depth;
} json;

unsigned int ctl_utf8_len(const unsigned char *s)
{
	unsigned int n = s[0] < 0x80   ? 1
			 : s[0] < 0xc2 ? 0
			 : s[0] < 0xe0 ? 2
			 : s[0] < 0xf0 ? 3
			 : s[0] < 0xf5 ? 4
				       : 0;
	unsigned int i;

	for (i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f))
		return 0;
	if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

static void json_quote(const char *value)
{
	const unsigned char *s = (const unsigned char *)value;
	unsigned int n;

	putchar('"');
	while (*s) {
		n = ctl_utf8_len(s);
		if (!n)
			fputs("\\ufffd", stdout);
		else if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else if (*s < 0x20 || *s == 0x7f)
			printf("\\u%04x", *s);
		else if (*s == 0xc2 && s[1] < 0xa0)
			printf("\\u%04x", s[1]);
		else
			fwrite(s, 1, n, stdout);
		s += n ? n : 1;
	}
	putchar('"');
}

static void json_member(const char *key)
{
	if (json.depth) {
		printf("%s\n%*s", json.any[json.depth - 1] ? "," : "", (int)(2 * json.depth), "");
		json.any[json.depth - 1] = true;
	}
	if (key) {
		json_quote(key);
		fputs(": ", stdout);
	}
}

void json_open(const char *key, char bracket)
{
	json_member(key);
	putchar(bracket);
	json.close[json.depth] = bracket == '{' ? '}' : ']';
	json.any[json.depth++] = false;
}

void json_close(void)
{
	bool any = json.any[--json.depth];

	if (any)
		printf("\n%*s", (int)(2 * json.depth), "");
	putchar(json.close[json.depth]);
	if (!json.depth)
		putchar('\n');
}

void json_string(const char *key, const char *value)
{
	json_member(key);
	if (value)
		json_quote(value);
	else
		fputs("null", stdout);
}

void json_bool(const char *key, bool value)
{
	json_member(key);
	fputs(value ? "true" : "false", stdout);
}

void json_int(const char *key, int64_t value)
{
	json_member(key);
	printf("%lld", (long long)value);
}
