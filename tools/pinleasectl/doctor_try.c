/* SPDX-License-Identifier: BSD-3-Clause */
/* What a doctor finds out by trying: a lease on a file in memory, and with each device a registration. */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "doctor.h"

#define FILE_SIZE (64u << 10)

/* In memory, and unnamed: there is nothing to clean up, whatever happens. */
static int try_file(void)
{
	int fd = memfd_create("pinleasectl", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && ftruncate(fd, FILE_SIZE)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void try_library(struct doctor *d, struct pinlease_ctx *ctx, int fd)
{
	struct pinlease_probe_result table = { .size = sizeof(table) };
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	int r = pinlease_probe_fd(ctx, fd, NULL, &why, &table);

	if (!r)
		why = table.auto_write.why;
	if (r || table.auto_write.err)
		doctor_say(d, "library", pinlease_version(), DOCTOR_PROBLEM, pinlease_reason_str(why.reason));
	else if (table.flags & PINLEASE_PROBE_NO_MEMBARRIER)
		doctor_say(d, "library", pinlease_version(), DOCTOR_NOTE,
			   "membarrier(2) cannot be had (a seccomp filter?): counting an operation costs a "
			   "barrier");
	else
		doctor_say(d, "library", pinlease_version(), DOCTOR_OK, "");
}

static unsigned int mtu_bytes(enum ibv_mtu mtu)
{
	return 128u << mtu;
}

/* "port 1 active, path MTU 1024; ..."; true: at least one is active. */
static bool device_ports(struct ibv_context *verbs, char *buf, size_t size)
{
	struct ibv_device_attr attr = { .phys_port_cnt = 0 };
	struct ibv_port_attr port;
	bool active = false;
	size_t used = 0;
	uint8_t i;

	ibv_query_device(verbs, &attr);
	buf[0] = '\0';
	for (i = 1; i <= attr.phys_port_cnt && used < size; i++) {
		if (ibv_query_port(verbs, i, &port))
			continue;
		active |= port.state == IBV_PORT_ACTIVE;
		used += (size_t)snprintf(
			buf + used, size - used, "%sport %u %s, path MTU %u", used ? "; " : "", i,
			port.state == IBV_PORT_ACTIVE ? "active" : "not active", mtu_bytes(port.active_mtu));
	}
	return active;
}

static const struct pinlease_probe_cell *pinned_write(const struct pinlease_probe_result *table)
{
	uint32_t i;

	for (i = 0; i < table->count; i++)
		if (table->cell[i].guard == PINLEASE_GUARD_NONE &&
		    table->cell[i].mode == PINLEASE_MODE_PINNED && table->cell[i].access == PINLEASE_WRITE)
			return &table->cell[i];
	return NULL;
}

static void say_odp(struct doctor *d, const char *device, const struct pinlease_probe_result *table)
{
	char name[72];

	snprintf(name, sizeof(name), "%.60s odp", device);
	if (!table->odp_err)
		doctor_say(d, name, "passed the data check", DOCTOR_OK, "");
	else if (table->odp_reason == PINLEASE_WHY_DATA_CHECK)
		doctor_say(d, name, "failed the data check", DOCTOR_NOTE,
			   "bytes were in the wrong place, or the check could not be made: odp is not "
			   "chosen, and "
			   "writes into ext4, xfs, btrfs and fs-dax are staged");
	else
		doctor_say(d, name, "none", DOCTOR_NOTE,
			   "writes into ext4, xfs, btrfs and fs-dax are staged");
}

static void try_device(struct doctor *d, struct pinlease_ctx *ctx, int fd, const char *name)
{
	struct pinlease_probe_opts opts = { .size = sizeof(opts), .len = FILE_SIZE };
	struct pinlease_probe_result table = { .size = sizeof(table) };
	struct pinlease_why why = { .reason = PINLEASE_WHY_NONE };
	const struct pinlease_probe_cell *cell;
	struct ctl_device device;
	char ports[160];
	bool active;

	d->devices++;
	if (ctl_device_open(name, &device)) {
		doctor_say(d, name, "cannot be opened", DOCTOR_PROBLEM,
			   "may this user open /dev/infiniband/uverbs*?");
		return;
	}
	active = device_ports(device.verbs, ports, sizeof(ports));
	opts.pd = device.pd;
	if (pinlease_probe_fd(ctx, fd, &opts, &why, &table)) {
		doctor_say(d, name, ports, DOCTOR_PROBLEM, pinlease_reason_str(why.reason));
	} else {
		cell = pinned_write(&table);
		if (cell && cell->err)
			doctor_say(d, name, ports, DOCTOR_PROBLEM, pinlease_reason_str(cell->why.reason));
		else
			doctor_say(d, name, ports, active ? DOCTOR_OK : DOCTOR_NOTE,
				   active ? "" : "no port is active: is the link up?");
		say_odp(d, name, &table);
	}
	ctl_device_close(&device);
}

void doctor_try(struct doctor *d)
{
	struct ibv_device **list, **one;
	struct pinlease_ctx *ctx;
	int fd = try_file(), r;

	r = pinlease_ctx_new(NULL, &ctx);
	if (r || fd < 0) {
		doctor_say(d, "library", pinlease_version(), DOCTOR_PROBLEM,
			   r ? strerror(-r) : "memfd_create(2) cannot be had");
	} else {
		try_library(d, ctx, fd);
		list = ibv_get_device_list(NULL);
		for (one = list; list && *one; one++)
			try_device(d, ctx, fd, ibv_get_device_name(*one));
		if (list)
			ibv_free_device_list(list);
	}
	if (!r)
		pinlease_ctx_free(ctx);
	if (fd >= 0)
		close(fd);
}
