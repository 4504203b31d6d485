/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * matrix.table: one line a cell, "kind access guard mode | one outcome a kernel".
 * "=" is the outcome of the column before, "." a cell that does not come up there.
 * The rows that are printed, and written to $PINLEASE_OUT where that is set, begin with
 * "cell".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"

#define TABLE_ROWS 64
#define TABLE_TEXT 64

struct row {
	char key[TABLE_TEXT], outcome[TABLE_TEXT];
	bool seen;
};

static struct row rows[TABLE_ROWS];
static unsigned int row_count;
static const char *table_kernel;

static const char *const columns[] = { "6.1", "6.12", "7.2", "uring" };

#define COLUMNS (sizeof(columns) / sizeof(columns[0]))

static const char *const access_names[] = { [PINLEASE_READ] = "read", [PINLEASE_WRITE] = "write" };
static const char *const guard_names[] = {
	[PINLEASE_GUARD_AUTO] = "auto",	    [PINLEASE_GUARD_LEASE] = "lease", [PINLEASE_GUARD_SEAL] = "seal",
	[PINLEASE_GUARD_STATIC] = "static", [PINLEASE_GUARD_NONE] = "none",
};
static const char *const mode_names[] = {
	[PINLEASE_MODE_AUTO] = "auto",
	[PINLEASE_MODE_PINNED] = "pinned",
	[PINLEASE_MODE_ODP] = "odp",
	[PINLEASE_MODE_STAGED] = "staged",
};

#define REASON(name) [PINLEASE_WHY_##name] = #name

/* Those that a cell may end in. */
static const char *const reason_names[PINLEASE_WHY_LAST] = {
	REASON(FILESYSTEM),  REASON(NO_LEASES), REASON(DIRTY_TRACKED), REASON(PIN_REFUSED),
	REASON(DAX),	     REASON(NO_ODP),	REASON(DATA_CHECK),    REASON(BACKEND),
	REASON(NOT_REGULAR), REASON(NO_SEALS),	REASON(STAGED_SEALED), REASON(BEST),
	REASON(ASKED),	     REASON(SEALED),	REASON(HOLE),	       REASON(NO_WRITE),
};

static const char *mode_name(uint32_t mode)
{
	return mode == MX_ANY_MODE ? "*" : mode_names[mode];
}

const char *mx_cell_name(const struct mx_cell *cell)
{
	static char name[TABLE_TEXT];

	snprintf(name, sizeof(name), "%s %s %s %s", cell->kind, access_names[cell->access],
		 guard_names[cell->guard], mode_name(cell->mode));
	return name;
}

/* The next field of a line, without the blanks around it. */
static char *next_field(char **line)
{
	char *field = strsep(line, "|"), *end;

	if (!field)
		return NULL;
	field += strspn(field, " ");
	end = field + strlen(field);
	while (end > field && (end[-1] == ' ' || end[-1] == '\n'))
		*--end = 0;
	return field;
}

static void load_line(char *line, const char *kind, size_t column)
{
	char *key = next_field(&line), *field, *outcome = NULL;
	size_t len = strlen(kind), i;

	if (strncmp(key, kind, len) || key[len] != ' ')
		return;
	for (i = 0; i <= column; i++) {
		field = next_field(&line);
		rt_assert(field && *field, "matrix.table: %s: no outcome for %s", key, columns[i]);
		if (strcmp(field, "="))
			outcome = field;
	}
	rt_assert(outcome, "matrix.table: %s: nothing before =", key);
	if (!strcmp(outcome, "."))
		return;
	rt_assert(row_count < TABLE_ROWS, "matrix.table: too many rows of %s", kind);
	snprintf(rows[row_count].key, TABLE_TEXT, "%s", key);
	snprintf(rows[row_count++].outcome, TABLE_TEXT, "%s", outcome);
}

/* As the kernel writes itself, "6.12": comparable; 0 if it is none. */
static unsigned long version_of(const char *kernel)
{
	char *end;
	unsigned long major = strtoul(kernel, &end, 10);

	return *end == '.' ? major << 16 | strtoul(end + 1, NULL, 10) : 0;
}

