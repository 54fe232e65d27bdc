// SPDX-License-Identifier: GPL-2.0
/*
 * A DRM accel driver for QEMU's "edu" PCI device: an accelerator for tests.
 *
 * It offers /dev/accel/accelN with shmem buffers, PRIME export and import, and
 * one command, EDU_COPY, with which the *device* copies bytes inside a buffer:
 * by DMA into its own memory and back out, through the IOMMU. Device activity
 * shows in fdinfo (drm-engine-dma) and in the trace event edu_accel:edu_copy.
 *
 * Registers: docs/specs/edu in QEMU's sources.
 */
#include <linux/dma-mapping.h>
#include <linux/firmware.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iopoll.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/pci.h>

#include <drm/drm_accel.h>
#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_gem_shmem_helper.h>
#include <drm/drm_ioctl.h>
#include <drm/drm_managed.h>
#include <drm/drm_print.h>

#define CREATE_TRACE_POINTS
#include "edu_accel_trace.h"

#define EDU_FIRMWARE		"edu/edu_fw.bin"

#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_START		BIT(0)
#define EDU_DMA_TO_MEMORY	BIT(1)

#define EDU_BUFFER		0x40000
#define EDU_BUFFER_SIZE		4096
/*
 * Of the device's property dma_mask, which is 28 bits where nothing is said: too
 * few to reach the guest's memory, or its bounce buffer, without an IOMMU.
 */
#define EDU_DMA_BITS		32

struct edu {
	struct drm_device drm;
	void __iomem *registers;
	struct mutex lock;	/* the device has one DMA engine */
};

struct edu_file {
	atomic64_t busy_ns;
};

/* Copies length bytes from offset src to offset dst of one buffer. */
struct edu_copy {
	__u32 handle;
	__u32 length;
	__u64 src;
	__u64 dst;
};

#define DRM_IOCTL_EDU_COPY	DRM_IOWR(DRM_COMMAND_BASE + 0, struct edu_copy)

static struct edu *to_edu(struct drm_device *drm)
{
	return container_of(drm, struct edu, drm);
}

static int edu_dma(struct edu *edu, u64 source, u64 destination, u32 count, u32 direction)
{
	u32 command;

	writeq(source, edu->registers + EDU_DMA_SOURCE);
	writeq(destination, edu->registers + EDU_DMA_DESTINATION);
	writeq(count, edu->registers + EDU_DMA_COUNT);
	writeq(EDU_DMA_START | direction, edu->registers + EDU_DMA_COMMAND);
	return readl_poll_timeout(edu->registers + EDU_DMA_COMMAND, command,
				  !(command & EDU_DMA_START), 1000, 2 * USEC_PER_SEC);
}

static int edu_copy_in_segment(struct edu *edu, struct sg_table *pages, const struct edu_copy *copy)
{
	size_t size = sg_dma_len(pages->sgl);
	dma_addr_t base = sg_dma_address(pages->sgl);
	int ret;

	if (copy->length > size || copy->src > size - copy->length || copy->dst > size - copy->length)
		return -E2BIG;

	dma_sync_sgtable_for_device(edu->drm.dev, pages, DMA_BIDIRECTIONAL);
	mutex_lock(&edu->lock);
	ret = edu_dma(edu, base + copy->src, EDU_BUFFER, copy->length, 0);
	if (!ret)
		ret = edu_dma(edu, EDU_BUFFER, base + copy->dst, copy->length, EDU_DMA_TO_MEMORY);
	mutex_unlock(&edu->lock);
	dma_sync_sgtable_for_cpu(edu->drm.dev, pages, DMA_BIDIRECTIONAL);
	return ret;
}

