"""What the kernel lets itself load: verified boot, LoadPin and the rest, as they are read from files that lie, lack or are refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.device_mapper import read_tables
from auditor.facts.kernel import read_kernel
from auditor.facts.loading import read_loading
from auditor.facts.reading import Device
from auditor.facts.types import Missing, Mount, Pin, mount_of
from auditor.model import Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from auditor.sources.recording import Replay
from fixtures.devices import ABSENT, absent, answered, denied, names, text
from fixtures.laptop import COMMAND_LINE, CONFIG, LOG, MOUNTS, laptop

COS = (
    "BOOT_IMAGE=/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd rootwait ro noresume loglevel=7 console=tty1 console=ttyS0,115200 "
    "security=apparmor loadpin.exclude=kernel-module,firmware modules-load=loadpin_trigger firmware_class.path=/var/lib/nvidia/firmware "
    "module.sig_enforce=1 dm_verity.error_behavior=3 dm_verity.max_bios=-1 dm_verity.dev_wait=1 i915.modeset=1 cros_efi root=/dev/dm-0 "
    '"dm-mod.create=vroot,,,ro,0 4077568 verity 0 PARTUUID=33380AF5-AE20-B145-804B-0FA44521AF7F '
    "PARTUUID=33380AF5-AE20-B145-804B-0FA44521AF7F "
    "4096 4096 509696 509696 sha256 369788617d53fa637bc7245ad62cd9be0900ebff78243ea69cff567792de4f74 "
    '9698505fe0b51565e3fe4f68ee69838dc0b0bb6143fd9784fdff1e7fdc76d530"'
)
"""The command line of a published GPU node of Container-Optimized OS: verity and module signing are on, and any firmware is taken."""


def loading(record):
    device = Device(Replay(record))
    return read_loading(device, read_kernel(device))


def started_with(line):
    return loading(text(laptop(), "/proc/cmdline", line))


def logged(log):
    return loading(answered(laptop(), {base.kernel_log(): Reply(Status.OK, log.encode())}))


def test_everything_in_place():
    found = loading(laptop())
    boot, pin = found.verified_boot, found.loadpin
    assert (boot.verity.open(), boot.root_read_only.open(), boot.mode.open()) == (True, True, "normal")
    assert (pin.enforcing.open(), pin.excluded.open(), pin.pinned.open()) == (True, frozenset(), Pin("253:0", read_only=True))
    assert (found.search_path.open(), found.user_helper.open(), found.module_signatures_enforced.open()) == ("", False, False)
    assert (found.lockdown.open(), found.ima_appraises_firmware.open()) == ("integrity", False)


# --- verified boot -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        COMMAND_LINE.replace("root=/dev/dm-0", "root=PARTUUID=a/PARTNROFF=1"),  # verification turned off: the table stays
        COMMAND_LINE.replace("root=/dev/dm-0", ""),
        f"{COMMAND_LINE} root=/dev/sda3",
        "cros_secure root=/dev/dm-0",
        COMMAND_LINE.replace("verity ", "linear "),
        COMMAND_LINE.replace("error_behavior=3", "error_behavior=2"),
        COMMAND_LINE.replace("error_behavior=3", "error_behavior=none"),
        COMMAND_LINE.replace(" salt=", " error_behavior=none salt="),
        "root=/dev/mapper/vg-root",
        f"{COMMAND_LINE.replace('root=/dev/dm-0', '')} root=/dev/dm-999999",
    ],
)
def test_a_root_that_nothing_verifies(line):
    assert started_with(line).verified_boot.verity.open() is False


def test_the_mainline_form_of_the_table_is_known():
    assert started_with(COS).verified_boot.verity.open()
    assert started_with(COS.replace("4f74 9698", "4f74 9698 1 ignore_corruption ")).verified_boot.verity.open() is False


OTHER = "1 other none ro 1,0 4096000 linear /dev/sda5 0"


@pytest.mark.parametrize(
    "line",
    [
        f'{COMMAND_LINE} dm="{OTHER}"',  # the kernel takes one of them
        f'dm="{OTHER}" {COMMAND_LINE}',
        COMMAND_LINE.replace('dm="1 vroot', f'dm="2 {OTHER[2:]}, vroot'),
        COMMAND_LINE.replace('" noinitrd', ',4096000 4096000 linear /dev/sda5 0" noinitrd').replace("ro 1,0", "ro 2,0"),
        COMMAND_LINE.replace("vroot none ro", "vroot none rw"),
        COMMAND_LINE.replace("root=/dev/dm-0", "root=/dev/dm-1"),
        COS.replace('6d530"', '6d530,4077568 4096 linear /dev/sda5 0"'),
        COS.replace("vroot,,,ro", "vroot,,1,ro"),
        f'{COS} dm-mod.create="other,,,ro,0 4077568 linear /dev/sda5 0"',
        f'{COS} dm_mod.create="other,,,ro,0 4077568 linear /dev/sda5 0"',
    ],
)
def test_a_verity_table_that_is_not_the_root_s_is_not_understood(line):
    """Evasion: the table that is shown is not the one that the root is made of."""
    found = started_with(line).verified_boot.verity
    assert isinstance(found, Missing)
    assert "not understood" in found.note


BOOTCACHE = (
    "cros_secure init=/sbin/init root=/dev/dm-1 rootwait ro dm_verity.error_behavior=3 "
    'dm="2 vboot none ro 1,0 2545920 bootcache PARTUUID=748b5685/PARTNROFF=1 2545920 cf36f82b4141de51494e8d862437dbcffd6c4c7e 512 20000 '
    "100000, vroot none ro 1,0 2506752 verity payload=254:0 hashtree=254:0 hashstart=2506752 alg=sha1 "
    'root_hexdigest=12a36f9d2ea513bddea208ab19e6408d08fe0d10 salt=2fd4f0b1115757173480a945a03909de4703d296ce3a29aad73e70af73e720d6"'
)
"""As ChromeOS 43 started: dm-verity over a cache of the boot's blocks."""

