"""Drivers of accelerators that are in mainline Linux, and some that are known not to be: what a module's name is held against.

Source: the kernel's own tree (drivers/accel, drivers/gpu/drm, drivers/misc: Makefile, Kconfig and the drivers' device tables), as of 6.19.
`since` is the release that the driver first came with, from the announcements of its merge; empty where it is older than any kernel that
ships today. An older kernel with the driver has a backport, which is upstream all the same.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver in mainline: its folder in the kernel's tree, and the devices that it takes, as the beginnings and parts of modaliases."""

    folders: tuple[str, ...]
    devices: tuple[str, ...]
    since: str = ""
    firmware: bool = True
    """Whether it, or another driver for it, loads firmware into its device."""


MAINLINE = {
    "amdgpu": Driver(("drivers/gpu/drm/amd/amdgpu",), ("pci:v00001002d",)),
    "amdxdna": Driver(("drivers/accel/amdxdna",), ("pci:v00001022d",), "6.14"),
    "ethosu": Driver(("drivers/accel/ethosu",), ("Carm,ethos-u65", "Carm,ethos-u85"), "6.19", firmware=False),
    "etnaviv": Driver(("drivers/gpu/drm/etnaviv",), ("platform:etnaviv", "Cvivante,gc"), firmware=False),
    "fastrpc": Driver(("drivers/misc",), ("Cqcom,fastrpc",), "5.1"),
    # moved from drivers/misc with 6.3
    "habanalabs": Driver(("drivers/accel/habanalabs", "drivers/misc/habanalabs"), ("pci:v00001DA3d",), "5.1"),
    "i915": Driver(("drivers/gpu/drm/i915",), ("pci:v00008086d",)),
    "intel_vpu": Driver(("drivers/accel/ivpu",), ("pci:v00008086d",), "6.3"),
    "lima": Driver(("drivers/gpu/drm/lima",), ("Carm,mali-",), "5.2", firmware=False),
    "msm": Driver(("drivers/gpu/drm/msm",), ("Cqcom,",)),
    "nouveau": Driver(("drivers/gpu/drm/nouveau",), ("pci:v000010DEd",)),
    "panfrost": Driver(("drivers/gpu/drm/panfrost",), ("Carm,mali-", "Cmediatek,mt"), "5.2", firmware=False),
    "panthor": Driver(("drivers/gpu/drm/panthor",), ("Carm,mali-valhall-csf", "Crockchip,rk3588-mali"), "6.10"),
    "powervr": Driver(("drivers/gpu/drm/imagination",), ("Cimg,",), "6.8"),
    "qaic": Driver(("drivers/accel/qaic",), ("pci:v000017CBd",), "6.4"),
    "rocket": Driver(("drivers/accel/rocket",), ("Crockchip,rk3588-rknn-core",), "6.18", firmware=False),
    "v3d": Driver(("drivers/gpu/drm/v3d",), ("Cbrcm,",), firmware=False),
    "virtio_gpu": Driver(("drivers/gpu/drm/virtio",), ("virtio:d00000010v", "pci:v00001AF4d"), firmware=False),
    "xe": Driver(("drivers/gpu/drm/xe",), ("pci:v00008086d",), "6.8"),
}

OUT_OF_TREE = {
    "apex": "Google's Coral driver; its staging version was taken out of mainline",
    "apusys": "MediaTek's APU driver, of vendors' and ChromeOS's own trees",
    "galcore": "Vivante's driver; mainline's for the same hardware is etnaviv",
    "gasket": "Google's Coral driver; its staging version was taken out of mainline",
    "mali_kbase": "Arm's driver; mainline's for the same hardware are panfrost and panthor",
    "mtk_apusys": "MediaTek's APU driver, of vendors' and ChromeOS's own trees",
    "nvidia": "NVIDIA's driver",
    "rknpu": "Rockchip's driver; mainline's for the same hardware is rocket",
}
"""Modules that are known not to be in mainline, whatever they say of themselves."""

OPEN_LICENSES = frozenset({
    "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL", "GPL v2 or later",
})  # fmt: skip
"""The licences that the kernel takes for compatible (include/linux/license.h)."""


def takes(driver: Driver, modalias: str) -> bool:
    """Whether a mainline driver takes devices with this modalias, of the maker if not of the very model."""
    return any(part in modalias if part.startswith("C") else modalias.startswith(part) for part in driver.devices)
