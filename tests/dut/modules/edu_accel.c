// SPDX-License-Identifier: GPL-2.0
/*
 * A DRM driver for QEMU's "edu" PCI device: an accelerator for tests.
 *
 * It offers /dev/accel/accelN with shmem buffers, PRIME export and import, and
 * two commands: EDU_CREATE, which makes a buffer, and EDU_COPY, with which the
 * *device* copies bytes inside a buffer: by DMA into its own memory and back
 * out, through the IOMMU. Jobs go through the DRM scheduler, a queue a client,
 * so device activity shows in its trace events too, besides fdinfo
 * (drm-engine-dma) and the trace event edu_accel:edu_copy. Where the kernel has
 * no accel class (Debian's for arm64) the node is /dev/dri/renderDN, as the
 * NPUs and GPUs of such machines have it.
 *
 * With fdinfo_keys=0 it says nothing in fdinfo, as many drivers do.
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
#include <drm/gpu_scheduler.h>

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

static bool fdinfo_keys = true;
module_param(fdinfo_keys, bool, 0644);
MODULE_PARM_DESC(fdinfo_keys, "account for engine time and memory in fdinfo");

struct edu {
	struct drm_device drm;
	void __iomem *registers;
	struct drm_gpu_scheduler scheduler;	/* the device has one DMA engine: a job at a time */
};

struct edu_file {
	struct drm_sched_entity queue;
	u64 id;
	atomic64_t busy_ns;
};

/* Makes a buffer of size bytes. */
struct edu_create {
	__u64 size;
	__u32 handle;
	__u32 pad;
};

/* Copies length bytes from offset src to offset dst of one buffer. */
struct edu_copy {
	__u32 handle;
	__u32 length;
	__u64 src;
	__u64 dst;
};

#define DRM_IOCTL_EDU_COPY	DRM_IOWR(DRM_COMMAND_BASE + 0, struct edu_copy)
#define DRM_IOCTL_EDU_CREATE	DRM_IOWR(DRM_COMMAND_BASE + 1, struct edu_create)

/* A copy on its way. Its memory is the scheduler's until free_job. */
struct edu_job {
	struct drm_sched_job base;
	struct edu *edu;
	struct edu_file *client;
	dma_addr_t src;
	dma_addr_t dst;
	u32 length;
};

static struct edu *to_edu(struct drm_device *drm)
{
	return container_of(drm, struct edu, drm);
}

static struct edu_job *to_edu_job(struct drm_sched_job *job)
{
	return container_of(job, struct edu_job, base);
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

/* The device is asked whether it is done, so the job is over when this returns: no fence of the hardware's. */
static struct dma_fence *edu_run_job(struct drm_sched_job *base)
{
	struct edu_job *job = to_edu_job(base);
	ktime_t start = ktime_get();
	int ret;

	ret = edu_dma(job->edu, job->src, EDU_BUFFER, job->length, 0);
	if (!ret)
		ret = edu_dma(job->edu, EDU_BUFFER, job->dst, job->length, EDU_DMA_TO_MEMORY);
	atomic64_add(ktime_to_ns(ktime_sub(ktime_get(), start)), &job->client->busy_ns);
	return ret ? ERR_PTR(ret) : NULL;
}

static enum drm_gpu_sched_stat edu_timedout_job(struct drm_sched_job *base)
{
	return DRM_GPU_SCHED_STAT_NOMINAL;
}

static void edu_free_job(struct drm_sched_job *base)
{
	drm_sched_job_cleanup(base);
	kfree(to_edu_job(base));
}

static const struct drm_sched_backend_ops edu_scheduler_ops = {
	.run_job = edu_run_job,
	.timedout_job = edu_timedout_job,
	.free_job = edu_free_job,
};

/* Queue a job of a client and wait for it. */
static int edu_run(struct edu *edu, struct edu_file *client, dma_addr_t src, dma_addr_t dst, u32 length)
{
	struct edu_job *job = kzalloc(sizeof(*job), GFP_KERNEL);
	struct dma_fence *finished;
	int ret;

	if (!job)
		return -ENOMEM;
	job->edu = edu;
	job->client = client;
	job->src = src;
	job->dst = dst;
	job->length = length;
	ret = drm_sched_job_init(&job->base, &client->queue, 1, client, client->id);
	if (ret) {
		kfree(job);
		return ret;
	}
	drm_sched_job_arm(&job->base);
	finished = dma_fence_get(&job->base.s_fence->finished);
	drm_sched_entity_push_job(&job->base);
	dma_fence_wait(finished, false);
	ret = dma_fence_get_status(finished);
	dma_fence_put(finished);
	return ret < 0 ? ret : 0;
}

static int edu_copy_in_segment(struct edu *edu, struct edu_file *client, struct sg_table *pages,
			       const struct edu_copy *copy)
{
	size_t size = sg_dma_len(pages->sgl);
	dma_addr_t base = sg_dma_address(pages->sgl);
	int ret;

	if (copy->length > size || copy->src > size - copy->length || copy->dst > size - copy->length)
		return -E2BIG;

	dma_sync_sgtable_for_device(edu->drm.dev, pages, DMA_BIDIRECTIONAL);
	ret = edu_run(edu, client, base + copy->src, base + copy->dst, copy->length);
	dma_sync_sgtable_for_cpu(edu->drm.dev, pages, DMA_BIDIRECTIONAL);
	return ret;
}

static int edu_create_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	struct edu_create *create = data;
	struct drm_gem_shmem_object *object;
	int ret;