POSITIONAL = (
    f'root=/dev/dm-0 dm="1 vroot none ro 1,0 51599 verity 1 PARTUUID=a PARTUUID=a 4096 4096 6449 6449 sha1 {"5e" * 20} {"c0" * 20} 1 x"'
)


@pytest.mark.parametrize(
    "line",
    [
        COMMAND_LINE.replace("none ro 1,0 4096000 verity ", "none  ro   1,  0 4096000   verity  "),
        COMMAND_LINE.replace(" noinitrd", "").replace('dm="1 vroot', 'dm="   1  vroot'),
        COMMAND_LINE.replace("alg=sha256", "alg=sha256-generic"),
        COMMAND_LINE.replace("ro 1,0 ", "ro,0 ").replace('dm="1 ', 'dm="'),  # before there was a number of devices
        COMMAND_LINE.replace('" noinitrd', ',"'),
        COMMAND_LINE.replace("root=/dev/dm-0", "root=253:0"),
        COMMAND_LINE.replace("root=/dev/dm-0", "root=fd00"),
        COMMAND_LINE.replace("root=/dev/dm-0", "root=FD00"),
        COMMAND_LINE.replace('" noinitrd', f', {OTHER[2:]}" noinitrd').replace('dm="1 ', 'dm="2 '),
        POSITIONAL,
        COS.replace("sha256 3697", "sha256-generic 3697"),
        COS.replace(" verity 0 ", "   verity   0  ").replace("vroot,,,ro,0", " vroot , , , ro , 0"),
        COS.replace('6d530"', '6d530;other,,,ro,0 4077568 linear /dev/sda5 0"'),
        COS.replace('"dm-mod.create=vroot,,,', '"dm-mod.create=other,,1,ro,0 4077568 linear /dev/sda5 0;vroot,,,'),
    ],
)
def test_a_table_is_read_as_the_kernel_reads_it(line):
    assert started_with(line).verified_boot.verity.open() is True


