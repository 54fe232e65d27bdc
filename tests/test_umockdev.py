"""The live path, with pyudev, over an accelerator that umockdev puts in the place of this machine's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NPU = """\
P: /devices/pci0000:00/0000:00:0b.0
E: DRIVER=intel_vpu
E: PCI_CLASS=120000
E: PCI_ID=8086:7D1D
E: PCI_SLOT_NAME=0000:00:0b.0
E: MODALIAS=pci:v00008086d00007D1Dsv00008086sd00002212bc12sc00i00
E: SUBSYSTEM=pci
A: class=0x120000\\n
L: driver=../../../bus/pci/drivers/intel_vpu
L: iommu_group=../../../kernel/iommu_groups/7

P: /devices/pci0000:00/0000:00:0b.0/accel/accel0
N: accel/accel0
E: DEVNAME=/dev/accel/accel0
E: DEVTYPE=accel_minor
E: MAJOR=261
E: MINOR=0
E: SUBSYSTEM=accel
A: dev=261:0\\n
L: device=../../../0000:00:0b.0
"""

# umockdev makes the links to groups, not the groups
GROUP = """
group=$UMOCKDEV_DIR/sys/kernel/iommu_groups/7
mkdir -p $group/devices; echo DMA-FQ > $group/type
printf '0x00000000fee00000 0x00000000feefffff msi\\n' > $group/reserved_regions
ln -s ../../../../devices/pci0000:00/0000:00:0b.0 $group/devices/0000:00:0b.0
exec "$@"
"""


@pytest.mark.skipif(not shutil.which("umockdev-run"), reason="umockdev is not installed (apt-get install umockdev)")
def test_the_live_path_finds_an_accelerator_through_pyudev(tmp_path: Path) -> None:
    recipe = tmp_path / "npu.umockdev"
    recipe.write_text(NPU)
    python = [sys.executable, "-m", "auditor", "device", "--no-probes", "--format", "json"]
    done = subprocess.run(
        ["umockdev-run", "--device", str(recipe), "--", "sh", "-c", GROUP, "sh", *python],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    (accelerator,) = report["accelerators"]
    assert (accelerator["id"], accelerator["driver"]) == ("pci:0000:00:0b.0", "intel_vpu")
    assert accelerator["nodes"] == ["/dev/accel/accel0"]
    outcomes = {each["id"]: each["outcome"] for each in report["requirements"]}
    assert outcomes["security-3"] == "pass"
