/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every mapping is made by pmem2_map_new, also beside one of the application's own:
 * pmem2_map_from_existing would have to be told a granularity that only who made the mapping
 * knows, and it refuses what the application has mapped by libpmem2. Cache lines are flushed
 * by their physical address, so any mapping of the range will do.
 */
#include <errno.h>
#include <libpmem2.h>
#include <sys/mman.h>

#include "pmem.h"
#include "sys.h"
#include "util.h"

#define HUGE_PAGE (2ull << 20)

/* libpmem2 answers -errno, or numbers of its own far below (pmem2_err_to_errno is declared, not exported). */
static int pmem_ret(int r)
{
	return r > PMEM2_E_UNKNOWN ? r : r == PMEM2_E_NOSUPP ? -EOPNOTSUPP : -EINVAL;
}

int pl_pmem_device(int fd, uint64_t *size, uint64_t *alignment)
{
	struct pmem2_source *source;
	size_t s = 0, a = 0;
	int r = pmem2_source_from_fd(&source, fd);

	if (r)
		return pmem_ret(r);
	r = pmem2_source_size(source, &s);
	if (!r)
		r = pmem2_source_alignment(source, &a);
	pmem2_source_delete(&source);
	if (r)
		return pmem_ret(r);
	*size = s;
	*alignment = a;
	return 0;
}

/*
 * Any granularity is taken; what came of it is asked afterwards. libpmem2 puts mappings
 * at multiples of 2 MiB, whatever their offset: a huge page needs the two to agree, so that
 * much more of the file is mapped in front. It refuses a length that goes beyond the end
 * of the file, and rounds up itself when it is given none.
 */
static int map_config(struct pmem2_config *config, const struct pmem2_source *source, uint64_t off,
		      uint64_t len, bool writable)
{
	size_t size;
	int r = pmem2_source_size(source, &size);

	if (r)
		return pmem_ret(r);
	r = pmem2_config_set_required_store_granularity(config, PMEM2_GRANULARITY_PAGE);
	if (!r)
		r = pmem2_config_set_offset(config, off);
	if (!r && off + len <= size)
		r = pmem2_config_set_length(config, len);
	if (!r)
		r = pmem2_config_set_protection(config, PMEM2_PROT_READ | (writable ? PMEM2_PROT_WRITE : 0));
	return pmem_ret(r);
}

static int map_new(int fd, uint64_t off, uint64_t len, bool writable, struct pmem2_map **map)
{
	struct pmem2_source *source;
	struct pmem2_config *config;
	int r = pmem_ret(pmem2_source_from_fd(&source, fd));

	if (r)
		return r;
	r = pmem_ret(pmem2_config_new(&config));
	if (r)
		goto delete_source;
	r = map_config(config, source, off, len, writable);
	if (!r)
		r = pmem_ret(pmem2_map_new(map, config, source));
	pmem2_config_delete(&config);
delete_source:
	pmem2_source_delete(&source);
	return r;
}

int pl_pmem_map(int fd, uint64_t off, uint64_t len, bool writable, struct pl_pmem **out)
{
	uint64_t head = len >= HUGE_PAGE ? off % HUGE_PAGE : 0;
	struct pl_pmem *pmem = pl_sys_alloc(sizeof(*pmem));
	struct pmem2_map *map;
	int r;

	if (!pmem)
		return -ENOMEM;
	r = map_new(fd, off - head, len + head, writable, &map);
	if (r)
		goto free_pmem;
	r = pl_sys_advise(pmem2_map_get_address(map), pmem2_map_get_size(map), MADV_DONTFORK);
	if (r)
		goto delete_map;
	pmem->map = map;
	pmem->addr = (char *)pmem2_map_get_address(map) + head;
	pmem->len = len;
	pmem->by_page = pmem2_map_get_store_granularity(map) == PMEM2_GRANULARITY_PAGE;
	*out = pmem;
	return 0;
delete_map:
	pmem2_map_delete(&map);
free_pmem:
	pl_sys_free(pmem);
	return r;
}

void pl_pmem_unmap(struct pl_pmem *pmem)
{
	struct pmem2_map *map = pmem->map;

	pmem2_map_delete(&map);
	pl_sys_free(pmem);
}

/* by_page it would be msync(2), and abort(3) when that fails. */
void pl_pmem_persist(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	pmem2_get_persist_fn(pmem->map)((char *)pmem->addr + off, len);
}

void pl_pmem_copy(const struct pl_pmem *pmem, uint64_t off, const void *from, uint64_t len)
{
	pmem2_get_memcpy_fn(pmem->map)((char *)pmem->addr + off, from, len, 0);
}

/* Memory that no NVDIMM region is known of (CXL, an emulator's) has nothing deeper. */
int pl_pmem_deep_flush(const struct pl_pmem *pmem, uint64_t off, uint64_t len)
{
	int r = pmem2_deep_flush(pmem->map, (char *)pmem->addr + off, len);

	return r == PMEM2_E_DAX_REGION_NOT_FOUND || r == PMEM2_E_NOSUPP ? 0 : pmem_ret(r);
}