def test_verity_over_a_cache_is_verity():
    record = text(text(laptop(), "/proc/cmdline", BOOTCACHE), "/sys/block/dm-1/dev", "254:1\n")
    record = text(record, "/proc/self/mountinfo", MOUNTS.replace("253:0", "254:1"))
    assert loading(record).verified_boot.verity.open() is True
    # a cache over verity hands out what nothing verified
    over = COMMAND_LINE.replace("root=/dev/dm-0", "root=/dev/dm-1").replace('dm="1 ', 'dm="2 ')
    over = over.replace('" noinitrd', ', cache none ro 1,0 4096000 bootcache 254:0 4096000 cf36 512 20000 100000" noinitrd')
    assert isinstance(loading(text(record, "/proc/cmdline", over)).verified_boot.verity, Missing)


@pytest.mark.parametrize("root", ["8:3", "803", "b302", "259:3", "/dev/sda3", "PARTUUID=fd00", "9999999:1", "fd00000000"])
def test_a_root_that_is_no_number_of_device_mapper_s(root):
    assert started_with(COMMAND_LINE.replace("/dev/dm-0", root)).verified_boot.verity.open() is False


@pytest.mark.parametrize("root", ["252:0", "fe00", "253:1"])
def test_a_number_that_is_another_device_s_is_not_known(root):
    """virtio's disks have numbers that the kernel hands out, as device-mapper has."""
    assert isinstance(started_with(COMMAND_LINE.replace("/dev/dm-0", root)).verified_boot.verity, Missing)


@given(st.sampled_from(("dm", "dm-mod.create")), st.text(alphabet="ro, ;12v=\tverity", max_size=80))
def test_any_table_is_read_or_refused(parameter, table):
    with contextlib.suppress(ValueError):
        assert all(each.targets for each in read_tables(parameter, table))


def test_what_follows_two_dashes_is_not_the_kernel_s():
    """Evasion: a table, a root and a mode that are init's arguments, and that the kernel never sees."""
    found = started_with(f"root=/dev/sda3 -- {COMMAND_LINE}").verified_boot
    assert (found.verity.open(), found.mode.open()) == (False, "")


@pytest.mark.parametrize("change", ["overlay", "other", "denied", "no-dm", "roothash", "table"])
def test_a_root_of_which_nothing_can_be_said(change):
    record = {
        "overlay": lambda: text(laptop(), "/proc/self/mountinfo", MOUNTS.replace("253:0 / / ro", "0:42 / / ro")),
        "other": lambda: text(laptop(), "/sys/block/dm-0/dev", "253:7\n"),
        "denied": lambda: denied(laptop(), "/proc/self/mountinfo"),
        "no-dm": lambda: absent(laptop(), "/sys/block/dm-0/dev"),
        "roothash": lambda: text(laptop(), "/proc/cmdline", "root=/dev/dm-0 roothash=5e"),
        "table": lambda: text(laptop(), "/proc/cmdline", COMMAND_LINE.replace("root_hexdigest=", "root_hexdigest:")),
    }[change]()
    assert isinstance(loading(record).verified_boot.verity, Missing)


def test_what_is_not_understood_is_what_is_named():
    found = loading(text(laptop(), "/proc/self/mountinfo", f"29 1\n{MOUNTS}")).verified_boot.verity
    assert isinstance(found, Missing)
    assert (found.evidence[0].path, found.note) == ("/proc/self/mountinfo", "not understood: expected mountinfo's fields, found '29 1'")
    found = loading(absent(laptop(), "/proc/self/mountinfo")).verified_boot.verity
    assert found.evidence[0].path == "/proc/self/mountinfo"


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        ("cros_secure", "normal"),
        ("cros_secure console= cros_secure cros_debug", "developer"),
        ("cros_efi", ""),
        ("quiet cros_secured", ""),
        ('"cros_debug"', "developer"),
    ],
)
def test_the_mode_is_the_firmware_s_word(line, mode):
    assert started_with(line).verified_boot.mode.open() == mode


def test_a_very_long_table_does_not_hang():
    assert isinstance(started_with(f'root=/dev/dm-0 dm="{"verity " * 100_000}"').verified_boot.verity, Missing)


# --- mounts ------------------------------------------------------------------------------------------------------------------------------


