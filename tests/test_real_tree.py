"""The audit of a tree unpacked from real packages: Debian's kernel and Intel's firmware, with the sysfs of a Meteor Lake NPU."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from auditor.facts.modules import read_info
from auditor.facts.unpack import unpack
from tests import archive

pytestmark = pytest.mark.packages

NPU = "pci:0000:00:0b.0"
DEVICE = "sys/devices/pci0000:00/0000:00:0b.0"


@dataclass(frozen=True, slots=True)
class Audit:
    """One run of the command line: its exit code, its JSON report, the record that it judged."""

    code: int
    report: dict[str, Any]
    snapshot: Path

    def findings(self, requirement: str) -> dict[str, dict[str, Any]]:
        """A requirement's findings by id."""
        (found,) = (each for each in self.report["requirements"] if each["id"] == requirement)
        return {each["id"]: each for each in found["findings"]}

    def paths(self, requirement: str) -> set[str]:
        """The paths that a requirement's findings cite as read."""
        cited = (item for each in self.findings(requirement).values() for item in each["evidence"])
        return {item["path"] for item in cited if item["status"] == "ok"}


def audit(folder: Path, *target: str) -> Audit:
    """Run `crosml-audit device` as a user does, in a process of its own."""
    report, snapshot = folder / "report.json", folder / "device.snapshot"
    arguments = ["device", *target, "--today", "2026-11-22", "--format", f"json={report}", "--save-snapshot", str(snapshot)]
    done = subprocess.run(
        [sys.executable, "-c", "from auditor.cli import main; main()", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    return Audit(done.returncode, json.loads(report.read_text()), snapshot)


@pytest.fixture(scope="module")
def release() -> str:
    with archive.needed():
        return archive.kernel_release()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, release: str) -> Path:
    """The tree; of the packages only what the driver needs."""
    with archive.needed():
        kernel = archive.unpacked(f"linux-image-{release}")
        firmware = archive.unpacked("firmware-intel-misc", "non-free-firmware")
    root = tmp_path_factory.mktemp("root")
    modules = f"usr/lib/modules/{release}"
    for part in (f"{modules}/kernel/drivers/accel/ivpu", "usr/lib/firmware/intel/vpu"):
        shutil.copytree((firmware if "firmware" in part else kernel) / part, root / part, symlinks=True)
    (root / "boot").mkdir()
    for file in (
        *(f"{modules}/{path.name}" for path in (kernel / modules).glob("modules.*")),
        f"boot/config-{release}",
        f"boot/vmlinuz-{release}",
    ):
        shutil.copy(kernel / file, root / file)
    (root / "lib").symlink_to("usr/lib")
    module = unpack((root / modules / "kernel/drivers/accel/ivpu/intel_vpu.ko.xz").read_bytes())
    write_npu(root, release, ELFFile(BytesIO(module)).get_section_by_name(".note.gnu.build-id").data(), read_info(module).depends)
    return root


def write_npu(root: Path, release: str, build_id: bytes, needed: tuple[str, ...]) -> None:
    """What the kernel shows of itself, of an Intel NPU behind VT-d, and of the driver that is bound to it."""
    pci = "PCI_CLASS=120000\nPCI_ID=8086:7D1D\nPCI_SUBSYS_ID=8086:2212\nPCI_SLOT_NAME=0000:00:0b.0\n"
    modalias = "pci:v00008086d00007D1Dsv00008086sd00002212bc12sc00i00"
    files: dict[str, str | bytes] = {
        "proc/cmdline": f"BOOT_IMAGE=/boot/vmlinuz-{release} root=/dev/nvme0n1p2 ro quiet\n",
        "proc/self/mountinfo": "29 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n",
        "proc/sys/kernel/osrelease": f"{release}\n",
        "proc/sys/kernel/tainted": "0\n",
        f"{DEVICE}/uevent": f"DRIVER=intel_vpu\n{pci}MODALIAS={modalias}\n",
        f"{DEVICE}/modalias": f"{modalias}\n",
        f"{DEVICE}/vendor": "0x8086\n",
        f"{DEVICE}/device": "0x7d1d\n",
        f"{DEVICE}/class": "0x120000\n",
        f"{DEVICE}/accel/accel0/uevent": "MAJOR=261\nMINOR=0\nDEVNAME=accel/accel0\nDEVTYPE=accel_minor\n",
        f"{DEVICE}/accel/accel0/dev": "261:0\n",
        "sys/devices/virtual/iommu/dmar0/intel-iommu/version": "7:0\n",
        "sys/kernel/iommu_groups/7/type": "DMA-FQ\n",
        "sys/kernel/iommu_groups/7/reserved_regions": "0x00000000fee00000 0x00000000feefffff msi\n",
        "sys/module/firmware_class/parameters/path": "\n",
        "sys/module/intel_vpu/initstate": "live\n",
        "sys/module/intel_vpu/notes/.note.gnu.build-id": build_id,
        "sys/module/intel_vpu/parameters/firmware": "(null)\n",
        "sys/module/intel_vpu/parameters/sched_mode": "-1\n",
        "sys/module/intel_vpu/taint": "\n",
        **dict.fromkeys((f"sys/module/{name}/taint" for name in needed), "\n"),
        "sys/module/kernel/parameters/panic": "0\n",
        "sys/module/module/parameters/sig_enforce": "N\n",
    }
    links = {
        f"{DEVICE}/driver": "sys/bus/pci/drivers/intel_vpu",
        f"{DEVICE}/iommu": "sys/devices/virtual/iommu/dmar0",
        f"{DEVICE}/iommu_group": "sys/kernel/iommu_groups/7",
        f"{DEVICE}/subsystem": "sys/bus/pci",
        f"{DEVICE}/accel/accel0/device": DEVICE,
        f"{DEVICE}/accel/accel0/subsystem": "sys/class/accel",
        "sys/bus/pci/devices/0000:00:0b.0": DEVICE,
        "sys/bus/pci/drivers/intel_vpu/0000:00:0b.0": DEVICE,
        "sys/bus/pci/drivers/intel_vpu/module": "sys/module/intel_vpu",
        "sys/class/accel/accel0": f"{DEVICE}/accel/accel0",
        "sys/class/iommu/dmar0": "sys/devices/virtual/iommu/dmar0",
        "sys/kernel/iommu_groups/7/devices/0000:00:0b.0": DEVICE,
    }
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    for path, target in links.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(os.path.relpath(target, os.path.dirname(path)))


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Audit:
    return audit(tmp_path_factory.mktemp("audit"), "--root", str(root))


def test_the_accelerator_is_found_with_its_driver(audited: Audit) -> None:
    (found,) = audited.report["accelerators"]
    assert (found["id"], found["bus"], found["driver"], found["nodes"]) == (NPU, "pci", "intel_vpu", ["/dev/accel/accel0"])
    assert audited.report["verdict"] == "incomplete"
    assert audited.code == 3
    assert audited.report["counts"]["error"] == 0


def test_the_module_is_the_kernels_own_but_nothing_vouches_for_that_kernel(audited: Audit, release: str) -> None:
    driver = audited.findings("functional-1")[f"functional-1.driver@{NPU}"]
    assert driver["outcome"] == "unknown"
    assert driver["observed"].startswith("intel_vpu: claimed, not authenticated")
    assert f"/usr/lib/modules/{release}/kernel/drivers/accel/ivpu/intel_vpu.ko.xz" in audited.paths("functional-1")


def test_the_firmware_is_what_the_driver_names_and_the_package_has(audited: Audit) -> None:
    found = audited.findings("security-2").values()
    there, absent = "file:/usr/lib/firmware/intel/vpu/vpu_{}_v1.bin", "file:/lib/firmware/intel/vpu/vpu_{}_v1.bin"
    assert {each["subject"] for each in found if each["subject"].startswith("file:")} == {
        there.format("37xx"),
        there.format("40xx"),
        absent.format("50xx"),
    }
    said = {each["subject"]: (each["outcome"], each["observed"]) for each in found if each["check"] == "security-2.signature"}
    assert said[absent.format("50xx")] == ("not-applicable", "intel/vpu/vpu_50xx_v1.bin is named by the driver and not installed")
    for generation in ("37xx", "40xx"):
        outcome, observed = said[there.format(generation)]
        assert outcome == "fail"
        assert observed.startswith("unsigned; header, version page and image are the whole file")


def test_the_iommu_group_translates(audited: Audit) -> None:
    found = audited.findings("security-3")
    domain = found[f"security-3.domain@{NPU}"]
    assert (domain["outcome"], domain["observed"]) == ("pass", "domain type DMA-FQ")
    assert found[f"security-3.reserved@{NPU}"]["observed"] == "reserved regions: msi 0xfee00000-0xfeefffff"
    assert found["security-3.units@kernel"]["observed"] == "dmar0"
    assert found.pop(f"security-3.isolation@{NPU}")["outcome"] == "not-applicable"  # no driver in user space
    assert found.pop(f"security-3.default-domain@{NPU}")["outcome"] == "not-applicable"  # nor VFIO's domain
    assert {each["outcome"] for each in found.values()} == {"pass"}
    assert f"/{DEVICE}/iommu_group" in audited.paths("security-3")


def test_a_snapshot_gives_the_same_findings(audited: Audit, tmp_path: Path) -> None:
    """Byte for byte, and again from the record of the record."""
    again = audit(tmp_path, "--snapshot", str(audited.snapshot))
    assert json.dumps(again.report["requirements"]) == json.dumps(audited.report["requirements"])
    assert (again.code, again.report["verdict"], again.report["counts"]) == (3, "incomplete", audited.report["counts"])
    assert again.report["device"]["snapshot_sha256"] == audited.report["device"]["snapshot_sha256"]
    assert again.snapshot.read_bytes() == audited.snapshot.read_bytes()


@pytest.fixture
def verified(tmp_path: Path, root: Path) -> Path:
    """The same tree, whose root ChromeOS firmware in normal mode and dm-verity vouch for."""
    tree = tmp_path / "verified"
    shutil.copytree(root, tree, symlinks=True)
    table = f"verity payload=PARTUUID=a/PARTNROFF=1 hashtree=PARTUUID=a/PARTNROFF=1 hashstart=4096000 alg=sha256 root_hexdigest={'5e' * 32}"
    (tree / "proc/cmdline").write_text(f'cros_secure root=/dev/dm-0 ro dm="1 vroot none ro 1,0 4096000 {table}"\n')
    (tree / "proc/self/mountinfo").write_text("29 1 253:0 / / ro,relatime - ext2 /dev/dm-0 ro\n")
    (tree / "sys/block/dm-0").mkdir(parents=True)
    (tree / "sys/block/dm-0/dev").write_text("253:0\n")
    return tree


def driver_of(tree: Path) -> dict[str, Any]:
    return audit(tree.parent, "--root", str(tree)).findings("functional-1")[f"functional-1.driver@{NPU}"]


def test_on_a_verified_root_the_modules_real_signature_proves_the_driver(verified: Path, release: str) -> None:
    found = driver_of(verified)
    assert found["outcome"] == "pass", found["observed"]
    assert "in-tree verified" in found["observed"]
    assert "Build time autogenerated kernel key" in found["observed"]
    assert f"/boot/vmlinuz-{release}" in {item["path"] for item in found["evidence"]}


def test_a_module_that_was_altered_proves_nothing(verified: Path, release: str) -> None:
    (path,) = (verified / "usr/lib/modules").rglob("intel_vpu.ko.xz")
    data = bytearray(lzma.decompress(path.read_bytes()))
    data[len(data) // 2] ^= 1
    path.write_bytes(lzma.compress(bytes(data), check=lzma.CHECK_CRC32))
    found = driver_of(verified)
    assert found["outcome"] == "fail"
    assert "altered after it was signed" in found["observed"]
