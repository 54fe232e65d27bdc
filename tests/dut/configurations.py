"""The configurations of the virtual devices under test, as data. ``machine.boot`` boots one.

Sources of the facts behind them: QEMU's ``-device X,help`` and its documents on ``edu``, ``intel-iommu`` and the ``virt``
machine; the kernel's ``Documentation/driver-api/vfio.rst`` and ``admin-guide/kernel-parameters.txt``. Debian's 6.12 switches
VT-d on by itself where the firmware describes one, and an SMMU where the device tree does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import image


@dataclass(frozen=True, slots=True)
class Board:
    """What QEMU emulates around the devices."""

    architecture: image.Architecture
    #: The program, and the Debian package that has it.
    program: str
    package: str
    machine: str
    cpu: str
    kernel_parameters: tuple[str, ...]


PC = Board(
    image.AMD64,
    program="qemu-system-x86_64",
    package="qemu-system-x86",
    machine="q35,kernel-irqchip=split",
    cpu="max",
    # no_timer_check: a kernel that is emulated on a busy machine takes its timer for broken, and panics
    kernel_parameters=("console=ttyS0", "no_timer_check"),
)
# An interrupt controller with an ITS, without which VFIO refuses the groups; a core as Chromebooks have it, without what emulates
# slowly (pointer authentication) or lures a runtime to what emulates more slowly still (SVE).
VIRT = Board(
    image.ARM64,
    program="qemu-system-aarch64",
    package="qemu-system-arm",
    machine="virt,gic-version=3,iommu=smmuv3",
    cpu="cortex-a76",
    kernel_parameters=("console=ttyAMA0",),
)

VTD = "intel-iommu,intremap=on,caching-mode=on"
EDU = "edu,addr=05.0,dma_mask=0xffffffff"
GPU = "virtio-gpu-pci,addr=06.0,iommu_platform=on,disable-legacy=on"
VFIO_FILES = {
    "/etc/modprobe.d/vfio.conf": b"options vfio-pci ids=1234:11e8\nsoftdep vfio-pci pre: vfio_iommu_type1\n",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One virtual device: its hardware, how its kernel starts, and what is done to it once it is up."""

    name: str
    title: str
    #: The PCI address of the device that takes the accelerator's place.
    accelerator: str
    #: Arguments of QEMU's ``-device``, in order; a disk may use the drive ``empty``.
    devices: tuple[str, ...]
    kernel_parameters: tuple[str, ...] = ()
    #: Files written to the guest before the set-up: absolute path to content.
    files: Mapping[str, bytes] = field(default_factory=dict)
    #: Shell commands, run in one shell as root with ``-e``; the last thing before the machine is handed out.
    setup: tuple[str, ...] = ()
    #: Who the auditor comes in as.
    user: str = "root"
    #: MiB, of which the root file system takes its own.
    memory: int = 1024
    board: Board = PC


