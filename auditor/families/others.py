"""What is known not to be an accelerator, so that what is neither can be named: classes, buses, miscellaneous devices, drivers.

Sources: the directories of /sys/class and /sys/bus that drivers of Linux 6.12 and 7.2 register (class_register, class_create,
bus_register, misc_register in the kernel's tree), Documentation/admin-guide/devices.txt, and the modules of Debian's kernels. What is not
here is not thereby an accelerator: it is *unrecognised*, and a person says what it is.
"""

from __future__ import annotations

CLASSES = frozenset({
    # of the kernel itself, and of software
    "bdi", "block", "bsg", "cpuid", "devcoredump", "devlink", "firmware", "graphics", "iommu", "lirc", "mdio_bus", "mem", "msr", "net",
    "nd", "pci_bus", "pktcdvd", "ppp", "raw", "scsi_device", "scsi_disk", "scsi_generic", "scsi_host", "tty", "uio", "vc", "vduse",
    "vtconsole", "wakeup", "wmi_bus", "workqueue", "xt_idletimer", "zram-control", "aoe", "block_device", "bluetooth", "bond", "zvol",
    # buses' controllers and links between devices
    "ata_device", "ata_link", "ata_port", "cxl", "dax", "devfreq", "devfreq-event", "dma", "dvb", "extcon", "fc_host", "fc_remote_ports",
    "fc_transport", "fc_vports", "fsi-master", "gpio", "gpib", "hsi_char", "i2c-adapter", "i2c-dev", "i3c-master", "ieee80211",
    "infiniband", "infiniband_cm", "infiniband_mad", "infiniband_verbs", "iscsi_connection", "iscsi_endpoint", "iscsi_host",
    "iscsi_iface", "iscsi_session", "iscsi_transport", "mbox", "mmc_host", "msi", "mtd", "mux", "ntb", "nvme", "nvme-generic",
    "nvme-ns", "nvme-subsystem", "nvme-fabrics", "pcmcia_socket", "phy", "pci_epc", "pcie_epf", "powercap", "rapidio_port",
    "remoteproc", "rpmsg", "sas_device", "sas_end_device", "sas_expander", "sas_host", "sas_phy", "sas_port", "slimbus", "soundwire",
    "spi_host", "spi_master", "spi_slave", "spi_transport", "spidev", "srp_host", "switchtec", "tb_port", "typec", "typec_mux",
    "ubi", "udc", "ufs-bsg", "usb", "usb_device", "usb_power_delivery", "usb_role", "usbmisc", "usbmon", "usb4_usb3", "uwb_rc", "w1",
    "vfio", "vfio-dev", "virtio-ports", "wlan", "wwan", "ieee1394", "firewire", "mdev_bus", "mei", "most",
    # input, output, sound, pictures
    "backlight", "cec", "drm_dp_aux_dev", "hidraw", "input", "leds", "media", "printer", "rc", "sound", "video4linux", "video_output",
    "vchiq", "bcm2835-gpiomem", "rpivid-mem", "ac97", "intel_scu_ipc", "fbcon", "sgx",
    # power, time, sensors, security
    "chromeos", "dell_laptop", "firmware-attributes", "hwmon", "iio", "intel-ishtp", "nvmem", "pmu", "power_supply", "pps", "ptp", "pwm",
    "regulator", "reset", "rfkill", "rtc", "tee", "thermal", "tpm", "tpmrm", "watchdog", "platform-profile", "pvpanic", "hpilo",
    "ipmi", "lpc", "mxc_vpu", "ptp-clock", "counter", "comedi", "cros_ec_dev", "wilco_ec", "macvtap", "macvlan", "ipvtap", "accounting",
    "dimm", "edac", "mcelog", "ras", "tpmvtpm", "virtio-console", "intel_pmt", "isst", "isst_interface", "pmem", "qat_adf", "qat_adf_ctl",
    "uacce", "dca", "phantom", "cuse", "capi", "mISDN", "tape", "vmur", "gnss", "siox", "spmi", "eisa", "enclosure", "dm",
})  # fmt: skip
"""Classes whose devices are no accelerators. `uacce` and `qat_adf_ctl` are of cryptography and compression, `dma` of engines that copy."""

