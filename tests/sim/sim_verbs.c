/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices, memory regions, and the peer's writes in flight. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sim_verbs.h"

#define IBV_WRITES (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)

/* Devices */

struct ibv_pd *sim_device(enum sim_odp odp)
{
	static uint64_t guids;
	struct sim_device *d = calloc(1, sizeof(*d));

	if (!d)
		sim_die("out of memory");
	d->odp = odp;
	d->mtu[0] = IBV_MTU_1024;
	d->guid = ++guids;
	snprintf(d->name, sizeof(d->name), "sim%u", (unsigned int)d->guid);
	d->context.cmd_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	d->context.async_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	d->pd.context = &d->context;
	sim_lock();
	pl_list_add_tail(&sim.devices, &d->link);
	sim_unlock();
	return &d->pd;
}

void sim_device_mtu(struct ibv_pd *pd, unsigned int port, unsigned int mtu)
{
	struct sim_device *d = sim_device_of(pd->context);

	d->mtu[port - 1] = 0;
	while (mtu && 128u << d->mtu[port - 1] != mtu)
		d->mtu[port - 1]++;
}

unsigned int sim_device_qps(struct ibv_pd *pd)
{
	return sim_device_of(pd->context)->checks;
}

void sim_device_gids(struct ibv_pd *pd, const struct sim_gid *gid, int count)
{
	struct sim_device *d = sim_device_of(pd->context);

	d->gid = gid;
	d->gids = count;
	d->used = -1;
}

int sim_device_gid(struct ibv_pd *pd)
{
	return sim_device_of(pd->context)->used;
}

struct sim_device *sim_device_of(struct ibv_context *context)
{
	return pl_container(context, struct sim_device, context);
}

void sim_verbs_reset(void)
{
	struct pl_list *pos, *tmp;
	struct sim_device *d;

	if (!sim.devices.next) {
		pl_list_init(&sim.devices);
		pl_list_init(&sim.mrs);
	}
	pl_list_for_each_safe (pos, tmp, &sim.devices) {
		d = pl_container(pos, struct sim_device, link);
		close(d->context.cmd_fd);
		close(d->context.async_fd);
		pl_list_del(pos);
		free(d);
	}
}

unsigned int sim_mrs(void)
{
	long n;

	sim_lock();
	n = sim.counts.mrs;
	sim_unlock();
	return (unsigned int)n;
}

void sim_dereg_lies(bool lies)
{
	sim_lock();
	sim.dereg_lies = lies;
	sim_unlock();
}

unsigned int sim_dma_late(void)
{
	unsigned int n;

	sim_lock();
	n = sim.dma_late;
	sim_unlock();
	return n;
}

/* Memory regions */

struct sim_mr *sim_mr_find(uint32_t key)
{
	struct pl_list *pos;

	pl_list_for_each (pos, &sim.mrs)
		if (pl_container(pos, struct sim_mr, link)->mr.rkey == key)
			return pl_container(pos, struct sim_mr, link);
	return NULL;
}

/* What get_user_pages() says, as from 6.5: no long-term write pin of dirty-tracked page cache, none of
 * fs-dax. */
static int mr_check(struct ibv_pd *pd, uintptr_t addr, uint64_t len, uint32_t access)
{
	const struct sim_map *first = sim_map_at(addr), *last = sim_map_at(addr + len - 1);
	bool odp = access & IBV_ACCESS_ON_DEMAND;

	if (odp && sim_device_of(pd->context)->odp == SIM_ODP_NONE)
		return -EOPNOTSUPP;
	if (!len || !first || !last)
		return -EFAULT;
	if (first->ofd && !odp && (sim.dax == SIM_DAX_FILES || sim.dax == SIM_DAX_PAGES))
		return -EOPNOTSUPP;
	if (!(access & IBV_WRITES))
		return 0;
	if (!(first->prot & PROT_WRITE))
		return -EFAULT;
	if (first->ofd && !odp && sim.fs_magic != SIM_TMPFS && sim.dax != SIM_DAX_DEVICE)
		return -EFAULT;
	return 0;
}

int pl_verbs_reg_mr(struct ibv_pd *pd, void *addr, uint64_t len, uint64_t iova, uint32_t access,
		    struct ibv_mr **out)
{
	int r = sim_enter("reg_mr", SIM_MEMORY | SIM_STEP);
	struct sim_mr *mr;

	if (r)
		return r;
	sim_lock();
	r = mr_check(pd, (uintptr_t)addr, len, access);
	if (!r) {
		mr = calloc(1, sizeof(*mr));
		if (!mr)
			sim_die("out of memory");
		mr->mr = (struct ibv_mr){ .context = pd->context, .pd = pd, .addr = addr, .length = len };
		mr->mr.lkey = mr->mr.rkey = ++sim.next_key;
		mr->iova = iova;
		mr->access = access;
		mr->live = true;
		pl_list_add_tail(&sim.mrs, &mr->link);
		sim.counts.mrs++;
		sim_judge_register(mr);
		*out = &mr->mr;
	}
	sim_unlock();
	return r;
}