CONFIGURATIONS = (
    Configuration(
        name="in-place",
        title="everything in place: edu behind VT-d with an open, out-of-tree driver; peers for dma-buf",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU, GPU),
        setup=("modprobe -a edu_accel virtio-gpu vgem vivid",),
    ),
    Configuration(
        name="vfio",
        title="edu on vfio-pci, in a group of its own",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        files=VFIO_FILES,
        setup=("modprobe vfio-pci",),
    ),
    Configuration(
        name="not-viable",
        title="edu on vfio-pci behind a conventional PCI bridge, its group shared with a device on virtio-pci",
        accelerator="0000:02:01.0",
        devices=(
            VTD,
            "pcie-root-port,id=root-port,slot=1,chassis=1",
            "pcie-pci-bridge,id=bridge,bus=root-port",
            "edu,bus=bridge,addr=01.0,dma_mask=0xffffffff",
            "virtio-rng-pci,bus=bridge,addr=02.0",
        ),
        files=VFIO_FILES,
        setup=("modprobe vfio-pci",),
    ),
    Configuration(
        name="passthrough",
        title="iommu=pt: the IOMMU is there, the device's group is an identity mapping",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        kernel_parameters=("iommu=pt",),
        setup=("modprobe edu_accel",),
    ),
    Configuration(
        name="no-iommu",
        title="no IOMMU in the machine",
        accelerator="0000:00:05.0",
        devices=(EDU,),
        setup=("modprobe edu_accel",),
    ),
    Configuration(
        name="sig-enforce",
        title="module.sig_enforce=1: the unsigned driver is refused, the device has none",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        kernel_parameters=("module.sig_enforce=1",),
        setup=("modprobe vgem", "if modprobe edu_accel; then exit 1; fi"),
    ),
    Configuration(
        name="typed-intree",
        title="an unsigned out-of-tree driver that has intree=Y typed in",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        setup=("modprobe edu_accel_intree",),
    ),
    Configuration(
        name="proprietary",
        title="a driver that declares a proprietary licence",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        setup=("modprobe edu_proprietary",),
    ),
    Configuration(
        name="virtio-gpu",
        title="virtio-gpu as the accelerator: upstream and signed; claims PRIME import and refuses it",
        accelerator="0000:00:06.0",
        devices=(VTD, GPU),
        setup=("modprobe -a virtio-gpu vgem",),
    ),
    Configuration(
        name="unprivileged",
        title="everything in place, seen by an ordinary user",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU, GPU),
        setup=("modprobe -a edu_accel virtio-gpu vgem vivid",),
        user="tester",
    ),
    Configuration(
        name="zoo",
        title="the accelerator's node is an ordinary user's; memory for a TFLite runtime, which is copied there",
        accelerator="0000:00:05.0",
        devices=(VTD, EDU),
        setup=("modprobe edu_accel", "chown tester /dev/accel/accel0"),
        user="tester",
        memory=2560,
    ),
    Configuration(
        name="no-driver",
        title="a device of PCI class 0x1200 (processing accelerator) that no driver is bound to",
        accelerator="0000:00:05.0",
        devices=(VTD, "virtio-blk-pci,addr=05.0,class=0x1200,drive=empty,iommu_platform=on,disable-legacy=on"),
        setup=("echo 0000:00:05.0 >/sys/bus/pci/devices/0000:00:05.0/driver/unbind",),
    ),
    Configuration(
        name="arm64.in-place",
        title="aarch64, device tree: edu behind an SMMUv3 with an open, out-of-tree driver; peers for dma-buf",
        accelerator="0000:00:05.0",
        devices=(EDU, GPU),
        setup=("modprobe -a edu_accel virtio-gpu vgem vivid",),
        board=VIRT,
    ),
    Configuration(
        name="arm64.vfio",
        title="aarch64: edu on vfio-pci, in a group of its own",
        accelerator="0000:00:05.0",
        devices=(EDU,),
        files=VFIO_FILES,
        setup=("modprobe vfio-pci",),
        board=VIRT,
    ),
    Configuration(
        name="arm64.not-viable",
        # behind a conventional bridge two devices would have one stream, of which Linux's SMMUv3 driver lets one device be driven
        title="aarch64: edu on vfio-pci, its group shared with another function of its own on virtio-pci",
        accelerator="0000:00:05.0",
        devices=(f"{EDU},multifunction=on", "virtio-rng-pci,addr=05.1"),
        files=VFIO_FILES,
        setup=("modprobe vfio-pci",),
        board=VIRT,
    ),
    Configuration(
        name="arm64.passthrough",
        title="aarch64, iommu.passthrough=1: the SMMU is there, the device's group is an identity mapping",
        accelerator="0000:00:05.0",
        devices=(EDU,),
        kernel_parameters=("iommu.passthrough=1",),
        setup=("modprobe edu_accel",),
        board=VIRT,
    ),
    Configuration(
        name="arm64.no-driver",
        title="aarch64: no driver is bound, so the kernel has not put the device into an IOMMU group yet",
        accelerator="0000:00:05.0",
        devices=(EDU,),
        board=VIRT,
    ),
    Configuration(
        name="arm64.zoo",
        title="aarch64: the accelerator's node is an ordinary user's; memory for a TFLite runtime, which is copied there",
        accelerator="0000:00:05.0",
        devices=(EDU,),
        setup=("modprobe edu_accel", "chown tester /dev/dri/renderD128"),
        user="tester",
        memory=2560,
        board=VIRT,
    ),
)
