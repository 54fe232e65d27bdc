"""What is loaded by way of a file: followed where a loader of that kind is in the closure, and unknown where it cannot be read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.facts.closure import read_closure
from auditor.facts.indirection import Indirections
from auditor.facts.reading import Device
from auditor.facts.types import Plan
from auditor.model import Status
from auditor.sources import base
from auditor.sources.filesystem import Tree
from fixtures.elf import Shared

DELEGATE = "/opt/npu/libdelegate.so"
LIB = "/usr/lib64"
DRIVER = "/vendor/gpu/libdriver.so.1"
"""Where nothing but configuration leads."""

JSON = json.dumps({"file_format_version": "1.0.0", "ICD": {"library_path": DRIVER, "api_version": "1.3"}})
BESIDE = json.dumps({"ICD": {"library_path": "../../../../vendor/gpu/libdriver.so.1"}})
LAYER = json.dumps({"layer": {"name": "VK_LAYER_X", "library_path": DRIVER}})
SKEL = "/usr/lib/rfsa/adsp/libQnnHtpV79Skel.so"

KINDS = {
    "OpenCL": ("libOpenCL.so.1", {"/etc/OpenCL/vendors/npu.icd": f"{DRIVER}\n"}),
    "Vulkan": ("libvulkan.so.1", {"/usr/share/vulkan/icd.d/npu.json": JSON}),
    "Vulkan in /etc": ("libvulkan.so.1", {"/etc/vulkan/icd.d/npu.json": JSON}),
    "Vulkan, relative": ("libvulkan.so.1", {"/usr/share/vulkan/icd.d/npu.json": BESIDE}),
    "Vulkan layer": ("libvulkan.so.1", {"/usr/share/vulkan/implicit_layer.d/x.json": LAYER}),
    "GLVND": ("libEGL.so.1", {"/usr/share/glvnd/egl_vendor.d/50_npu.json": JSON}),
    "EGL platform": ("libEGL.so.1", {"/usr/share/egl/egl_external_platform.d/x.json": JSON}),
    "Mesa": ("libgbm.so.1", {f"{LIB}/dri/npu_dri.so": f"-> {DRIVER}"}),
    "Mesa by EGL": ("libEGL_mesa.so.0", {f"{LIB}/dri/npu_dri.so": f"-> {DRIVER}"}),
    "GBM": ("libgbm.so.1", {f"{LIB}/gbm/npu_gbm.so": f"-> {DRIVER}"}),
    "libva": ("libva.so.2", {f"{LIB}/dri/npu_drv_video.so": f"-> {DRIVER}"}),
    "OpenVINO": ("libopenvino.so.2024", {f"{LIB}/plugins.xml": f'<ie><plugins><plugin name="NPU" location="{DRIVER}"/></plugins></ie>'}),
    "OpenVINO of a version": (
        "libopenvino.so.2024",
        {f"{LIB}/openvino-2024.4/plugins.xml": f'<ie>\n<plugins>\n<plugin location="{DRIVER}" name="NPU">\n</plugin></plugins></ie>'},
    ),
    "DSP": ("libcdsprpc.so", {SKEL: f"-> {DRIVER}"}),
    "DSP by its variable": (
        "libQnnHtp.so",
        {"/etc/environment": 'ADSP_LIBRARY_PATH="/data/dsp;/dsp"\n', "/data/dsp/libx.so": f"-> {DRIVER}"},
    ),
    "DSP by a job": ("libSNPE.so", {"/etc/init/npud.conf": "env ADSP_LIBRARY_PATH=/data/dsp\n", "/data/dsp/libx.so": f"-> {DRIVER}"}),
}


def plant(root, files):
    for path, content in files.items():
        where = root / path[1:]
        where.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Shared):
            content.write(str(where))
        elif content.startswith("-> "):
            where.symlink_to(content[3:])
        else:
            where.write_text(content)


def tree(root, kind, **changes):
    loader, files = KINDS[kind]
    plant(
        root,
        {DELEGATE: Shared(needed=(loader,)), f"{LIB}/{loader}": Shared(soname=loader), DRIVER: Shared(size=70_000_000), **files, **changes},
    )
    return Tree(str(root))


def closure(source):
    return read_closure(Device(source), Plan(delegate=DELEGATE)).open()


class Refusing:
    """A tree of which one path is refused."""

    kind, name = "root", "refusing"

    def __init__(self, source, path):
        self._source, self._path = source, path

    def ask(self, question):
        refused = question.path == self._path and question.kind in {"read", "list"}
        return base.Reply(Status.DENIED, errno=13) if refused else self._source.ask(question)


@pytest.mark.parametrize("kind", KINDS)
def test_what_configuration_names_may_be_loaded(tmp_path, kind):
    found = closure(tree(tmp_path, kind))
    (driver,) = [each for each in found.objects if each.path == DRIVER]
    assert (driver.certain, driver.size, driver.needed_by) == (False, 70_000_000, f"{LIB}/{KINDS[kind][0]}")
    assert not found.unread


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_loader_of_that_kind_it_is_nobody_s(tmp_path, kind):
    source = tree(tmp_path, kind)
    (tmp_path / DELEGATE[1:]).unlink()
    plant(tmp_path, {DELEGATE: Shared()})
    assert [each.path for each in closure(source).objects] == [DELEGATE]


@pytest.mark.parametrize("kind", [each for each in KINDS if each != "OpenVINO"])
def test_configuration_that_cannot_be_read_is_unread(tmp_path, kind):
    source = tree(tmp_path, kind)
    path = next(iter(KINDS[kind][1]))
    folder = path.rpartition("/")[0]
    assert closure(Refusing(source, folder)).unread or kind in {"OpenVINO of a version", "DSP by its variable"}
    if not KINDS[kind][1][path].startswith("-> "):
        (unread, *_) = closure(Refusing(source, path)).unread
        assert (unread.status, unread.evidence[0].path) == (Status.DENIED, path)


@pytest.mark.parametrize("kind", ["Vulkan", "Vulkan layer", "GLVND", "OpenVINO"])
@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"ICD": {"library_path": 7}}', "x" * (1 << 20)])
def test_configuration_that_is_not_understood_is_unread(tmp_path, kind, content):
    path = next(iter(KINDS[kind][1]))
    found = closure(tree(tmp_path, kind, **{path: content}))
    assert [(each.status, each.evidence[0].path) for each in found.unread] == [(Status.FAILED, path)]


def test_a_loader_by_another_name_is_known_by_its_words(tmp_path):
    """Evasion: the vendor's own copy of the OpenCL loader."""
    files = {DELEGATE: Shared(strings=("/etc/OpenCL/vendors",)), DRIVER: Shared(), "/etc/OpenCL/vendors/npu.icd": DRIVER}
    plant(tmp_path, files)
    assert DRIVER in [each.path for each in closure(Tree(str(tmp_path))).objects]


