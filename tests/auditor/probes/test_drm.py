"""The structures by which drivers allocate, held against the kernel's own headers, compiled by cc."""

from __future__ import annotations

import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from auditor.families import FAMILIES
from auditor.families.table import PEERS
from auditor.probes import buffers, dma_buf, drm
from tests import archive

HERE = Path("/usr/include")
ALLOCATIONS = {**{each.drm_names[0]: each.allocation for each in FAMILIES.families if each.allocation}, **PEERS}
NEWER = f"{archive.SUITE}-backports"


@pytest.fixture(scope="module")
def headers() -> list[Path]:
    """The kernel's headers of Debian trixie (6.12), of its backports where these can be had, and this machine's own."""
    if not shutil.which("cc"):
        pytest.skip("needs cc: apt-get install gcc libc6-dev")
    with archive.needed():
        found = [archive.unpacked("linux-libc-dev")]
    with suppress(archive.ArchiveError):
        found.append(archive.unpacked("linux-libc-dev", suite=NEWER))
    return [*(root / "usr/include" for root in found), HERE]


def compiled(folder: Path, place: Path, header: str, values: list[str]) -> list[int]:
    source = "\n".join(["#include <stddef.h>", "#include <stdio.h>", "#include <linux/ioctl.h>", f"#include <{header}>"])
    prints = "".join(f'printf("%llu\\n", (unsigned long long)({value}));' for value in values)
    (place / "c.c").write_text(f"{source}\nint main(void) {{ {prints} return 0; }}\n")
    subprocess.run(
        ["cc", "-I", str(folder / "x86_64-linux-gnu"), "-I", str(folder), "-o", str(place / "c"), str(place / "c.c")], check=True
    )
    said = subprocess.run([place / "c"], check=True, capture_output=True, text=True).stdout
    return [int(line) for line in said.split()]


def offsets(layout: str) -> list[int]:
    """Where each value of a layout without implied padding begins."""
    order, kinds, times = layout[0], [], ""
    for letter in layout[1:]:
        if letter.isdigit():
            times += letter
            continue
        kinds += [letter] * int(times or 1)
        times = ""
    return [struct.calcsize(order + "".join(kinds[:at])) for at in range(len(kinds))]


def folder_of(header: str, headers: list[Path]) -> Path:
    for folder in headers:
        if (folder / header).exists():
            return folder
    pytest.skip(f"{header} is neither in linux-libc-dev of Debian {archive.SUITE} or {NEWER} nor on this machine: its driver is newer")


@pytest.mark.packages
@pytest.mark.parametrize("driver", [name for name in ALLOCATIONS if "edu" not in name])
def test_an_allocation_is_the_kernels(driver, headers, tmp_path):
    how = ALLOCATIONS[driver]
    names = [name for name, _ in how.fields]
    wanted = [f"sizeof(struct {how.struct})", how.macro, *(f"offsetof(struct {how.struct}, {name})" for name in names)]
    found = compiled(folder_of(how.header, headers), tmp_path, how.header, wanted)
    assert found == [struct.calcsize(how.layout), how.request, *offsets(how.layout)]


@pytest.mark.packages
@pytest.mark.parametrize(
    ("header", "macro", "number"),
    [
        ("linux/dma-heap.h", "DMA_HEAP_IOCTL_ALLOC", buffers.HEAP_ALLOC),
        ("linux/udmabuf.h", "UDMABUF_CREATE", buffers.UDMABUF_CREATE),
        ("misc/fastrpc.h", "FASTRPC_IOCTL_ALLOC_DMA_BUFF", buffers.FASTRPC_ALLOC),
        ("linux/videodev2.h", "VIDIOC_QUERYCAP", buffers.QUERYCAP),
        ("linux/videodev2.h", "VIDIOC_G_FMT", buffers.GET_FORMAT),
        ("linux/videodev2.h", "VIDIOC_REQBUFS", buffers.REQUEST_BUFFERS),
        ("linux/videodev2.h", "VIDIOC_QBUF", buffers.QUEUE_BUFFER),
        ("linux/videodev2.h", "VIDIOC_EXPBUF", buffers.EXPORT_BUFFER),
        ("linux/videodev2.h", "offsetof(struct v4l2_format, fmt.pix.sizeimage)", 28),
        ("linux/videodev2.h", "offsetof(struct v4l2_format, fmt.pix_mp.plane_fmt[0].sizeimage)", 28),
        ("linux/videodev2.h", "offsetof(struct v4l2_capability, device_caps)", 88),
        ("linux/videodev2.h", "offsetof(struct v4l2_buffer, m)", 64),
        ("linux/videodev2.h", "offsetof(struct v4l2_buffer, memory)", 60),
        ("linux/videodev2.h", "offsetof(struct v4l2_plane, m)", 8),
        ("linux/dma-buf.h", "DMA_BUF_IOCTL_SYNC", dma_buf.SYNC),
        ("drm/drm.h", "DRM_IOCTL_VERSION", drm.VERSION),
        ("drm/drm.h", "DRM_IOCTL_GET_CAP", drm.GET_CAP),
        ("drm/drm.h", "DRM_IOCTL_GEM_CLOSE", drm.GEM_CLOSE),
        ("drm/drm.h", "DRM_IOCTL_PRIME_HANDLE_TO_FD", drm.HANDLE_TO_FD),
        ("drm/drm.h", "DRM_IOCTL_PRIME_FD_TO_HANDLE", drm.FD_TO_HANDLE),
    ],
)
def test_a_number_is_the_kernels(header, macro, number, headers, tmp_path):
    assert compiled(folder_of(header, headers), tmp_path, header, [macro]) == [number]


@pytest.mark.parametrize("driver", list(ALLOCATIONS))
def test_an_allocation_is_whole(driver):
    how = ALLOCATIONS[driver]
    values = [value for _, value in how.fields]
    assert struct.calcsize(how.layout) == how.request >> 16 & 0x3FFF
    assert struct.unpack(how.layout, struct.pack(how.layout, *values)) == tuple(values)
    assert values[how.handle] == 0