static void dma_end(struct sim_dma **link, enum sim_dma_state state)
{
	struct sim_dma *d = *link;

	*link = d->next;
	d->state = state;
	d->ended = sim.now;
	if (state == SIM_DMA_LANDED && sim.watcher && sim.watcher->landed)
		sim.watcher->landed(d);
	sim_wake(d, true);
}

/* The fence: what is in flight is cut off. */
int pl_verbs_dereg_mr(struct ibv_mr *ibmr)
{
	struct sim_mr *mr = pl_container(ibmr, struct sim_mr, mr);
	int r = sim_enter("dereg_mr", SIM_STEP);
	struct sim_dma **link;

	if (r)
		return r;
	sim_lock();
	if (sim.dereg_lies) {
		sim_unlock();
		return 0;
	}
	for (link = &sim.dma; *link;) {
		if ((*link)->rkey == mr->mr.rkey)
			dma_end(link, SIM_DMA_CUT);
		else
			link = &(*link)->next;
	}
	pl_list_del(&mr->link);
	sim.counts.mrs--;
	free(mr);
	sim_unlock();
	return 0;
}

/* The peer's writes */

/* Not the sanitizer's business: the device's stores race with whoever reads the memory, by nature. */
__attribute__((no_sanitize("thread"))) static void dma_copy(unsigned char *to, const unsigned char *from,
							    size_t n)
{
	volatile unsigned char *at = to;
	size_t i;

	for (i = 0; i < n; i++)
		at[i] = from[i];
}

/* Page by page: what lies behind the end of a file that has shrunk is an orphan, and touching it SIGBUS. */
void sim_memory_write(uintptr_t addr, const void *data, size_t len)
{
	const unsigned char *from = data;
	const struct sim_map *m;
	struct stat st;
	size_t n;

	for (; len; len -= n, addr += n, from += n) {
		n = pl_min_u64(len, SIM_PAGE - addr % SIM_PAGE);
		m = sim_map_at(addr);
		if (!m)
			sim_die("DMA to memory that is not there");
		sim_judge_dma(m);
		if (m->ofd &&
		    (stat(m->ofd->inode->path, &st) || m->off + (addr - m->start) >= (uint64_t)st.st_size))
			continue;
		dma_copy((unsigned char *)addr, from, n);
	}
}

static bool dma_land(const struct sim_dma *d)
{
	struct sim_mr *mr = sim_mr_find(d->rkey);
	unsigned char *data;

	if (!mr || !mr->live || !(mr->access & IBV_ACCESS_REMOTE_WRITE) || d->iova < mr->iova ||
	    d->iova + d->len > mr->iova + mr->mr.length)
		return false;
	data = malloc(d->len);
	if (!data)
		sim_die("out of memory");
	if (d->data)
		memcpy(data, d->data, d->len);
	else
		sim_fill(data, d->len, d->seed);
	sim_memory_write((uintptr_t)mr->mr.addr + (d->iova - mr->iova), data, d->len);
	free(data);
	return true;
}

uint64_t sim_dma_next(void)
{
	const struct sim_dma *d;
	uint64_t next = SIM_NEVER;

	for (d = sim.dma; d; d = d->next)
		next = pl_min_u64(next, d->due);
	return next;
}

void sim_dma_fire(void)
{
	struct sim_dma **link = &sim.dma;

	while (*link) {
		if ((*link)->due <= sim.now)
			dma_end(link, dma_land(*link) ? SIM_DMA_LANDED : SIM_DMA_CUT);
		else
			link = &(*link)->next;
	}
}

void sim_dma_post(struct sim_dma *d, uint64_t after)
{
	sim_lock();
	d->state = SIM_DMA_PENDING;
	d->due = sim.now + after;
	d->next = sim.dma;
	sim.dma = d;
	sim_dma_fire();
	sim_unlock();
}

void sim_dma_write(struct sim_dma *d, uint32_t rkey, uint64_t iova, uint32_t len, unsigned int seed,
		   uint64_t after)
{
	*d = (struct sim_dma){ .rkey = rkey, .iova = iova, .len = len, .seed = seed };
	sim_dma_post(d, after);
}

enum sim_dma_state sim_dma_wait(struct sim_dma *d)
{
	enum sim_dma_state state;

	sim_lock();
	while (d->state == SIM_DMA_PENDING)
		sim_wait(d, SIM_NEVER);
	state = d->state;
	sim_unlock();
	return state;
}

enum sim_dma_state sim_dma_state(struct sim_dma *d)
{
	enum sim_dma_state state;

	sim_lock();
	state = d->state;
	sim_unlock();
	return state;
}