BUSES = frozenset({
    "ac97", "acpi", "amba", "ap", "auxiliary", "bcma", "cdx", "cec", "clockevents", "clocksource", "comedi", "container", "coreboot",
    "coresight", "counter", "cpu", "css", "ccw", "cxl", "dax", "dfl", "dsa", "dvfs", "edac", "eisa", "event_source", "faux", "fc",
    "firewire", "fpga_region", "fsi", "fsl-mc", "gameport", "genpd", "genpd_provider", "gpio", "greybus", "hid", "hdaudio", "host1x",
    "hsi", "hv", "i2c", "i3c", "ibmebus", "iio", "intel-ishtp", "intel_th", "intel_vsec", "iscsi_flashnode", "ishtp", "isa", "iucv",
    "locomo-bus", "machinecheck", "macio", "mcb", "mdio_bus", "media", "mei", "memory", "memory_tiering", "memstick", "mhi_ep", "mipi-dsi",
    "mmc", "mmc_rpmb", "moxtet", "mpi3mr", "nd", "node", "ntb", "ntb_transport", "nubus", "nvme-subsystem", "nvmem", "of_platform",
    "parport", "pci_express", "pci-epf", "pcmcia", "peci", "physmap", "pnp", "powerpc", "pps", "ps3_system_bus", "rapidio", "rbd", "rmi4",
    "scsi", "sdio", "sdw", "serial", "serial-base", "serio", "siox", "slimbus", "snd_seq", "soc", "soundwire", "spi", "spmi", "ssb",
    "superhyway", "surface_aggregator", "tc", "tee", "thunderbolt", "typec", "typec_mux", "ulpi", "umc", "usb-serial", "userio",
    "vio", "virtio", "vme", "vmbus", "w1", "wmi", "workqueue", "xen", "xen-backend", "zorro", "zpci", "tegra-bpmp",
    # looked at, each in its own way
    "pci", "platform", "rpmsg", "usb", "mhi",
})  # fmt: skip
"""Buses whose devices need no look of their own: what one carries shows as another device, in a class. `dsa` is of engines that copy."""

MISC = frozenset({
    "acpi_thermal_rel", "agpgart", "apm_bios", "ashmem", "autofs", "binder", "btrfs-control", "cachefiles", "cpu_dma_latency",
    "cros_ec", "cros_pd", "cros_fp", "cros_ish", "cros_scp", "cros_tp", "cuse", "dlm-control", "dlm-monitor", "dlm_plock", "ecryptfs",
    "efirtc", "fuse", "hpet", "hw_random", "hwrng", "i8k", "ion", "isst_interface", "kvm", "lightnvm", "loop-control", "mbochs", "mcelog",
    "memory_bandwidth", "microcode", "mshv", "network_latency", "network_throughput", "ntsync", "null_blk", "nvme-fabrics", "nvram",
    "ocfs2_control", "open-dice0", "opal-prd", "pkcs7_test", "psaux", "qcom_edl", "rfkill", "rtc", "secvar", "sev", "sev-guest",
    "sgx_enclave", "sgx_provision", "sgx_vepc", "snapshot", "tdx_guest", "tlk_device", "toshiba_acpi", "tun", "tdx-guest", "udmabuf",
    "uhid", "uinput", "uleds", "userfaultfd", "vboxdrv", "vboxdrvu", "vboxguest", "vboxnetctl", "vboxuser", "vfio", "vga_arbiter",
    "vhci", "vhost-net", "vhost-vdpa", "vhost-vsock", "virtio-ports", "vmci", "vmmon", "vport0p0", "vsock", "vtpmx", "watchdog", "xenbus",
    "xen_gntdev", "xen_gntalloc", "xen_privcmd", "xen_hypercall", "zfs", "iommu", "mapper/control", "device-mapper", "net/tun", "ppp",
    "vfio/vfio", "snd/seq", "snd/timer", "cpu/microcode", "xen/evtchn", "xen/gntdev", "xen/gntalloc", "xen/privcmd", "xen/hypercall",
    "xen/xenbus", "xen/xenbus_backend", "dma_heap", "sonypi", "thinkpad_acpi", "tpm0", "dri/dummy", "trusty-ipc-dev0", "lightnvm/control",
    "crypto", "cpuset", "hidg0", "ffs-ns", "usb_accessory", "mtp_usb", "hyperv", "gnss0", "papr-vpd", "papr-sysparm", "rpi-vcio",
    "vcio", "vcsm-cma", "vcsm", "gpiomem", "vc-mem", "logibm", "sunmouse", "smapi", "pmu", "ipmi_si", "eventpoll", "rkisp", "dm-user",
    "ttyprintk", "random", "mqueue", "sed-opal", "tsm", "tsm0", "dma_buf", "hsi", "mei", "inotify", "adbmouse", "nitro_enclaves",
    "pt_chown", "cmos_rtc", "sw_sync", "memcon", "ramoops", "binderfs", "hwbinder", "vndbinder", "gunyah", "nsm",
})  # fmt: skip
"""Names of devices of the class misc, of their own or below /dev, that are no accelerators."""

