"""The closures of stacks that are shipped: Debian's OpenCL and Arm NN, OpenVINO's and Qualcomm's wheels, counted by hand before."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from auditor.facts.closure import read_closure
from auditor.facts.reading import Device
from auditor.facts.types import Plan
from auditor.sources.filesystem import Tree
from auditor.sources.recording import Recorder, pack
from tests import archive

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.packages

DEBIAN = "/usr/lib/x86_64-linux-gnu"
MB = 10**6

MESA = ("mesa-opencl-icd=25.0.7-2+deb13u1", "libllvm19=1:19.1.7-3+b1", "libclang-cpp19=1:19.1.7-3+b1", "libz3-4=4.13.3-1")
"""The packages with nearly all of Debian's OpenCL, in the versions that were counted by hand: a point release has other sizes."""


def installed(*packages: str) -> str:
    """A root with packages and all that they depend on."""
    with archive.needed():
        lists = archive.lists()

        def make(place: Path) -> None:
            downloads = place.parent / "downloads"
            (downloads / "partial").mkdir(parents=True)
            archive.apt(lists, downloads, "apt-get", "install", "--yes", "--download-only", *packages)
            for package in sorted(downloads.glob("*.deb")):
                archive.extract(package, place)

        return str(archive.cached(archive.cache_folder("packages"), f"{packages[0]}-root", [archive._state(lists), *packages], make))


def available(packages: tuple[str, ...]) -> tuple[str, ...]:
    """`package=version` as this machine's mirror has them."""
    with archive.needed():
        lists = archive.lists()
        shown = (archive.apt(lists, lists, "apt-cache", "show", each.partition("=")[0]) for each in packages)
        return tuple("{}={}".format(*re.findall(r"^(?:Package|Version): (\S+)$", text, re.MULTILINE)[:2]) for text in shown)


def closure(root: str, delegate: str):
    recorder = Recorder(Tree(root))
    found = read_closure(Device(recorder), Plan(delegate=delegate)).value
    counted = [each for each in found.objects if not each.base]
    return found, counted, recorder


def total(objects, *, certain: bool = False) -> float:
    return sum(each.size for each in objects if each.certain or not certain) / MB


def test_debians_opencl_is_all_of_llvm() -> None:
    found, counted, recorder = closure(installed("mesa-opencl-icd"), f"{DEBIAN}/libRusticlOpenCL.so.1")
    assert len(counted) == 18
    found_versions = available(MESA)
    tolerance = 0.1 if found_versions == MESA else 0.02 * 276.4
    assert total(counted, certain=True) == pytest.approx(276.4, abs=tolerance), found_versions
    assert not found.missing
    assert not found.unread
    assert len(pack(recorder.record("test", "now"))) < MB / 4


def test_debians_arm_nn_is_small() -> None:
    found, counted, _ = closure(installed("libarmnntfliteparser24t64"), f"{DEBIAN}/libarmnnTfLiteParser.so.24")
    sizes = {each.path.rpartition("/")[2].partition(".so")[0]: each.size / MB for each in counted}
    assert sizes["libarmnn"] + sizes["libarmnnTfLiteParser"] == pytest.approx(4.72, abs=0.1)
    assert set(sizes) == {"libarmnn", "libarmnnTfLiteParser", "libflatbuffers"}
    assert not found.missing


def test_qualcomms_backend_is_more_than_its_header_says() -> None:
    root = archive.wheel("onnxruntime-qnn==2.7.0", "manylinux_2_34_aarch64")
    found, counted, _ = closure(root, "/onnxruntime_qnn/libQnnHtp.so")
    assert found.objects[0].size / MB == pytest.approx(4.94, abs=0.1)
    named = {os.path.basename(each.path) for each in counted if each.certain}
    assert named == {"libQnnHtp.so", "libQnnHtpPrepare.so", "libQnnSystem.so"}
    assert total(counted) == pytest.approx(218.47, abs=0.1)
    assert len(counted) == 21
    assert {os.path.basename(each.path) for each in counted if each.machine == 164} == {
        f"libQnnHtpV{n}Skel.so" for n in (68, 69, 73, 75, 79, 81)
    }
    # the wheel is no image: what it needs of the system is missing, and said
    assert {"libc.so.6", "libm.so.6", "libstdc++.so.6"} <= {each.name for each in found.missing}


@pytest.mark.parametrize(("compiler", "megabytes"), [(False, 24.37), (True, 114.22)])
def test_qualcomms_stack_for_one_chip(tmp_path: Path, compiler: bool, megabytes: float) -> None:
    root = archive.wheel("onnxruntime-qnn==2.7.0", "manylinux_2_34_aarch64")
    (tmp_path / "qnn").mkdir()
    for name in ("Htp", "System", "HtpV79Stub", "HtpV79Skel", *(["HtpPrepare"] if compiler else [])):
        shutil.copy(f"{root}/onnxruntime_qnn/libQnn{name}.so", tmp_path / "qnn")
    _, counted, _ = closure(str(tmp_path), "/qnn/libQnnHtp.so")
    assert total(counted) == pytest.approx(megabytes, abs=0.1)


def test_openvinos_plugin_may_load_all_plugins_beside_it() -> None:
    root = archive.wheel("openvino==2026.4.1", "manylinux_2_28_x86_64")
    found, counted, _ = closure(root, "/openvino/libs/libopenvino_intel_npu_plugin.so")
    linked = [each for each in counted if each.edge in {"root", "DT_NEEDED"} and each.needed_by in {"", found.roots[0]}]
    assert total(linked) == pytest.approx(31.49, abs=0.1)
    assert len(linked) == 3
    assert total(counted) == pytest.approx(160.80, abs=0.1)
    assert "libopenvino_intel_gpu_plugin.so" in {os.path.basename(each.path) for each in counted if each.certain and each.edge == "string"}
    assert "libOpenCL.so.1" in {each.name for each in found.missing}
