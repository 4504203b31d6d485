/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sized structs: each call that takes one, with a struct of every size and content, in memory
 * that ends where the struct does. What it has to answer is known: -EINVAL for a size that is
 * none, -E2BIG for a tail that this version does not know and that is not zero; and a failure
 * touches nothing.
 *
 * An input: the call, the size (2 bytes), the struct's content behind its size.
 */
#include <errno.h>
#include <stdbool.h>
#include <sys/socket.h>

#include <pinlease/carry.h>
#include <pinlease/peers.h>

#include "fuzz_sim.h"
#include "wire.h"

#define SIZE_MAX_KNOWN 4096u /* lib/opts.c */

static struct fuzz_sim world;
static struct pinlease_peer *remote;
static const char *other; /* a file that nobody has open */
static int sockets[2];

static void *marker = &world;

static void peer_make(void)
{
	const struct pl_wire w = { .type = PL_WIRE_GRANT,
				   .gen = 1,
				   .addr = 4096,
				   .len = 4096,
				   .access = PINLEASE_WRITE,
				   .align = 1 };
	unsigned char buf[PINLEASE_MESSAGE_MAX];
	int n = pl_wire_encode(&w, buf, sizeof(buf));

	fuzz_require(!pinlease_peer_attach(buf, (size_t)n, &remote));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	world = fuzz_sim_make();
	other = sim_file("other", SIM_PAGE);
	fuzz_require(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	peer_make();
	return 0;
}

/* What the call may say of a struct that is no struct: 0, it is one. */
static int in_error(const char *p, size_t size, size_t known)
{
	size_t i;

	if (size < known || size > SIZE_MAX_KNOWN)
		return -EINVAL;
	for (i = known; i < size; i++)
		if (p[i])
			return -E2BIG;
	return 0;
}

/* Where the caller gives the library something to follow, it is something. */
#define SET(type, p, size, member, value)                               \
	do {                                                            \
		if ((size) >= sizeof(type) && (size) <= SIZE_MAX_KNOWN) \
			((type *)(void *)(p))->member = (value);        \
	} while (0)

static int call_ctx_new(char *p, size_t size, void **out)
{
	int r;

	SET(struct pinlease_ctx_opts, p, size, log, NULL);
	r = pinlease_ctx_new((void *)p, (struct pinlease_ctx **)out);
	if (!r)
		fuzz_require(!pinlease_ctx_free(*out));
	return r;
}

static int call_file_open(char *p, size_t size, void **out)
{
	int r = pinlease_file_open(world.ctx, other, (void *)p, NULL, (struct pinlease_file **)out);

	(void)size;
	if (!r)
		fuzz_require(!pinlease_file_close(*out));
	return r;
}

static int call_acquire(char *p, size_t size, void **out)
{
	int r;

	SET(struct pinlease_opts, p, size, addr, NULL);
	SET(struct pinlease_opts, p, size, backend, NULL);
	SET(struct pinlease_opts, p, size, pd, p[sizeof(struct pinlease_opts) - 1] & 1 ? world.pd : NULL);
	r = pinlease_acquire(world.file, 8 * SIM_PAGE, SIM_PAGE, (void *)p, NULL, (struct pinlease **)out);
	if (!r)
		fuzz_require(!pinlease_release(*out));
	return r;
}

static int call_grant_new(char *p, size_t size, void **out)
{
	int r = pinlease_grant_new(world.lease, (void *)p, (struct pinlease_grant **)out);

	(void)size;
	if (!r)
		fuzz_require(!pinlease_grant_free(*out));
	return r;
}

static int call_probe(char *p, size_t size, void **out)
{
	static struct pinlease_probe_result result;
	int r;

	SET(struct pinlease_probe_opts, p, size, pd, NULL);
	SET(struct pinlease_probe_opts, p, size, backend, NULL);
	result.size = sizeof(result);
	r = pinlease_probe(world.ctx, other, (void *)p, NULL, &result);
	if (!r)
		*out = &result;
	return r;
}

static int call_carry(char *p, size_t size, void **out)
{
	int r = pinlease_carry_socket(sockets[0], (void *)p, (struct pinlease_carry **)out);

	(void)size;
	if (!r)
		fuzz_require(!pinlease_carry_free(*out));
	return r;
}

static const struct in_call {
	size_t known;
	int (*call)(char *p, size_t size, void **out);
} in_calls[] = {
	{ sizeof(struct pinlease_ctx_opts), call_ctx_new },
	{ sizeof(struct pinlease_file_opts), call_file_open },
	{ sizeof(struct pinlease_opts), call_acquire },
	{ sizeof(struct pinlease_grant_opts), call_grant_new },
	{ sizeof(struct pinlease_probe_opts), call_probe },
	{ sizeof(struct pinlease_carry_opts), call_carry },
};

static int call_view(char *p)
{
	return pinlease_view_get(world.lease, 0, (void *)p);
}

static int call_lease_info(char *p)
{
	return pinlease_lease_info(world.lease, (void *)p);
}

static int call_file_info(char *p)
{
	return pinlease_file_info(world.file, (void *)p);
}

static int call_stats(char *p)
{
	return pinlease_ctx_stats(world.ctx, (void *)p);
}

static int call_begin(char *p)
{
	int r = pinlease_peer_begin(remote, PINLEASE_READ, 0, 1, (void *)p);

	if (!r)
		pinlease_peer_end(remote, 1, 1);
	return r;
}

static int call_result(char *p)
{
	return pinlease_probe(world.ctx, other, NULL, NULL, (void *)p);
}

static const struct out_call {
	size_t known;
	int (*call)(char *p);
} out_calls[] = {
	{ sizeof(struct pinlease_view), call_view },
	{ sizeof(struct pinlease_lease_info), call_lease_info },
	{ sizeof(struct pinlease_file_info), call_file_info },
	{ sizeof(struct pinlease_ctx_stats), call_stats },
	{ sizeof(struct pinlease_peer_key), call_begin },
	{ sizeof(struct pinlease_probe_result), call_result },
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* Memory for a struct that says it has size bytes: no byte more, but for its size member. */
static char *make(struct fuzz_input *in, size_t size, size_t *real)
{
	char *p;

	*real = size > SIZE_MAX_KNOWN || size < sizeof(size) ? sizeof(size) : size;
	p = malloc(*real);
	fuzz_require(p);
	fuzz_bytes(in, p, *real);
	memcpy(p, &size, sizeof(size));
	return p;
}

static void in_one(const struct in_call *c, struct fuzz_input *in, size_t size)
{
	void *out = marker;
	size_t real;
	char *p = make(in, size, &real);
	int r = c->call(p, size, &out), error = in_error(p, size, c->known);

	fuzz_require(error ? r == error : r != -E2BIG);
	fuzz_require(r <= 0 && (out == marker) == (r != 0));
	free(p);
}

static void out_one(const struct out_call *c, struct fuzz_input *in, size_t size)
{
	size_t real, said, i;
	char *p = make(in, size, &real), *was = malloc(real);
	int r;

	fuzz_require(was);
	memcpy(was, p, real);
	r = c->call(p);
	fuzz_require(r == (size < c->known || size > SIZE_MAX_KNOWN ? -EINVAL : 0));
	if (r)
		fuzz_require(!memcmp(p, was, real));
	memcpy(&said, p, sizeof(said));
	fuzz_require(said == size);
	for (i = c->known; !r && i < size; i++)
		fuzz_require(!p[i]);
	free(was);
	free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct fuzz_input in = { .at = data, .end = data + len };
	unsigned int call = fuzz_byte(&in) % (COUNT(in_calls) + COUNT(out_calls));
	/* Larger than any struct, too. */
	size_t size = fuzz_int(&in, 2);

	if (size >= 0x8000)
		size <<= 40;
	if (call < COUNT(in_calls))
		in_one(&in_calls[call], &in, size);
	else
		out_one(&out_calls[call - COUNT(in_calls)], &in, size);
	return 0;
}
