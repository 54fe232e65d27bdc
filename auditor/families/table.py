"""The families of accelerators that are known here.

`6.12` and `7.2` are the releases of Linux whose sources, device trees and uapi headers were read. Out-of-tree drivers are those of their
makers' public trees. Where an entry has no evidence of work, the driver offers none.
"""

from __future__ import annotations

from auditor.families.family import Allocation, Family, Loader, NodeName, Table, Upstream, Work

SIZE = 1 << 20
"""Bytes of a buffer of a driver's own: enough for a camera's small frame."""

_OWN = 0x40
"""DRM_COMMAND_BASE: the first command of a driver's own."""

_SIZE_FLAGS_HANDLE = (("size", SIZE), ("flags", 0), ("handle", 0))

DUMB = Allocation(
    "drm/drm_mode.h", "DRM_IOCTL_MODE_CREATE_DUMB", "drm_mode_create_dumb", 0xB2, "=6IQ",
    (("height", 512), ("width", 512), ("bpp", 32), ("flags", 0), ("handle", 0), ("pitch", 0), ("size", 0)),
)  # fmt: skip
"""The command of display drivers; also of vgem, and of drivers that take DRM's shmem buffers as they are."""

FAMILIES = Table((
    Family(
        "intel-npu",
        "Intel NPU",
        "drivers/accel/ivpu of 6.12 and 7.2 (ivpu_drv.c, ivpu_sysfs.c, ivpu_gem.c, ivpu_trace.h)",
        modules=("intel_vpu",),
        drivers=("intel_vpu",),
        pci=("8086:7d1d", "8086:ad1d", "8086:643e", "8086:b03e", "8086:fd3e", "8086:d71d"),
        upstream=Upstream(("drivers/accel/ivpu",), ("pci:v00008086d",), "6.3"),
        trace=("vpu",),
        allocation=Allocation(
            "drm/ivpu_accel.h", "DRM_IOCTL_IVPU_BO_CREATE", "drm_ivpu_bo_create", _OWN + 0x02, "=QIIQ",
            (*_SIZE_FLAGS_HANDLE, ("vpu_addr", 0)),
        ),
        dma_buf="7.2 refuses to export again what it imported (EOPNOTSUPP)",
        work=(Work.BUSY_TIME,),
        memory=True,  # from 7.2
        firmware=Loader.DRIVER,
    ),
    Family(
        "amd-xdna",
        "AMD XDNA NPU",
        "drivers/accel/amdxdna of 7.2 (amdxdna_pci_drv.c, aie2_pci.c, amdxdna_gem.c); include/uapi/drm/amdxdna_accel.h",
        modules=("amdxdna",),
        drivers=("amdxdna",),
        pci=("1022:1502", "1022:17f0"),
        upstream=Upstream(("drivers/accel/amdxdna",), ("pci:v00001022d",), "6.14"),
        drm="amdxdna_accel_driver",
        trace=("amdxdna",),
        allocation=Allocation(
            "drm/amdxdna_accel.h", "DRM_IOCTL_AMDXDNA_CREATE_BO", "amdxdna_drm_create_bo", _OWN + 0x03, "=QQQII",
            (("flags", 0), ("vaddr", 0), ("size", SIZE), ("type", 1), ("handle", 0)),  # AMDXDNA_BO_SHMEM
        ),
        work=(Work.COMPLETIONS, Work.SCHEDULER),
        memory=True,
        firmware=Loader.DRIVER,
        paging="force_iova",
        # drivers/iommu/amd/iommu.c, amd_iommu_def_domain_type: PASID, without memory encryption
        identity="Start the kernel with amdxdna.force_iova=1: the kernel gives this device an identity domain by default, and refuses to "
        "change the type of its group.",
    ),
    Family(
        "rocket",
        "Rockchip NPU",
        "drivers/accel/rocket of 7.2 (rocket_drv.c, rocket_gem.c)",
        modules=("rocket",),
        drivers=("rocket",),
        compatible=("rockchip,rk3588-rknn-core",),
        facades=("rknn",),
        gathers=True,
        upstream=Upstream(("drivers/accel/rocket",), ("Crockchip,rk3588-rknn-core",), "6.18"),
        trace=("gpu_scheduler",),
        allocation=Allocation(
            "drm/rocket_accel.h", "DRM_IOCTL_ROCKET_CREATE_BO", "drm_rocket_create_bo", _OWN, "=IIQQ",
            (("size", SIZE), ("handle", 0), ("dma_address", 0), ("offset", 0)),
        ),
        dma_buf="7.2 refuses buffers of others (EINVAL: no gem_prime_import_sg_table)",
        work=(Work.SCHEDULER,),
        firmware=Loader.NONE,
    ),
    Family(
        "ethos-u",
        "Arm Ethos-U",
        "drivers/accel/ethosu of 7.2 (ethosu_drv.c, ethosu_gem.c)",
        modules=("ethosu",),
        drivers=("ethosu",),
        compatible=("arm,ethos-u",),
        upstream=Upstream(("drivers/accel/ethosu",), ("Carm,ethos-u65", "Carm,ethos-u85"), "6.19"),
        trace=("gpu_scheduler",),
        allocation=Allocation(
            "drm/ethosu_accel.h", "DRM_IOCTL_ETHOSU_BO_CREATE", "drm_ethosu_bo_create", _OWN + 0x01, "=QII", _SIZE_FLAGS_HANDLE,
        ),
        dma_buf="7.2 refuses buffers of others (EINVAL: no gem_prime_import_sg_table)",
        work=(Work.SCHEDULER,),
        firmware=Loader.NONE,
    ),
    Family(
        "etnaviv",
        "Vivante GPU and NPU",
        "drivers/gpu/drm/etnaviv of 6.12 and 7.2 (etnaviv_drv.c, etnaviv_gpu.c); arch/arm64/boot/dts/freescale/imx8mp.dtsi",
        modules=("etnaviv",),
        drivers=("etnaviv_gpu",),
        compatible=("vivante,gc",),
        facades=("etnaviv",),
        gathers=True,
        upstream=Upstream(("drivers/gpu/drm/etnaviv",), ("platform:etnaviv", "Cvivante,gc")),
        trace=("gpu_scheduler",),
        allocation=Allocation(
            "drm/etnaviv_drm.h", "DRM_IOCTL_ETNAVIV_GEM_NEW", "drm_etnaviv_gem_new", _OWN + 0x02, "=QII",
            (("size", SIZE), ("flags", 0x00020000), ("handle", 0)),  # ETNA_BO_WC
        ),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        memory=True,  # from 7.2
        firmware=Loader.NONE,
    ),
    Family(
        "adreno",
        "Qualcomm Adreno",
        "drivers/gpu/drm/msm of 6.12 and 7.2 (msm_drv.c, msm_kms.c, adreno/adreno_device.c, msm_gpu_trace.h); "
        "include/uapi/drm/msm_drm.h",
        modules=("msm",),
        drivers=("adreno",),
        compatible=("qcom,adreno", "qcom,kgsl-3d0", "amd,imageon"),
        facades=("msm_dpu", "msm_mdp", "msm_mdss", "mdp4"),
        upstream=Upstream(("drivers/gpu/drm/msm",), ("Cqcom,", "Camd,imageon")),
        trace=("drm_msm_gpu",),
        allocation=Allocation(
            "drm/msm_drm.h", "DRM_IOCTL_MSM_GEM_NEW", "drm_msm_gem_new", _OWN + 0x02, "=QII",
            (("size", SIZE), ("flags", 0x00020000), ("handle", 0)),  # MSM_BO_WC
        ),
        # adreno/a*_catalog.c: microcode, GMU; the zap shader is the device tree's
        images=tuple(f"qcom/a[2-8]*_{each}" for each in ("pm4.fw", "pfp.fw", "sqe.fw", "aqe.fw", "gmu.bin", "gpmu.fw2", "zap.m*")),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        memory=True,
        firmware=Loader.DRIVER,
        own_tables=True,
        # drivers/iommu/arm/arm-smmu/arm-smmu-qcom.c, qcom_smmu_client_of_match
        identity="Have the driver attach page tables for each process (in the device tree, the GPU behind an SMMU that is compatible with "
        "qcom,adreno-smmu), and audit with probes: the kernel makes identity the default of this device, and refuses to change it.",
    ),
    Family(
        "amdgpu",
        "AMD GPU",
        "drivers/gpu/drm/amd/amdgpu of 6.12 and 7.2 (amdgpu_fdinfo.c, amdgpu_trace.h); amdxcp/amdgpu_xcp_drv.c; amdkfd/kfd_chardev.c",
        modules=("amdgpu",),
        drivers=("amdgpu",),
        nodes=(NodeName("kfd", "kfd", shared=True),),
        facades=("amdgpu_xcp",),
        upstream=Upstream(("drivers/gpu/drm/amd/amdgpu",), ("pci:v00001002d",)),
        trace=("amdgpu",),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        memory=True,
        firmware=Loader.DRIVER,
        # drivers/iommu/amd/iommu.c, amd_iommu_def_domain_type: PASID, without memory encryption
        identity="Start the kernel with memory encryption (mem_encrypt=on): without it, the kernel gives devices with PASID an identity "
        "domain by default, and refuses to change the type of their group.",
    ),
    Family(
        "fastrpc",
        "Qualcomm Hexagon",
        "drivers/misc/fastrpc.c of 6.12 and 7.2; Documentation/devicetree/bindings/misc/qcom,fastrpc.yaml",
        modules=("fastrpc",),
        drivers=("qcom_fastrpc_cb",),
        compatible=("qcom,fastrpc-compute-cb",),
        rpmsg=("qcom,fastrpc", "fastrpcglink"),
        below_channel=True,
        nodes=(NodeName("misc", "fastrpc-"),),
        upstream=Upstream(("drivers/misc",), ("Cqcom,fastrpc",), "5.1"),
        dma_buf="FASTRPC_IOCTL_ALLOC_DMA_BUFF exports; an import takes a session on the DSP",
        firmware=Loader.REMOTEPROC,
    ),
    Family(
        "qaic",
        "Qualcomm Cloud AI",
        "drivers/accel/qaic of 6.12 and 7.2 (qaic_drv.c, sahara.c, qaic_data.c)",
        modules=("qaic",),
        drivers=("qaic",),
        pci=("17cb:a100", "17cb:a080"),
        upstream=Upstream(("drivers/accel/qaic",), ("pci:v000017CBd",), "6.4"),
        allocation=Allocation(
            "drm/qaic_accel.h", "DRM_IOCTL_QAIC_CREATE_BO", "qaic_create_bo", _OWN + 0x01, "=QII",
            (("size", SIZE), ("handle", 0), ("pad", 0)),
        ),
        firmware=Loader.MHI,
        images=("qcom/aic100/*.bin", "qcom/aic100/*.mbn"),
    ),
    Family(
        "habanalabs",
        "Intel Gaudi",
        "drivers/accel/habanalabs of 6.12 (habanalabs_drv.c)",
        modules=("habanalabs",),
        drivers=("habanalabs",),
        pci=("1da3:0001", "1da3:1000", "1da3:1010", "1da3:1020", "1da3:1060"),
        nodes=(NodeName("habanalabs", "hl"), NodeName("habanalabs", "accel/accel_controlD")),
        # moved from drivers/misc with 6.3
        upstream=Upstream(("drivers/accel/habanalabs", "drivers/misc/habanalabs"), ("pci:v00001DA3d",), "5.1"),
        trace=("habanalabs",),
        firmware=Loader.DRIVER,
    ),
    Family(
        "i915",
        "Intel GPU (i915)",
        "drivers/gpu/drm/i915 of 6.12 and 7.2 (i915_drm_client.c, i915_trace.h)",
        modules=("i915",),
        drivers=("i915",),
        upstream=Upstream(("drivers/gpu/drm/i915",), ("pci:v00008086d",)),
        trace=("i915",),
        allocation=Allocation(
            "drm/i915_drm.h", "DRM_IOCTL_I915_GEM_CREATE", "drm_i915_gem_create", _OWN + 0x1B, "=QII",
            (("size", SIZE), ("handle", 0), ("pad", 0)),
        ),
        work=(Work.ENGINE_TIME,),
        memory=True,
        firmware=Loader.DRIVER,
    ),
    Family(
        "xe",
        "Intel GPU (xe)",
        "drivers/gpu/drm/xe of 6.12 and 7.2 (xe_drm_client.c, xe_trace.h)",
        modules=("xe",),
        drivers=("xe",),
        upstream=Upstream(("drivers/gpu/drm/xe",), ("pci:v00008086d",), "6.8"),
        trace=("xe",),
        allocation=Allocation(
            "drm/xe_drm.h", "DRM_IOCTL_XE_GEM_CREATE", "drm_xe_gem_create", _OWN + 0x01, "=QQ4IHHHHQQ",
            # placement: bit 0 is system memory; DRM_XE_GEM_CPU_CACHING_WB
            (("extensions", 0), ("size", SIZE), ("placement", 1), ("flags", 0), ("vm_id", 0), ("handle", 0), ("cpu_caching", 1),
             ("pad[0]", 0), ("pad[1]", 0), ("pad[2]", 0), ("reserved[0]", 0), ("reserved[1]", 0)),
        ),
        work=(Work.CYCLES, Work.SCHEDULER),
        memory=True,
        firmware=Loader.DRIVER,
    ),
    Family(
        "lima",
        "Arm Mali 400",
        "drivers/gpu/drm/lima of 6.12 (lima_drv.c)",
        modules=("lima",),
        drivers=("lima",),
        upstream=Upstream(("drivers/gpu/drm/lima",), ("Carm,mali-",), "5.2"),
        trace=("lima", "gpu_scheduler"),
        work=(Work.SCHEDULER,),
        firmware=Loader.NONE,
    ),
    Family(
        "panfrost",
        "Arm Mali (Midgard, Bifrost)",
        "drivers/gpu/drm/panfrost of 6.12 and 7.2 (panfrost_drv.c: profiling)",
        modules=("panfrost",),
        drivers=("panfrost",),
        upstream=Upstream(("drivers/gpu/drm/panfrost",), ("Carm,mali-", "Cmediatek,mt"), "5.2"),
        trace=("gpu_scheduler",),
        allocation=Allocation(
            "drm/panfrost_drm.h", "DRM_IOCTL_PANFROST_CREATE_BO", "drm_panfrost_create_bo", _OWN + 0x02, "=4IQ",
            (*_SIZE_FLAGS_HANDLE, ("pad", 0), ("offset", 0)),
        ),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        profiling="1",
        memory=True,
        firmware=Loader.NONE,
    ),
    Family(
        "panthor",
        "Arm Mali (Valhall)",
        "drivers/gpu/drm/panthor of 6.12 and 7.2 (panthor_drv.c: profiling)",
        modules=("panthor",),
        drivers=("panthor",),
        upstream=Upstream(("drivers/gpu/drm/panthor",), ("Carm,mali-valhall-csf", "Crockchip,rk3588-mali"), "6.10"),
        trace=("panthor", "gpu_scheduler"),
        allocation=Allocation(
            "drm/panthor_drm.h", "DRM_IOCTL_PANTHOR_BO_CREATE", "drm_panthor_bo_create", _OWN + 0x05, "=QIIII",
            (("size", SIZE), ("flags", 0), ("exclusive_vm_id", 0), ("handle", 0), ("pad", 0)),
        ),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        profiling="3",
        memory=True,
        firmware=Loader.DRIVER,
    ),
    Family(
        "v3d",
        "Broadcom VideoCore",
        "drivers/gpu/drm/v3d of 6.12 (v3d_drv.c)",
        modules=("v3d",),
        drivers=("v3d",),
        upstream=Upstream(("drivers/gpu/drm/v3d",), ("Cbrcm,",)),
        trace=("v3d", "gpu_scheduler"),
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        memory=True,
        firmware=Loader.NONE,
    ),
    Family(
        "powervr",
        "Imagination PowerVR",
        "drivers/gpu/drm/imagination of 6.12 (pvr_drv.c)",
        modules=("powervr",),
        drivers=("powervr",),
        upstream=Upstream(("drivers/gpu/drm/imagination",), ("Cimg,",), "6.8"),
        trace=("gpu_scheduler",),
        work=(Work.SCHEDULER,),
        firmware=Loader.DRIVER,
    ),
    Family(
        "nouveau",
        "NVIDIA GPU (nouveau)",
        "drivers/gpu/drm/nouveau of 6.12 (nouveau_drm.c)",
        modules=("nouveau",),
        drivers=("nouveau",),
        upstream=Upstream(("drivers/gpu/drm/nouveau",), ("pci:v000010DEd",)),
        trace=("gpu_scheduler",),
        work=(Work.SCHEDULER,),
        firmware=Loader.DRIVER,
    ),
    Family(
        "virtio-gpu",
        "virtio GPU",
        "drivers/gpu/drm/virtio of 6.12 (virtgpu_drv.c, virtgpu_trace.h)",
        modules=("virtio_gpu",),
        drivers=("virtio_gpu",),
        upstream=Upstream(("drivers/gpu/drm/virtio",), ("virtio:d00000010v", "pci:v00001AF4d")),
        trace=("virtio_gpu",),
        allocation=Allocation(
            "drm/virtgpu_drm.h", "DRM_IOCTL_VIRTGPU_RESOURCE_CREATE", "drm_virtgpu_resource_create", _OWN + 0x04, "=14I",
            # PIPE_TEXTURE_2D, VIRGL_FORMAT_B8G8R8A8_UNORM, VIRGL_BIND_RENDER_TARGET
            (("target", 2), ("format", 1), ("bind", 2), ("width", 512), ("height", 512), ("depth", 1), ("array_size", 1),
             ("last_level", 0), ("nr_samples", 0), ("flags", 0), ("bo_handle", 0), ("res_handle", 0), ("size", SIZE), ("stride", 2048)),
        ),
        dma_buf="claims the import and refuses every buffer of others (ENODEV)",
        firmware=Loader.NONE,
    ),
    # --- out of tree -----------------------------------------------------------------------------------------------------------------
    Family(
        "apusys",
        "MediaTek APU",
        "the vendor's and ChromeOS's kernel trees (drivers/soc/mediatek/apusys, mdw)",
        modules=("mtk_apusys", "apusys"),
        drivers=("mtk_apusys", "apusys", "mtk_apu"),
        compatible=("mediatek,apu", "mediatek,mt*-apu"),
        rpmsg=("mediatek,apu-mdw-rpmsg", "apu-mdw-rpmsg"),
        nodes=(NodeName("misc", "apusys"),),
        elsewhere="MediaTek's APU driver, of vendors' and ChromeOS's own trees",
        firmware=Loader.UNKNOWN,
    ),
    Family(
        "coral-pcie",
        "Google Coral (PCIe)",
        "google/gasket-driver (gasket_core.c, apex_driver.c)",
        modules=("apex", "gasket"),
        drivers=("apex",),
        pci=("1ac1:089a",),
        nodes=(NodeName("apex", "apex_"),),
        elsewhere="Google's Coral driver; its staging version was taken out of mainline",
        firmware=Loader.FLASH,
    ),
    Family(
        "hailo",
        "Hailo-8",
        "hailo-ai/hailort-drivers (linux/pcie)",
        modules=("hailo_pci", "hailo1x_pci"),
        drivers=("hailo", "hailo1x"),
        pci=("1e60:2864", "1e60:45c4"),
        nodes=(NodeName("hailo_chardev", "hailo"), NodeName("hailo1x_chardev", "hailo")),
        elsewhere="Hailo's driver",
        firmware=Loader.DRIVER,
    ),
    Family(
        "nvidia",
        "NVIDIA GPU",
        "NVIDIA/open-gpu-kernel-modules (kernel-open/nvidia/nv.c, nvidia-uvm, nvidia-drm)",
        modules=("nvidia", "nvidia_drm", "nvidia_uvm", "nvidia_modeset"),
        drivers=("nvidia",),
        # it may not call the kernel's functions that make a class, so its nodes are in none; they are made by user space
        nodes=(NodeName("", "nvidia", shared=True),),
        elsewhere="NVIDIA's driver",
        firmware=Loader.DRIVER,
    ),
    Family(
        "galcore",
        "Vivante GPU and NPU (galcore)",
        "Vivante's kernel driver in NXP's, Amlogic's and others' trees (gc_hal_kernel_driver.c)",
        modules=("galcore",),
        drivers=("galcore",),
        nodes=(NodeName("misc", "galcore"), NodeName("graphics_class", "galcore")),
        elsewhere="Vivante's driver; mainline's for the same hardware is etnaviv",
    ),
    Family(
        "rknpu",
        "Rockchip NPU (rknpu)",
        "rockchip-linux/kernel (drivers/rknpu/rknpu_drv.c)",
        modules=("rknpu",),
        drivers=("rknpu", "RKNPU"),
        compatible=("rockchip,rk3588-rknpu", "rockchip,rk3568-rknpu", "rockchip,rk3576-rknpu", "rockchip,rknpu"),
        nodes=(NodeName("misc", "rknpu"),),
        elsewhere="Rockchip's driver; mainline's for the same hardware is rocket",
        firmware=Loader.NONE,
    ),
    Family(
        "mali-kbase",
        "Arm Mali (kbase)",
        "Arm's Mali kernel driver (mali_kbase_core_linux.c)",
        modules=("mali_kbase",),
        drivers=("mali",),
        nodes=(NodeName("misc", "mali"),),
        elsewhere="Arm's driver; mainline's for the same hardware are panfrost and panthor",
    ),
    # --- without a kernel driver of their own ------------------------------------------------------------------------------------------
    Family(
        "coral-usb",
        "Google Coral (USB)",
        "google-coral/edgetpu (libusb; udev rules 99-edgetpu-accelerator.rules): before and after its firmware is loaded",
        usb=("1a6e:089a", "18d1:9302"),
        firmware=Loader.USER_SPACE,
    ),
    Family(
        "movidius-usb",
        "Intel Movidius (USB)",
        "openvinotoolkit (libusb; udev rules 97-myriad-usbboot.rules): before and after its firmware is loaded",
        usb=("03e7:2150", "03e7:2485", "03e7:f63b"),
        firmware=Loader.USER_SPACE,
    ),
    # --- of the virtual device -----------------------------------------------------------------------------------------------------------
    Family(
        "edu",
        "test device",
        "tests/dut: QEMU's edu device (docs/specs/edu.rst) with a driver of the tests",
        modules=("edu_accel", "edu_accel_intree"),
        drivers=("edu_accel", "edu_accel_intree"),
        allocation=Allocation(
            "", "DRM_IOCTL_EDU_CREATE", "edu_create", _OWN + 0x01, "=QII", (("size", SIZE), ("handle", 0), ("pad", 0)),
        ),
        copies=3 << 30 | 24 << 16 | ord("d") << 8 | _OWN,  # handle, length, source and destination in the buffer
        work=(Work.ENGINE_TIME, Work.SCHEDULER),
        memory=True,
        firmware=Loader.DRIVER,
    ),
))  # fmt: skip

PEERS = {"vgem": DUMB, "vkms": DUMB}
"""How DRM devices without hardware allocate: they are no accelerators, and share buffers with one."""
