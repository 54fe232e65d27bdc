// SPDX-License-Identifier: GPL-2.0
/*
 * A driver for QEMU's edu device that declares a proprietary licence, as a
 * closed vendor driver does. It binds the device and does nothing else. The
 * source is free all the same; only the MODULE_LICENSE tag says otherwise, and
 * it is a test of who believes what.
 */
#include <linux/module.h>
#include <linux/pci.h>

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return pcim_enable_device(pdev);
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
};
module_pci_driver(edu_pci_driver);

MODULE_DESCRIPTION("Proprietary driver for tests on QEMU's edu device");
MODULE_LICENSE("Proprietary");