def mount(number, parent, point):
    return Mount(number, parent, point, f"0:{number}", "ext4", read_only=True)


@pytest.mark.parametrize(
    ("mounts", "path", "found"),
    [
        ([mount(1, 0, "/")], "/lib/firmware/a", 1),
        ([mount(1, 0, "/"), mount(2, 1, "/lib")], "/lib/firmware/a", 2),
        ([mount(1, 0, "/"), mount(2, 1, "/lib")], "/library/a", 1),
        ([mount(1, 0, "/"), mount(2, 1, "/lib"), mount(3, 2, "/lib/firmware")], "/lib/firmware/a", 3),
        # mounted over: what was mounted below before is hidden
        ([mount(1, 0, "/"), mount(2, 1, "/lib/firmware"), mount(3, 1, "/lib")], "/lib/firmware/a", 3),
        ([mount(1, 0, "/"), mount(2, 1, "/lib"), mount(3, 2, "/lib")], "/lib/firmware/a", 3),
        ([mount(1, 0, "/"), mount(2, 1, "/")], "/lib/firmware/a", 2),
        ([mount(2, 1, "/lib")], "/lib/firmware/a", None),
        ([], "/", None),
    ],
)
def test_the_file_system_that_a_path_leads_into(mounts, path, found):
    holder = mount_of(tuple(mounts), path)
    assert (holder.id if holder else None) == found


def test_mounts_that_are_each_other_s_parents_end():
    assert mount_of((mount(1, 2, "/"), mount(2, 1, "/")), "/a") is None


def test_escapes_in_a_mount_point_are_undone():
    found = loading(text(laptop(), "/proc/self/mountinfo", MOUNTS + "40 29 8:1 / /a\\040b rw - ext4 x rw\n")).mounts.open()
    assert found[-1].point == "/a b"


@given(st.text(max_size=200))
def test_any_mountinfo_is_read_or_refused(content):
    with contextlib.suppress(UnicodeEncodeError):
        loading(text(laptop(), "/proc/self/mountinfo", content))


# --- LoadPin -----------------------------------------------------------------------------------------------------------------------------


def without_sysctl(record):
    return answered(record, {base.read(f"/proc/sys/kernel/loadpin/{name}"): ABSENT for name in ("enforce", "enabled")})


def test_a_kernel_without_loadpin():
    record = without_sysctl(laptop())
    found = loading(text(record, "/sys/kernel/security/lsm", "capability,landlock\n")).loadpin.enforcing
    assert (found.status, found.note) == (Status.ABSENT, "this kernel has no LoadPin")


def test_without_securityfs_the_configuration_says_whether_there_is_a_loadpin():
    record = absent(text(laptop(), "/sys/kernel/security/lsm", ""), "/sys/kernel/security/lsm")
    record = without_sysctl(record)
    assert loading(record).loadpin.enforcing.open() is True  # by the log
    (question,) = (each for each in record.answers if each.path.startswith("/boot/config-"))
    assert loading(answered(record, {question: Reply(Status.OK, b"CONFIG_SECURITY=y\n")})).loadpin.enforcing.status is Status.ABSENT
    unknown = loading(answered(record, {question: ABSENT})).loadpin.enforcing  # a tree without kernel files says nothing about the kernel
    assert (unknown.status, len(unknown.evidence)) == (Status.FAILED, 2)


@pytest.mark.parametrize("name", ["enforce", "enabled"])
@pytest.mark.parametrize("value", ["0", "1"])
def test_both_names_of_the_sysctl(name, value):
    record = without_sysctl(laptop())
    assert loading(text(record, f"/proc/sys/kernel/loadpin/{name}", value)).loadpin.enforcing.open() is (value == "1")