	if (!create->size || create->size > SZ_1G || create->pad)
		return -EINVAL;
	object = drm_gem_shmem_create(drm, PAGE_ALIGN(create->size));
	if (IS_ERR(object))
		return PTR_ERR(object);
	ret = drm_gem_handle_create(file, &object->base, &create->handle);
	drm_gem_object_put(&object->base);
	return ret;
}

static int edu_copy_ioctl(struct drm_device *drm, void *data, struct drm_file *file)
{
	const struct edu_copy *copy = data;
	struct drm_gem_object *object;
	struct sg_table *pages;
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

	ret = edu_copy_in_segment(to_edu(drm), file->driver_priv, pages, copy);
	trace_edu_copy(drm->dev, copy->handle, copy->length, ret);
put:
	drm_gem_object_put(object);
exit:
	drm_dev_exit(index);
	return ret;
}

static int edu_open(struct drm_device *drm, struct drm_file *file)
{
	struct drm_gpu_scheduler *scheduler = &to_edu(drm)->scheduler;
	struct edu_file *client = kzalloc(sizeof(*client), GFP_KERNEL);
	int ret;

	if (!client)
		return -ENOMEM;
	ret = drm_sched_entity_init(&client->queue, DRM_SCHED_PRIORITY_NORMAL, &scheduler, 1, NULL);
	if (ret) {
		kfree(client);
		return ret;
	}
	client->id = file->client_id;
	file->driver_priv = client;
	return 0;
}

static void edu_postclose(struct drm_device *drm, struct drm_file *file)
{
	struct edu_file *client = file->driver_priv;

	drm_sched_entity_destroy(&client->queue);
	kfree(client);
}

static void edu_show_fdinfo(struct drm_printer *printer, struct drm_file *file)
{
	struct edu_file *client = file->driver_priv;

	if (!fdinfo_keys)
		return;
	drm_printf(printer, "drm-engine-dma:\t%lld ns\n", atomic64_read(&client->busy_ns));
	drm_show_memory_stats(printer, file);
}

static const struct drm_ioctl_desc edu_ioctls[] = {
	DRM_IOCTL_DEF_DRV(EDU_COPY, edu_copy_ioctl, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(EDU_CREATE, edu_create_ioctl, DRM_RENDER_ALLOW),
};

#if IS_ENABLED(CONFIG_DRM_ACCEL)
#define EDU_NODE		DRIVER_COMPUTE_ACCEL
#define EDU_FOPS		DRM_ACCEL_FOPS
#else
#define EDU_NODE		DRIVER_RENDER
#define EDU_FOPS		DRM_GEM_FOPS
#endif

static const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	EDU_FOPS,
	.show_fdinfo = drm_show_fdinfo,
};

static const struct drm_driver edu_driver = {
	DRM_GEM_SHMEM_DRIVER_OPS,
	.driver_features = DRIVER_GEM | EDU_NODE,
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

static void edu_end_scheduler(struct drm_device *drm, void *scheduler)
{
	drm_sched_fini(scheduler);
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	const struct drm_sched_init_args scheduler = {
		.ops = &edu_scheduler_ops,
		.num_rqs = DRM_SCHED_PRIORITY_COUNT,
		.credit_limit = 1,
		.timeout = MAX_SCHEDULE_TIMEOUT,
		.name = "edu",
		.dev = &pdev->dev,
	};
	struct edu *edu;
	int ret;

	edu = devm_drm_dev_alloc(&pdev->dev, &edu_driver, struct edu, drm);
	if (IS_ERR(edu))
		return PTR_ERR(edu);
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

	ret = drm_sched_init(&edu->scheduler, &scheduler);
	if (ret)
		return ret;
	ret = drmm_add_action_or_reset(&edu->drm, edu_end_scheduler, &edu->scheduler);
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
