// SPDX-License-Identifier: GPL-2.0-only
/* Memory shared with the daemon: zeroed, accounted pages with a kernel mapping. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "ring.h"

int efuse_region_alloc(struct efuse_region *region, unsigned long size)
{
	unsigned long want = PAGE_ALIGN(size) >> PAGE_SHIFT;

	region->pages = kvcalloc(want, sizeof(*region->pages), GFP_KERNEL_ACCOUNT);
	if (!region->pages)
		return -ENOMEM;
	for (region->nr_pages = 0; region->nr_pages < want; region->nr_pages++) {
		struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

		if (!page)
			goto err_free;
		region->pages[region->nr_pages] = page;
	}
	region->va = vmap(region->pages, want, VM_MAP, PAGE_KERNEL);
	if (!region->va)
		goto err_free;
	return 0;

err_free:
	efuse_region_free(region);
	return -ENOMEM;
}

/* A page that the daemon still has mapped lives until it is unmapped there. */
void efuse_region_free(struct efuse_region *region)
{
	unsigned long i;

	if (region->va)
		vunmap(region->va);
	for (i = 0; i < region->nr_pages; i++)
		__free_page(region->pages[i]);
	kvfree(region->pages);
	memset(region, 0, sizeof(*region));
}

int efuse_region_mmap(struct efuse_region *region, struct vm_area_struct *vma)
{
	if (vma_pages(vma) != region->nr_pages)
		return -EINVAL;
	vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	return vm_map_pages_zero(vma, region->pages, region->nr_pages);
}