def test_an_old_kernel_that_was_told_not_to_enforce_says_engaged_all_the_same():
    """Evasion: loadpin.enabled=0. That what is pinned cannot be written is reported either way (check_pinning_enforcement)."""
    record = text(without_sysctl(laptop()), "/sys/kernel/security/lsm", "loadpin")
    for log, enforcing in ((LOG, True), (LOG.replace("currently enforcing", "currently not enforcing"), False)):
        found = loading(answered(record, {base.kernel_log(): Reply(Status.OK, log.encode())})).loadpin.enforcing
        assert found.open() is enforcing
    rolled_over = LOG.partition("\n")[2]  # the beginning of the log is gone
    found = loading(answered(record, {base.kernel_log(): Reply(Status.OK, rolled_over.encode())})).loadpin.enforcing
    assert found.status is Status.FAILED


@pytest.mark.parametrize(
    ("word", "enforcing"), [("enabled", True), ("disabled", False), ("enforcing", True), ("not enforcing", False), ("enchanted", None)]
)
def test_how_loadpin_was_started_as_kernels_from_4_7_to_7_2_say_it(word, enforcing):
    """Before 4.20: `ready to pin (currently enabled)`, with no line end of its own, and the sysctl only where it can be written."""
    record = text(without_sysctl(laptop()), "/sys/kernel/security/lsm", "loadpin")
    log = LOG.replace("currently enforcing", f"currently {word}")
    found = loading(answered(record, {base.kernel_log(): Reply(Status.OK, log.encode())})).loadpin.enforcing
    assert (found.value if enforcing is not None else found.status) == (Status.FAILED if enforcing is None else enforcing)


def test_two_words_on_what_loadpin_pinned_are_none():
    """Evasion: a module of the vendor's that writes such a line itself."""
    found = logged(LOG.replace("LoadPin: dm-0", "LoadPin: sda1 (8:1): writable\nLoadPin: dm-0")).loadpin.pinned
    assert (found.status, "says twice" in found.note) == (Status.FAILED, True)
    assert logged(LOG * 2).loadpin.pinned.open() == Pin("253:0", read_only=True)


def test_an_old_kernel_says_so_in_its_log_alone():
    record = without_sysctl(laptop())
    assert loading(text(record, "/sys/kernel/security/lsm", "loadpin")).loadpin.enforcing.open()
    quoted = LOG.replace("LoadPin: load", "evil: LoadPin: load")
    record = answered(record, {base.kernel_log(): Reply(Status.OK, quoted.encode())})
    assert loading(text(record, "/sys/kernel/security/lsm", "loadpin")).loadpin.enforcing.status is Status.FAILED


def test_a_refused_sysctl_is_not_looked_around():
    assert loading(denied(laptop(), "/proc/sys/kernel/loadpin/enforce")).loadpin.enforcing.status is Status.DENIED


@pytest.mark.parametrize(
    ("line", "excluded"),
    [
        ("loadpin.exclude=kernel-module,firmware", {"kernel-module", "firmware"}),
        ("loadpin.exclude=firmware loadpin.exclude=kexec-image", {"firmware", "kexec-image"}),
        ("loadpin-exclude=firmware", set()),
        ("quiet", set()),
    ],
)
def test_what_loadpin_leaves_out(line, excluded):
    assert started_with(line).loadpin.excluded.open() == excluded


@pytest.mark.parametrize(
    ("log", "pin"),
    [
        ("LoadPin: nvme0n1p3 (259:3): writable\nLoadPin: enforcement can be disabled.", Pin("259:3", read_only=False)),
        ("[    8.17] LoadPin: sda2 (8:2): read-only", Pin("8:2", read_only=True)),
        ("[   20.59][    T1] LoadPin: sda2 (8:2): read-only", Pin("8:2", read_only=True)),
        ("[    8.17] LoadPin: dev(253,0): read-only", Pin("253:0", read_only=True)),  # downstream kernels without the device's name
        ("LoadPin: mnt_sb lacks block device, treating as: writable", Pin("a file system without a block device", read_only=False)),
        ("systemd: LoadPin: dm-0 (253:0): read-only", None),
        ("", None),
    ],
)
def test_what_the_log_says_is_pinned(log, pin):
    found = logged(log).loadpin.pinned
    assert found == Missing(found.status, found.evidence, found.note, found.remedy) if pin is None else found.open() == pin