MISC_BEGINS = (
    "binder", "cros_", "hpilo", "ilo", "tpm", "watchdog", "vhost-", "ptp", "mei", "rtc", "vbox", "vmw", "xen", "hv_", "vmbus/", "cec",
    "wmi/", "snd/", "input/", "net/", "xen/", "open-dice", "trusty", "dlm", "ocfs2", "gnss", "fpga", "sgx", "papr", "ipmi",
)  # fmt: skip

NODE_KINDS = frozenset({
    "mem", "/dev/vc/0", "tty", "ttyS", "ttyAMA", "ttyMSM", "ttymxc", "ttyUSB", "ttyACM", "ttyGS", "ttyDBC", "ttyprintk", "ttyHSL",
    "ttyS0", "ttySC", "ttySAC", "ttySIF", "ttyXRUSB", "ttyLP", "rfcomm", "hvc", "hvsi", "/dev/tty", "/dev/console", "/dev/ptmx", "ptm",
    "pts", "pty", "ttyp", "vcs", "misc", "input", "lp", "sound", "sg", "fb", "ppdev", "ppp", "joystick", "raw", "cpu/cpuid",
    "cpu/msr", "usb", "usb_device", "usbmon", "hidraw", "macvtap", "ipvtap", "mei", "bsg", "watchdog", "ptp", "pps", "dax", "dimmctl",
    "ndctl", "alsa", "drm", "accel", "media", "video4linux", "dvb", "cec", "lirc", "rtc", "i2c", "spi", "iio", "gpiochip", "gpio",
    "tpm", "tee", "nvme", "nvme-generic", "nvme-fabrics", "ng", "scsi", "st", "ch", "osst", "ubi", "mtd", "ntb", "uio", "vfio",
    "vfio-dev", "iommu", "virtio-portsdev", "virtio-ports", "vport", "aux", "drm_dp_aux_dev", "dma_heap", "auxiliary", "cros_ec", "cros",
    "kvm", "hwrng", "cxl", "rpmb", "ufs-bsg", "wwan_port", "wwan", "pktcdvd", "firewire", "remoteproc", "rpmsg", "rpmsg_ctrl", "kfd",
    "hidg", "uinput", "comedi", "counter", "gpib", "hpet", "isst", "mchar", "aoechr", "netlink", "dsa", "uacce", "qat_adf_ctl",
    "switchtec", "megaraid_sas_ioctl", "megaraid_sas_ioctl_node", "ipmidev", "ttyHS", "ttyO", "ttyTHS", "tap", "mdev", "vduse", "userio",
    "capi20", "phone", "vhost-vdpa", "blkext", "bcm2835-gpiomem", "vchiq", "isdn", "cpqarray", "slram", "xen",
})  # fmt: skip
"""Names in the first part of /proc/devices (character devices) that are no accelerators'."""

DRIVERS = frozenset({
    "ccp", "dh895xcc", "dh895xccvf", "c3xxx", "c3xxxvf", "c6xx", "c6xxvf", "4xxx", "420xx", "6xxx", "qat_4xxx", "hisi_hpre", "hisi_sec2",
    "hisi_zip", "nitrox", "cavium_cptpf", "cavium_cptvf", "octeontx_cpt", "rvu_cptpf", "rvu_cptvf", "chcr", "bcm_spu", "amd_ccp",
    "pci_stub", "pcieport", "intel_qat",
})  # fmt: skip
"""PCI drivers of the co-processor class (0x0b40) and its neighbours that are of cryptography and compression (drivers/crypto)."""

CHANNELS = (
    "IPCRTR", "qcom,apr", "qcom,gpr", "apr_", "adsp_apps", "rpm_requests", "WCNSS_CTRL", "APPS_RIVA", "sys_mon", "glink_ssr", "ssr",
    "rpmsg-raw", "rpmsg_chrdev", "rpmsg_ctrl", "rpmsg_ns", "rpmsg-tty", "rpmsg-client-sample", "cros-ec-rpmsg", "mtk_", "DATA", "CTRL",
    "pmic_", "PMIC_", "wci2", "diag", "DIAG", "loopback", "LOOPBACK", "g_glink", "glink_pkt", "to_apps", "rpmsg-i2c", "rpmsg-openamp",
    "rpmsg-imx", "rpmsg-pm", "rpmsg-virtual", "rpmsg-keypad", "rpmsg-life", "rpmsg-audio", "tps6", "rpmsg-io",
)  # fmt: skip
"""Beginnings of the names of channels on the rpmsg bus behind which no accelerator is."""
