"""security-2: firmware that is authenticated before it is loaded, firmware that anyone could have made, and all that is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auditor.facts.plan import plan_document
from auditor.facts.types import Listing, Ok, Plan, PublicKey, Settings
from auditor.model import Outcome, Remedy, Status
from auditor.sources import base
from auditor.sources.base import Reply
from checks import security_2, security_2_kernel
from fixtures import trees
from fixtures.devices import absent, answered, denied, every_degradation, text
from fixtures.elf import Shared
from fixtures.images import KEY_ID, amd_psp, intel_css, qualcomm_mbn, rsa_key
from fixtures.judging import collected, judged
from fixtures.kernel import RELEASE, build_key, module, signed
from fixtures.laptop import (
    COMMAND_LINE,
    DELEGATE,
    FIRMWARE,
    INFO,
    LOG,
    MODULE,
    MOUNTS,
    NPU,
    SYSFS,
    laptop,
    npu_firmware,
    passed_through,
    recorded_with,
)
from tests.auditor.facts.test_loading import COS

IMAGE = f"file:{FIRMWARE}"
CMDLINE = "/proc/cmdline"
OVERRIDE = "/sys/module/intel_vpu/parameters/firmware"


def found(record, check=security_2.loading, subject=NPU):
    return judged(record, check)[subject]


def on_device(record, check):
    return judged(record, check)["device"]


def with_image(content, line=COMMAND_LINE):
    def change(contents, links):
        contents[FIRMWARE] = content
        contents[CMDLINE] = line

    return recorded_with(change)


def with_driver(*lines, symbols=("request_firmware",)):
    def change(contents, links):
        contents[MODULE] = signed(module(*lines, symbols=symbols), build_key())

    return recorded_with(change)


def logged(log):
    return answered(laptop(), {base.kernel_log(): Reply(Status.OK, log.encode())})


# --- the one that must --------------------------------------------------------------------------------------------------------------------


def test_images_on_the_verified_root_and_from_nowhere_else():
    passed = found(laptop())
    assert passed.outcome is Outcome.PASS
    assert passed.observed.startswith("1 of 2 images are there: intel/vpu/vpu_37xx_v1.bin")
    assert {FIRMWARE, CMDLINE, MODULE, "/proc/self/mountinfo", "kernel_log:", DELEGATE} <= {each.path for each in passed.evidence}


EXCLUDED = f"{COMMAND_LINE} loadpin.exclude=firmware"
OPEN = {
    "excluded": lambda: text(laptop(), CMDLINE, EXCLUDED),
    "not enforcing": lambda: text(laptop(), "/proc/sys/kernel/loadpin/enforce", "0\n"),
    "writable": lambda: logged(LOG.replace("read-only", "writable")),
    "another pinned": lambda: logged(LOG.replace("dm-0 (253:0)", "nvme0n1p1 (259:1)")),
    "not verified": lambda: text(laptop(), CMDLINE, COMMAND_LINE.replace("root=/dev/dm-0", "root=/dev/sda3")),
    "the published GPU node": lambda: text(laptop(), CMDLINE, COS),
}


@pytest.mark.parametrize("name", OPEN)
def test_an_unsigned_image_where_any_can_be_loaded(name):
    """The published node has verity and module signing on, and takes any firmware."""
    failed = found(OPEN[name]())
    assert failed.outcome is Outcome.FAIL
    assert "unsigned" in failed.observed


def test_a_kernel_without_loadpin():
    record = answered(laptop(), {base.read(f"/proc/sys/kernel/loadpin/{name}"): Reply(Status.ABSENT) for name in ("enforce", "enabled")})
    failed = found(text(record, "/sys/kernel/security/lsm", "landlock\n"))
    assert failed.outcome is Outcome.FAIL
    assert "the kernel has no LoadPin" in failed.observed


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        (npu_firmware(), Outcome.FAIL),
        (amd_psp()[:300] + b"x" + amd_psp()[301:], Outcome.FAIL),  # altered
        (amd_psp(), Outcome.UNKNOWN),  # by a key that is not known
        (qualcomm_mbn(), Outcome.UNKNOWN),  # by a root that is not known: the device may know it
        (b"no format that is known" * 9, Outcome.UNKNOWN),
    ],
)
def test_what_the_device_may_verify_itself_is_unknown(image, outcome):
    assert found(with_image(image, EXCLUDED)).outcome is outcome


def test_a_pinned_root_alone_is_not_enough():
    numbers = rsa_key().public_key().public_numbers()
    settings = Settings(keys=(PublicKey(KEY_ID.hex(), numbers.n, numbers.e),))
    facts = replace(collected(with_image(amd_psp(), EXCLUDED)), settings=settings)
    assert judged(facts, security_2.signature)[IMAGE].outcome is Outcome.PASS
    unknown = judged(facts, security_2.loading)[NPU]
    assert (unknown.outcome, unknown.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)


def test_where_ima_checks_firmware_an_open_origin_is_no_failure():
    def change(contents, links):
        contents[CMDLINE] = f"{EXCLUDED} ima_policy=secure_boot"
        contents[f"/boot/config-{RELEASE}"] = "CONFIG_IMA_APPRAISE=y\nCONFIG_SECURITY_LOADPIN=y\n"

    assert found(recorded_with(change)).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (lambda: text(laptop(), CMDLINE, f"{COMMAND_LINE} cros_debug loadpin.exclude=firmware"), "developer mode"),
        (lambda: text(laptop(), CMDLINE, COMMAND_LINE.replace("cros_secure", "cros_efi")), "ChromeOS firmware"),
        (lambda: logged(""), "does not say what LoadPin pinned"),
        (lambda: text(laptop(), "/proc/self/mountinfo", f"{MOUNTS}40 29 259:9 / /lib/firmware ro - ext4 x ro\n"), "another file system"),
        (lambda: absent(laptop(), f"{SYSFS}/driver"), "no driver is bound"),
        (passed_through, "may load firmware through VFIO"),
        (lambda: with_driver("license=GPL", "intree=Y"), "names no firmware, which does not mean"),
        (lambda: with_driver(*INFO, symbols=("firmware_register", "firmware_upload_register")), "lets user space upload"),
        (lambda: with_driver("license=GPL", "intree=Y", "firmware=a.bin", "firmware=b.bin"), "names a.bin, b.bin; none of them is there"),
    ],
)
def test_what_is_not_proven_is_unknown(record, says):
    unknown = found(record())
    assert unknown.outcome is Outcome.UNKNOWN, unknown.observed
    assert says in unknown.observed


GIVEN = "/opt/vendor/npu.bin"


def shown(image, make=trees.vfio, path=GIVEN):
    """A device that user space drives, with an image that the user says it loads."""

    def change(layout):
        make(layout)
        layout.plan = replace(layout.plan, firmware_images=(path,))
        if image is not None:
            layout.contents[GIVEN] = image

    return trees.built(change)


def of_user_space(record, settings=None):
    facts = collected(record)
    ((_, answer),) = judged(replace(facts, settings=settings or facts.settings), security_2.loading).items()
    return answer


@pytest.mark.parametrize("make", [trees.vfio, trees.coral_usb], ids=["VFIO", "libusb"])
@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        (npu_firmware(), Outcome.FAIL),
        (amd_psp()[:300] + b"x" + amd_psp()[301:], Outcome.FAIL),
        (amd_psp(), Outcome.UNKNOWN),
        (b"no format that is known" * 9, Outcome.UNKNOWN),
        (b"", Outcome.UNKNOWN),
        (None, Outcome.UNKNOWN),
    ],
    ids=["unsigned", "altered", "an unknown key", "an unknown format", "empty", "not there"],
)
def test_images_that_user_space_loads(image, outcome, make):
    answer = of_user_space(shown(image, make))
    assert answer.outcome is outcome
    assert GIVEN in answer.observed


def test_an_image_of_user_space_that_a_pinned_root_signs_is_not_enough():
    numbers = rsa_key().public_key().public_numbers()
    settings = Settings(keys=(PublicKey(KEY_ID.hex(), numbers.n, numbers.e),))
    answer = of_user_space(shown(amd_psp()), settings)
    assert (answer.outcome, answer.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)
    assert "refuses an altered image was not seen" in answer.observed


def test_a_folder_is_no_image():
    assert of_user_space(shown(amd_psp(), path="/opt/vendor")).outcome is Outcome.UNKNOWN


def test_an_image_that_is_given_is_of_no_concern_to_a_driver_of_the_kernel():
    assert of_user_space(shown(npu_firmware(), trees.intel_npu)).outcome is Outcome.PASS


def test_an_override_by_an_image_that_is_not_there():
    def change(contents, links):
        contents[OVERRIDE] = "other.bin\n"

    unknown = found(recorded_with(change))
    assert unknown.outcome is Outcome.UNKNOWN
    assert "other.bin" in unknown.observed


def test_code_for_another_processor_in_user_space_is_never_covered(tmp_path):
    """Evasion: accelerator code that is shipped as a shared library for user space to load."""
    with_skeleton = recorded_with(_skeleton)
    unknown = found(with_skeleton)
    assert unknown.outcome is Outcome.UNKNOWN
    assert "libnpu_skel.so" in unknown.observed
    assert on_device(with_skeleton, security_2.user_space).outcome is Outcome.FAIL
    assert on_device(laptop(), security_2.user_space).outcome is Outcome.PASS


def _skeleton(contents, links):
    contents["/opt/npu/libnpu_delegate.so"] = Shared(size=4096).build()
    contents["/opt/npu/libnpu_skel.so"] = Shared(machine=164, bits=32).build()
    contents["/etc/tflite/settings.json"] = '{"delegate_path": "/opt/npu/libnpu_delegate.so"}'


def test_without_a_delegate_it_is_not_known_what_user_space_loads():
    plan = Reply(Status.OK, plan_document(Plan()))
    unknown = found(answered(laptop(), {base.plan(): plan}))
    assert (unknown.outcome, unknown.remedy) == (Outcome.UNKNOWN, Remedy.DELEGATE)


def test_a_driver_that_needs_no_firmware_is_not_concerned():
    def change(contents, links):
        folder = f"/lib/modules/{RELEASE}"
        contents[f"{folder}/modules.dep"] = "kernel/drivers/accel/rocket/rocket.ko:\n"
        contents[f"{folder}/kernel/drivers/accel/rocket/rocket.ko"] = signed(module("license=GPL", "intree=Y"), build_key())
        contents["/sys/module/rocket/initstate"] = "live\n"
        links["/sys/bus/pci/drivers/intel_vpu/module"] = "/sys/module/rocket"

    assert found(recorded_with(change)).outcome is Outcome.NOT_APPLICABLE
    assert found(recorded_with(change), security_2.device).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("path", [FIRMWARE, MODULE, CMDLINE, "/proc/self/mountinfo", OVERRIDE, DELEGATE, "/lib/firmware/intel/vpu"])
def test_what_may_not_be_read_is_unknown(path):
    assert found(denied(laptop(), path)).outcome is Outcome.UNKNOWN


# --- each image ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "outcome", "says"),
    [
        (npu_firmware(), Outcome.FAIL, "unsigned; header, version page and image"),
        (qualcomm_mbn(), Outcome.UNKNOWN, "verified-unknown-root (MBN v6, ECDSA secp384r1, sha384)"),
        (intel_css(), Outcome.UNKNOWN, "verified-unknown-root (Intel CSS"),
        (intel_css(bound=False), Outcome.UNKNOWN, "no digest of 'TEST.met'"),
        (amd_psp(), Outcome.UNKNOWN, f"unknown-key (AMD $PS1); key {KEY_ID.hex()}"),
        (amd_psp()[:300] + b"x" + amd_psp()[301:], Outcome.FAIL, "bad; not as signed: body"),
        (b"\xd0\x0d\xfe\xed" * 99, Outcome.UNKNOWN, "unknown-format; format unrecognised"),
        (b"\x7fELF" * 99, Outcome.UNKNOWN, "elf: "),
    ],
)
def test_the_signature_of_an_image(image, outcome, says):
    judged_ = found(with_image(image), security_2.signature, IMAGE)
    assert judged_.outcome is outcome
    assert says in judged_.observed


def test_the_digest_of_an_image_is_shown():
    assert [each.sha256 for each in found(laptop(), security_2.signature, IMAGE).evidence if each.path == FIRMWARE and each.sha256]


@pytest.mark.parametrize(
    ("image", "outcome"),
    [
        (qualcomm_mbn(), Outcome.PASS),
        (qualcomm_mbn(unhashed=1), Outcome.FAIL),
        (amd_psp(tail=b"hidden"), Outcome.FAIL),
        (intel_css(bound=False), Outcome.UNKNOWN),
        (npu_firmware(), Outcome.NOT_APPLICABLE),
    ],
)
def test_bytes_that_nothing_covers(image, outcome):
    assert found(with_image(image), security_2.coverage, IMAGE).outcome is outcome


@pytest.mark.parametrize(
    ("image", "outcome"),
    [(intel_css(), Outcome.PASS), (qualcomm_mbn(), Outcome.PASS), (amd_psp(), Outcome.UNKNOWN), (npu_firmware(), Outcome.NOT_APPLICABLE)],
)
def test_the_strength_of_a_signature(image, outcome):
    assert found(with_image(image), security_2.strength, IMAGE).outcome is outcome


def test_a_weak_key():
    image = bytearray(intel_css(bits=1024))
    assert found(with_image(bytes(image)), security_2.strength, IMAGE).outcome is Outcome.FAIL
    image[image.index(b"extensions")] ^= 1
    assert found(with_image(bytes(image)), security_2.strength, IMAGE).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("check", [security_2.signature, security_2.coverage, security_2.strength, security_2.origin, security_2.shadowed])
def test_images_that_are_not_there_or_cannot_be_looked_at(check):
    absent_one = "file:/lib/firmware/intel/vpu/vpu_40xx_v1.bin"
    assert found(laptop(), check, absent_one).outcome is Outcome.NOT_APPLICABLE
    refused = judged(denied(laptop(), "/lib/firmware/intel/vpu"), check)
    assert {each.outcome for each in refused.values()} == {Outcome.UNKNOWN}
    driver = judged(denied(laptop(), MODULE), check)
    assert {each.outcome for each in driver.values()} == {Outcome.UNKNOWN}


def test_a_driver_that_names_a_pattern_is_not_one_whose_image_is_not_there():
    """Evasion: MODULE_FIRMWARE("vendor/*.bin"), of which no file has the name."""

    def change(contents, links):
        contents[MODULE] = signed(module(*INFO, "firmware=vendor/*.bin", symbols=("request_firmware",)), build_key())

    pattern = judged(recorded_with(change), security_2.loading)[NPU]
    assert (pattern.outcome, "vendor/*.bin is a pattern" in pattern.observed) == (Outcome.UNKNOWN, True)


def test_the_origin_of_an_image():
    assert found(laptop(), security_2.origin, IMAGE).outcome is Outcome.PASS
    assert found(OPEN["not verified"](), security_2.origin, IMAGE).outcome is Outcome.FAIL
    elsewhere = text(laptop(), "/proc/self/mountinfo", f"{MOUNTS}40 29 259:9 / /lib/firmware ro - ext4 x ro\n")
    assert found(elsewhere, security_2.origin, IMAGE).outcome is Outcome.UNKNOWN


def test_an_image_that_hides_another():
    def change(contents, links):
        contents[f"/lib/firmware/updates/{FIRMWARE[len('/lib/firmware/') :]}"] = npu_firmware(512)

    hidden = judged(recorded_with(change), security_2.shadowed)
    (failed,) = (each for each in hidden.values() if each.outcome is Outcome.FAIL)
    assert failed.observed.endswith(f"hides {FIRMWARE}")
    assert found(laptop(), security_2.shadowed, IMAGE).outcome is Outcome.PASS


# --- each layer ---------------------------------------------------------------------------------------------------------------------------


LAYERS = [
    (security_2_kernel.verified_boot, OPEN["not verified"], "/proc/self/mountinfo"),
    (security_2_kernel.loadpin, OPEN["excluded"], "/proc/sys/kernel/loadpin/enforce"),
    (
        security_2_kernel.search_path,
        lambda: text(laptop(), "/sys/module/firmware_class/parameters/path", "/var/fw\n"),
        "/sys/module/firmware_class/parameters/path",
    ),
    (
        security_2_kernel.lockdown,
        lambda: text(laptop(), "/sys/kernel/security/lockdown", "[none] integrity confidentiality\n"),
        "/sys/kernel/security/lockdown",
    ),
    (security_2_kernel.module_signing, lambda: text(laptop(), CMDLINE, f"{COMMAND_LINE} loadpin.exclude=kernel-module"), CMDLINE),
]


@pytest.mark.parametrize(("check", "bad", "unread"), LAYERS)
def test_a_layer(check, bad, unread):
    assert on_device(laptop(), check).outcome is Outcome.PASS
    assert on_device(bad(), check).outcome is Outcome.FAIL
    assert on_device(denied(laptop(), unread), check).outcome is Outcome.UNKNOWN


def test_module_signatures_do_as_well_as_loadpin():
    enforced = text(laptop(), "/sys/module/module/parameters/sig_enforce", "Y\n")
    both = on_device(enforced, security_2_kernel.module_signing)
    assert not [each for each in both.evidence if each.necessary]
    one = on_device(text(enforced, CMDLINE, "quiet"), security_2_kernel.module_signing)
    assert one.outcome is Outcome.PASS
    assert [each.path for each in one.evidence if each.necessary] == ["/sys/module/module/parameters/sig_enforce"]


def test_the_helper():
    assert on_device(laptop(), security_2_kernel.helper).outcome is Outcome.PASS
    record = answered(laptop(), {base.names("/proc/sys/kernel"): Reply(Status.OK, b"firmware_config\0")})
    for path, value in (("force_sysfs_fallback", "1"), ("ignore_sysfs_fallback", "0")):
        record = text(record, f"/proc/sys/kernel/firmware_config/{path}", value)
    assert on_device(record, security_2_kernel.helper).outcome is Outcome.FAIL
    assert on_device(denied(laptop(), "/proc/sys/kernel"), security_2_kernel.helper).outcome is Outcome.UNKNOWN


def test_ima_or_loadpin():
    assert on_device(laptop(), security_2_kernel.ima).outcome is Outcome.NOT_APPLICABLE
    assert on_device(OPEN["excluded"](), security_2_kernel.ima).outcome is Outcome.FAIL
    assert on_device(logged(""), security_2_kernel.ima).outcome is Outcome.UNKNOWN

    def change(contents, links):
        contents[f"/boot/config-{RELEASE}"] = "CONFIG_IMA_APPRAISE=y\n"
        contents["/sys/kernel/security/ima/policy"] = "appraise func=FIRMWARE_CHECK appraise_type=imasig\n"

    assert on_device(recorded_with(change), security_2_kernel.ima).outcome is Outcome.PASS


def test_the_override_parameter():
    assert found(laptop(), security_2.override).outcome is Outcome.PASS
    failed = found(text(laptop(), OVERRIDE, "evil.bin\n"), security_2.override)
    assert (failed.outcome, failed.observed) == (Outcome.FAIL, "firmware=evil.bin")
    assert found(denied(laptop(), OVERRIDE), security_2.override).outcome is Outcome.UNKNOWN


def test_what_the_device_verifies_is_not_known_offline():
    unknown = found(laptop(), security_2.device)
    assert (unknown.outcome, unknown.remedy) == (Outcome.UNKNOWN, Remedy.VENDOR)


def test_a_root_that_is_mounted_writable_is_not_taken_for_verified():
    """Evasion: the table of a verified root on the command line of a system whose root can be written."""
    record = text(laptop(), "/proc/self/mountinfo", MOUNTS.replace("ro,relatime - ext2 /dev/root ro", "rw,relatime - ext2 /dev/root rw"))
    (unknown,) = judged(record, security_2_kernel.verified_boot).values()
    assert (unknown.outcome, "mounted writable" in unknown.observed) == (Outcome.UNKNOWN, True)
    assert found(record, security_2.loading).outcome is Outcome.UNKNOWN


def test_a_question_without_a_path_is_named_without_a_stray_colon():
    unknown = found(answered(laptop(), {base.kernel_log(): Reply(Status.UNASKED)}))
    assert (unknown.outcome, "kernel_log: not read" in unknown.observed) == (Outcome.UNKNOWN, True)


def test_a_machine_of_which_nothing_is_known_passes_and_fails_nothing():
    record = answered(
        laptop(), {question: Reply(Status.ABSENT, errno=2) for question in laptop().answers if question.path[:5] in {"/proc", "/sys/k"}}
    )
    outcomes = {
        each.outcome
        for check in (security_2.loading, security_2_kernel.verified_boot, security_2_kernel.loadpin)
        for each in judged(record, check).values()
    }
    assert outcomes == {Outcome.UNKNOWN}


# --- the law ------------------------------------------------------------------------------------------------------------------------------

CHECKS = [value for value in vars(security_2).values() if type(value).__name__ == "Check"]
DEVICES = {
    **OPEN,
    "developer": lambda: text(laptop(), CMDLINE, f"{COMMAND_LINE} cros_debug loadpin.exclude=firmware"),
    "skeleton": lambda: recorded_with(_skeleton),
    "signed": lambda: with_image(qualcomm_mbn(), EXCLUDED),
    "overridden": lambda: text(laptop(), OVERRIDE, "evil.bin\n"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_what_is_not_read_never_makes_it_better_or_worse(name):
    record = DEVICES[name]()
    facts = collected(record)
    before = {check.id: {subject: each.outcome for subject, each in judged(facts, check).items()} for check in CHECKS}
    for label, degraded in every_degradation(record):
        facts = collected(degraded)
        for check in CHECKS:
            for subject, after in judged(facts, check).items():
                was = before[check.id].get(subject, Outcome.UNKNOWN)
                assert after.outcome in {was, Outcome.UNKNOWN}, f"{label}: {after.id} was {was}: {after.observed}"


@pytest.mark.parametrize("name", ["etnaviv", "rocket", "panfrost"])
def test_a_built_in_driver_that_is_known_to_take_no_firmware_is_not_concerned(name):
    """Of a driver in the kernel's image there are no symbols to look at: what it takes is what mainline's table of it says."""
    facts = collected(laptop())
    (npu,) = facts.accelerators.open().items
    module_ = npu.module.open()
    info = replace(module_.info.open(), firmware=(), images=())
    built_in = replace(npu, module=Ok(replace(module_, name=name, built_in=Ok(True), info=Ok(info))))
    changed = replace(facts, accelerators=Ok(Listing((built_in,))), firmware=Ok(Listing(())))
    assert judged(changed, security_2.loading)[NPU].outcome is Outcome.NOT_APPLICABLE
    loaded = replace(npu, module=Ok(replace(module_, name=name, info=Ok(info))))
    changed = replace(changed, accelerators=Ok(Listing((loaded,))))
    assert judged(changed, security_2.loading)[NPU].outcome is Outcome.UNKNOWN  # its symbols have a loader of firmware