def test_without_a_log_nothing_is_known_to_be_pinned():
    assert loading(answered(laptop(), {base.kernel_log(): Reply(Status.UNASKED)})).loadpin.pinned.status is Status.UNASKED


# --- the rest ----------------------------------------------------------------------------------------------------------------------------


def test_the_published_gpu_node_takes_any_firmware():
    found = started_with(COS)
    assert found.verified_boot.verity.open()
    assert "firmware" in found.loadpin.excluded.open()
    assert found.verified_boot.mode.open() == ""
    assert loading(absent(text(laptop(), "/proc/cmdline", COS), "/sys/module/firmware_class/parameters/path")).search_path.open() == (
        "/var/lib/nvidia/firmware"
    )


def test_the_search_path_is_the_one_in_force():
    record = text(laptop(), "/proc/cmdline", "firmware_class.path=/var/fw")
    assert loading(record).search_path.open() == ""
    assert loading(text(record, "/sys/module/firmware_class/parameters/path", "/tmp/fw\n")).search_path.open() == "/tmp/fw"
    assert loading(denied(record, "/sys/module/firmware_class/parameters/path")).search_path.status is Status.DENIED


def test_the_helper_is_where_its_switches_are():
    record = names(laptop(), "/proc/sys/kernel", "firmware_config", "loadpin")
    assert isinstance(loading(record).user_helper, Missing)
    for forced, ignored, asks in (("1", "0", True), ("1", "1", False), ("0", "0", False)):
        with_both = text(record, "/proc/sys/kernel/firmware_config/force_sysfs_fallback", forced)
        assert loading(text(with_both, "/proc/sys/kernel/firmware_config/ignore_sysfs_fallback", ignored)).user_helper.open() is asks


@pytest.mark.parametrize("content", ["", "\0" * 4096])
def test_kernel_files_that_a_copy_emptied_say_nothing(content):
    for path, fact in (
        ("/proc/cmdline", lambda found: found.loadpin.excluded),
        ("/sys/module/firmware_class/parameters/path", lambda found: found.search_path),
    ):
        assert fact(loading(text(laptop(), path, content))).status is Status.FAILED
    assert loading(text(without_sysctl(laptop()), "/sys/kernel/security/lsm", content)).loadpin.enforcing.status is Status.FAILED
    assert loading(names(laptop(), "/proc/sys/kernel")).user_helper.status is Status.FAILED


def test_without_proc_the_configuration_says_whether_there_is_a_helper():
    record = absent(laptop(), "/proc/sys/kernel")
    (question,) = (each for each in record.answers if each.path.startswith("/boot/config-"))
    assert loading(record).user_helper.open() is False
    asks = answered(record, {question: Reply(Status.OK, b"CONFIG_FW_LOADER_USER_HELPER=y\n")})
    assert loading(asks).user_helper.status is Status.ABSENT


@pytest.mark.parametrize(
    ("config", "enforced"),
    [("CONFIG_MODULES=y", False), ("CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y", True), ("CONFIG_MODULE_SIG=y", None)],
)
def test_module_signatures_by_the_configuration(config, enforced):
    record = absent(laptop(), "/sys/module/module/parameters/sig_enforce")
    (question,) = (each for each in record.answers if each.path.startswith("/boot/config-"))
    found = loading(answered(record, {question: Reply(Status.OK, config.encode())})).module_signatures_enforced
    assert found.status is Status.ABSENT if enforced is None else found.open() is enforced


IMA = f"{CONFIG}CONFIG_IMA_APPRAISE=y\n"