static int edu_copy_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct edu_file *client = file->driver_priv;
	const struct edu_copy *copy = data;
	struct drm_gem_object *object;
	struct sg_table *pages;
	ktime_t start;
	int ret, index;

	if (!copy->length || copy->length > EDU_BUFFER_SIZE)
		return -EINVAL;
	if (!drm_dev_enter(drm, &index))
		return -ENODEV;

	object = drm_gem_object_lookup(file, copy->handle);
	if (!object) {
		ret = -ENOENT;
		goto exit;
	}

	pages = drm_gem_shmem_get_pages_sgt(to_drm_gem_shmem_obj(object));
	if (IS_ERR(pages)) {
		ret = PTR_ERR(pages);
		goto put;
	}

	start = ktime_get();
	ret = edu_copy_in_segment(to_edu(drm), pages, copy);
	atomic64_add(ktime_to_ns(ktime_sub(ktime_get(), start)), &client->busy_ns);
	trace_edu_copy(drm->dev, copy->handle, copy->length, ret);
put:
	drm_gem_object_put(object);
exit:
	drm_dev_exit(index);
	return ret;
}

static int edu_open(struct drm_device *drm, struct drm_file *file)
{
	file->driver_priv = kzalloc(sizeof(struct edu_file), GFP_KERNEL);
	return file->driver_priv ? 0 : -ENOMEM;
}

static void edu_postclose(struct drm_device *drm, struct drm_file *file)
{
	kfree(file->driver_priv);
}

static void edu_show_fdinfo(struct drm_printer *printer, struct drm_file *file)
{
	struct edu_file *client = file->driver_priv;

	drm_printf(printer, "drm-engine-dma:\t%lld ns\n", atomic64_read(&client->busy_ns));
	drm_show_memory_stats(printer, file);
}

static const struct drm_ioctl_desc edu_ioctls[] = {
	DRM_IOCTL_DEF_DRV(EDU_COPY, edu_copy_ioctl, 0),
};

static const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	DRM_ACCEL_FOPS,
	.show_fdinfo = drm_show_fdinfo,
};

static const struct drm_driver edu_driver = {
	DRM_GEM_SHMEM_DRIVER_OPS,
	.driver_features = DRIVER_GEM | DRIVER_COMPUTE_ACCEL,
	.open = edu_open,
	.postclose = edu_postclose,
	.show_fdinfo = edu_show_fdinfo,
	.fops = &edu_fops,
	.ioctls = edu_ioctls,
	.num_ioctls = ARRAY_SIZE(edu_ioctls),
	.name = KBUILD_MODNAME,
	.desc = "accelerator for tests on QEMU's edu device",
	.date = "20261122",
	.major = 1,
};

static int edu_load_firmware(struct device *dev)
{
	const struct firmware *firmware;
	int ret = request_firmware(&firmware, EDU_FIRMWARE, dev);

	if (ret)
		return ret;
	dev_info(dev, "firmware " EDU_FIRMWARE " loaded, %zu bytes\n", firmware->size);
	release_firmware(firmware);
	return 0;
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct edu *edu;
	int ret;

	edu = devm_drm_dev_alloc(&pdev->dev, &edu_driver, struct edu, drm);
	if (IS_ERR(edu))
		return PTR_ERR(edu);
	ret = drmm_mutex_init(&edu->drm, &edu->lock);
	if (ret)
		return ret;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	ret = pcim_iomap_regions(pdev, BIT(0), KBUILD_MODNAME);
	if (ret)
		return ret;
	edu->registers = pcim_iomap_table(pdev)[0];
	pci_set_master(pdev);
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(EDU_DMA_BITS));
	if (ret)
		return ret;
	ret = edu_load_firmware(&pdev->dev);
	if (ret)
		return ret;

	pci_set_drvdata(pdev, edu);
	return drm_dev_register(&edu->drm, 0);
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	drm_dev_unplug(&edu->drm);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_pci_driver = {
	.name = KBUILD_MODNAME,
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
};
module_pci_driver(edu_pci_driver);

MODULE_DESCRIPTION("Accelerator for tests on QEMU's edu device");
MODULE_FIRMWARE(EDU_FIRMWARE);
MODULE_IMPORT_NS(DMA_BUF);
MODULE_LICENSE("GPL");