/* Its own, or, where the archives have gone on to a newer kernel, that of the newest before it. */
static size_t column_of(const char *kernel)
{
	size_t column, best = COLUMNS;

	for (column = 0; column < COLUMNS; column++) {
		if (!strcmp(columns[column], kernel))
			return column;
		if (version_of(columns[column]) && version_of(columns[column]) < version_of(kernel))
			best = column;
	}
	if (best < COLUMNS)
		printf("no column for %s: held to that of %s\n", kernel, columns[best]);
	return best;
}

void mx_table_load(const char *kernel, const char *kind)
{
	FILE *f = fopen(MX_TABLE, "re");
	char *line = NULL;
	size_t size = 0, column = column_of(kernel);

	rt_assert(f, "%s: %s", MX_TABLE, strerror(errno));
	rt_assert(column < COLUMNS, "no column for %s", kernel);
	while (getline(&line, &size, f) > 0)
		if (line[0] != '#' && line[0] != '\n')
			load_line(line, kind, column);
	free(line);
	fclose(f);
	table_kernel = kernel;
}

/* "pinned/lease BEST", or "EOPNOTSUPP check DAX". */
static void outcome_text(const struct mx_outcome *o, char text[TABLE_TEXT])
{
	static const char *const stages[] = {
		[PINLEASE_AT_ARGS] = "args",	     [PINLEASE_AT_OPEN] = "open",
		[PINLEASE_AT_GUARD] = "guard",	     [PINLEASE_AT_ANCHOR] = "anchor",
		[PINLEASE_AT_SIZE] = "size",	     [PINLEASE_AT_MAP] = "map",
		[PINLEASE_AT_ALLOCATE] = "allocate", [PINLEASE_AT_FILL] = "fill",
		[PINLEASE_AT_CHECK] = "check",	     [PINLEASE_AT_REGISTER] = "register",
	};
	const char *reason = o->reason < PINLEASE_WHY_LAST ? reason_names[o->reason] : NULL;
	char number[16];

	if (!reason) {
		snprintf(number, sizeof(number), "reason-%u", o->reason);
		reason = number;
	}
	if (!o->err)
		snprintf(text, TABLE_TEXT, "%s/%s %s", mode_names[o->mode], guard_names[o->guard], reason);
	else
		snprintf(text, TABLE_TEXT, "%s %s %s", strerrorname_np(-o->err), stages[o->stage], reason);
}

static void print_row(const char *row)
{
	const char *folder = getenv("PINLEASE_OUT");
	char path[512];
	FILE *f;

	puts(row);
	if (!folder)
		return;
	snprintf(path, sizeof(path), "%s/matrix-%s", folder, table_kernel);
	f = fopen(path, "ae");
	if (!f)
		return;
	fprintf(f, "%s\n", row);
	fclose(f);
}

bool mx_table_check(const struct mx_cell *cell, const struct mx_outcome *outcome)
{
	const char *name = mx_cell_name(cell);
	char text[TABLE_TEXT], row[3 * TABLE_TEXT];
	struct row *want = NULL;
	unsigned int i;

	outcome_text(outcome, text);
	snprintf(row, sizeof(row), "cell %s %s | %s", cell->kernel, name, text);
	print_row(row);
	for (i = 0; i < row_count && !want; i++)
		if (!strcmp(rows[i].key, name))
			want = &rows[i];
	if (want && !want->seen && !strcmp(want->outcome, text)) {
		want->seen = true;
		return true;
	}
	printf("  matrix.table: %s\n", want ? want->outcome : "has no such cell");
	if (want)
		want->seen = true;
	return false;
}

unsigned int mx_table_left(void)
{
	unsigned int i, left = 0;

	for (i = 0; i < row_count; i++) {
		if (rows[i].seen)
			continue;
		printf("  matrix.table: %s | %s: this cell did not come up\n", rows[i].key, rows[i].outcome);
		left++;
	}
	return left;
}
