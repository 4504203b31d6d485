/* SPDX-License-Identifier: BSD-3-Clause */
/* Text for people: as wide as their terminal, and coloured there unless NO_COLOR is set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ctl.h"

#define TERM_NARROW 40u
#define TERM_WIDE   100u /* lines longer than this are hard to read */

static bool coloured;
static unsigned int columns; /* 0: not a terminal, lines are not wrapped */

/* C1 controls as well: U+009B alone begins an escape sequence, also in UTF-8. */
static bool shows_itself(const unsigned char *s, unsigned int len)
{
	return len && s[0] >= 0x20 && s[0] != 0x7f && !(s[0] == 0xc2 && s[1] < 0xa0);
}

void ctl_shown(const char *name, char *buf, size_t size)
{
	const unsigned char *s = (const unsigned char *)name;
	size_t at = 0;

	while (*s && at + 5 <= size) {
		unsigned int len = ctl_utf8_len(s);

		if (shows_itself(s, len)) {
			memcpy(buf + at, s, len);
			at += len;
			s += len;
		} else {
			at += (size_t)snprintf(buf + at, size - at, "\\x%02x", *s++);
		}
	}
	buf[at] = '\0';
}

void term_start(void)
{
	const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
	struct winsize size = { .ws_col = 0 };

	if (!isatty(STDOUT_FILENO))
		return;
	coloured = !(no_color && *no_color) && !(term && !strcmp(term, "dumb"));
	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
		size.ws_col = 80;
	columns = size.ws_col > TERM_WIDE ? TERM_WIDE : size.ws_col;
	if (columns < TERM_NARROW)
		columns = TERM_NARROW;
}

void term_cell(const char *text, unsigned int width, enum term_colour colour)
{
	static const char *const codes[] = {
		[TERM_PLAIN] = "",	  [TERM_GOOD] = "\033[32m", [TERM_BAD] = "\033[31m",
		[TERM_NOTE] = "\033[33m", [TERM_BOLD] = "\033[1m",
	};
	bool with = coloured && colour != TERM_PLAIN;
	size_t len = strlen(text);

	printf("%s%s%s%*s", with ? codes[colour] : "", text, with ? "\033[0m" : "",
	       len < width ? (int)(width - len) : 0, "");
}

void term_wrap(unsigned int indent, const char *text)
{
	unsigned int at = indent;
	size_t word;

	for (;;) {
		text += strspn(text, " ");
		word = strcspn(text, " ");
		if (!word)
			break;
		if (at > indent && columns && at + 1 + word > columns) {
			printf("\n%*s", (int)indent, "");
			at = indent;
		} else if (at > indent) {
			putchar(' ');
			at++;
		}
		fwrite(text, 1, word, stdout);
		at += (unsigned int)word;
		text += word;
	}
	putchar('\n');
}