def test_a_name_is_looked_for_as_the_linker_does_and_one_that_is_not_there_is_passed_over(tmp_path):
    icd = {"/etc/OpenCL/vendors/a.icd": "libdriver.so.2\n", "/etc/OpenCL/vendors/b.icd": "libnone.so\n", "/etc/OpenCL/vendors/readme": "no"}
    found = closure(tree(tmp_path, "OpenCL", **icd, **{f"{LIB}/libdriver.so.2": Shared()}))
    assert f"{LIB}/libdriver.so.2" in [each.path for each in found.objects]
    assert ("libnone.so" in found.nowhere, found.unread) == (True, ())


def test_a_variable_that_only_the_shell_knows_is_unread(tmp_path):
    source = tree(tmp_path, "DSP", **{"/etc/init/x.conf": "env ADSP_LIBRARY_PATH=$DIR/dsp\n"})
    assert [each.note for each in closure(source).unread] == ["ADSP_LIBRARY_PATH: $DIR/dsp is known to the shell only"]


@pytest.mark.parametrize("text", ["/npu/lib\n/usr/lib\n", "/npu/lib:/usr/lib"])
def test_musl_s_linker_searches_where_its_file_says(tmp_path, text):
    files = {DELEGATE: Shared(needed=("libx.so", "libc.musl-x86_64.so.1")), "/npu/lib/libx.so": Shared(), f"{LIB}/libx.so": Shared()}
    plant(tmp_path, {**files, "/npu/lib/libc.musl-x86_64.so.1": Shared()})
    without = closure(Tree(str(tmp_path)))
    assert {each.name for each in without.missing} == {"libx.so", "libc.musl-x86_64.so.1"}  # musl knows no lib64
    plant(tmp_path, {"/etc/ld-musl-x86_64.path": text})
    assert "/npu/lib/libx.so" in [each.path for each in closure(Tree(str(tmp_path))).objects]
    refused = closure(Refusing(Tree(str(tmp_path)), "/etc/ld-musl-x86_64.path"))
    assert refused.unread


@given(st.sampled_from(("/etc/OpenCL/vendors/x.icd", "/usr/share/vulkan/icd.d/x.json", "/usr/lib64/plugins.xml")), st.binary(max_size=200))
def test_any_configuration_is_read_or_refused(path, content):
    class Everywhere:
        kind, name = "root", "x"

        def ask(self, question):
            if question.kind == "list":
                return base.Reply(Status.OK, b"x.icd\0x.json\0") if path.startswith(question.path) else base.Reply(Status.ABSENT, errno=2)
            return base.Reply(Status.OK, content) if question.path == path else base.Reply(Status.ABSENT, errno=2)

    named, _ = Indirections(Device(Everywhere())).of("/usr/lib64/x", frozenset({"OpenCL/vendors", "vulkan/icd.d", "plugins.xml"}), ())
    assert all(each.name for each in named)