@pytest.mark.parametrize(
    ("config", "line", "policy", "appraises"),
    [
        (IMA, "", "appraise func=FIRMWARE_CHECK appraise_type=imasig\n", True),
        (IMA, "", "appraise func=FIRMWARE_CHECK\n", False),  # a digest will do
        (IMA, "", "dont_appraise fsmagic=0x9fa0\nappraise func=MODULE_CHECK appraise_type=imasig\n", False),
        (IMA, "", "dont_appraise func=FIRMWARE_CHECK\nappraise func=FIRMWARE_CHECK appraise_type=imasig\n", False),
        (IMA, "", "appraise func=FIRMWARE_CHECK\nappraise func=FIRMWARE_CHECK appraise_type=imasig\n", False),  # a hash does
        (IMA, "", "appraise func=FIRMWARE_CHECK appraise_flag=check_blacklist appraise_type=imasig\n", True),
        (IMA, "", "appraise func=FIRMWARE_CHECK digest_type=verity appraise_type=sigv3\n", True),
        (IMA, "", "appraise func=FIRMWARE_CHECK appraise_type=sigv9\n", None),  # of a kernel to come
        (IMA, "", "appraise appraise_type=imasig\n", True),  # without a func: of all that is read
        (IMA, "", "appraise fowner=0 appraise_type=imasig\n", None),
        (IMA, "", "apprise func=FIRMWARE_CHECK\nappraise func=FIRMWARE_CHECK appraise_type=imasig\n", None),
        (IMA, "", "measure func=FIRMWARE_CHECK\ndont_measure fsmagic=0x9fa0\n", False),
        (IMA, "", "dont_appraise fsmagic=0x9fa0\n", False),
        (IMA, "", "dont_appraise fsmagic=0x01021994\nappraise func=FIRMWARE_CHECK appraise_type=imasig\n", None),
        (IMA, "", "appraise func=FIRMWARE_CHECK appraise_type=imasig fowner=7\n", None),
        (IMA, "", "appraise func=MODULE_CHECK appraise_type=imasig\n\nappraise func=FIRMWARE_CHECK appraise_type=imasig|modsig\n", True),
        (IMA, "ima_appraise=log", "appraise func=FIRMWARE_CHECK appraise_type=imasig\n", False),
        (IMA, "ima_policy=tcb|secure_boot", None, True),
        (IMA, "ima_policy=tcb", None, None),
        (f"{IMA}CONFIG_IMA_APPRAISE_REQUIRE_FIRMWARE_SIGS=y\n", "", None, True),
        (CONFIG, "ima_policy=secure_boot", None, False),
    ],
)
def test_what_ima_appraises(config, line, policy, appraises):
    record = text(laptop(), "/proc/cmdline", f"{line}\n")
    (question,) = (each for each in record.answers if each.path.startswith("/boot/config-"))
    record = answered(record, {question: Reply(Status.OK, config.encode())})
    path = "/sys/kernel/security/ima/policy"
    record = text(record, path, policy) if policy is not None else answered(record, {base.read(path): Reply(Status.DENIED, errno=13)})
    found = loading(record).ima_appraises_firmware
    if appraises is None:
        assert found.status is (Status.DENIED if policy is None else Status.FAILED)
    else:
        assert found.open() is appraises


def test_a_kernel_that_shows_its_policy_to_nobody_is_not_asked_again_as_root():
    record = text(laptop(), "/proc/cmdline", "x\n")
    (question,) = (each for each in record.answers if each.path.startswith("/boot/config-"))
    refused = {base.read("/sys/kernel/security/ima/policy"): Reply(Status.DENIED, errno=13)}
    for options, remedy in (
        ("CONFIG_IMA_APPRAISE=y\n", Remedy.EVIDENCE),
        ("CONFIG_IMA_APPRAISE=y\nCONFIG_IMA_READ_POLICY=y\n", Remedy.ROOT),
    ):
        found = loading(answered(record, {question: Reply(Status.OK, options.encode()), **refused})).ima_appraises_firmware
        assert (found.status, found.remedy) == (Status.DENIED, remedy)


def test_a_machine_of_which_nothing_is_known():
    """A container, or an unpacked image: nothing here is false, it is not known."""
    found = loading(answered(laptop(), dict.fromkeys(laptop().answers, Reply(Status.ABSENT, errno=2))))
    facts = [found.mounts, found.search_path, found.user_helper, found.module_signatures_enforced, found.lockdown]
    facts += [found.ima_appraises_firmware, found.verified_boot.verity, found.verified_boot.mode, found.loadpin.excluded]
    assert not [each for each in facts if not isinstance(each, Missing)]
    assert "this kernel" not in found.loadpin.enforcing.note
