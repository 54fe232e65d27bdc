"""What the probe makes of each way in which a driver, a peer or the system refuses; the kernel is made up here, and real on the DUT."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from auditor.facts.dma_buf import _results as read
from auditor.probes import dma_buf, drm
from auditor.probes.dma_buf import Peer
from auditor.probes.nodes import Hardware

NPU = Hardware("pci:0000:00:05.0", "/sys/devices/pci0000:00/0000:00:05.0", drm=("/dev/accel/accel0",))
GPU = Hardware("pci:0000:00:06.0", "/sys/devices/pci0000:00/0000:00:06.0", drm=("/dev/dri/renderD128",), card="/dev/dri/card0")
VGEM = Hardware("platform:vgem", "/sys/devices/platform/vgem", drm=("/dev/dri/renderD129",), card="/dev/dri/card1", software=True)
PEERS = [Peer(VGEM, VGEM.card)]


@dataclass
class Kernel:
    """A kernel whose devices do what a test says: `refuses` maps (operation, path) to an errno."""

    driver: str = "intel_vpu"
    refuses: dict[tuple[str, str], int] = field(default_factory=dict)
    vanishes: str = ""
    paths: dict[int, str] = field(default_factory=dict)

    def refuse(self, operation: str, node: int) -> None:
        number = self.refuses.get((operation, self.paths[node]))
        if number:
            raise OSError(number, os.strerror(number))

    @contextmanager
    def opened(self, path):
        node = os.open(os.devnull, os.O_RDWR)
        self.paths[node] = path
        try:
            self.refuse("open", node)
            yield node
        finally:
            os.close(node)

    def name(self, node):
        self.refuse("name", node)
        return self.driver if self.paths[node] == NPU.drm[0] else "vgem"

    def allocate(self, node, how):
        assert how is drm.known(self.name(node))
        self.refuse("allocate", node)
        return 7

    def export(self, node, handle):
        self.refuse("export", node)
        return os.open(os.devnull, os.O_RDWR)

    def import_(self, node, buffer):
        if self.vanishes == self.paths[node]:
            self.refuses.update({(operation, self.vanishes): errno.ENODEV for operation in ("import", "export", "name")})
        self.refuse("import", node)
        return 8


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setattr(dma_buf, "opened", kernel.opened)
    for name in ("allocate", "export", "import_"):
        monkeypatch.setattr(drm, name, getattr(kernel, name))
    monkeypatch.setattr(drm, "driver", kernel.name)
    monkeypatch.setattr(drm, "prime", lambda _node: 3)
    monkeypatch.setattr(drm, "close", lambda _node, _handle: None)
    return kernel


def tried(accelerator=NPU):
    """What the facts read of the probe's results."""
    (result,) = read([dma_buf._results(accelerator, PEERS, [])], {accelerator.subject: accelerator.subject})
    exports = {each.importer: each.error or each.proof for each in result.exports}
    return exports, {each.exporter: each.error or each.proof for each in result.imports}, result.note


def test_what_is_agreed_without_proof_has_none(kernel):
    assert tried() == ({"": "", "vgem": ""}, {"vgem": ""}, "")


def test_the_exporter_refuses_a_descriptor(kernel):
    kernel.refuses["export", NPU.drm[0]] = errno.EINVAL
    assert tried() == ({"": "EINVAL"}, {"vgem": ""}, "")


def test_a_buffer_that_is_not_allocated_is_not_refused(kernel):
    kernel.refuses["allocate", NPU.drm[0]] = errno.EINVAL
    assert tried() == ({}, {"vgem": ""}, "export: DRM_IOCTL_IVPU_BO_CREATE: EINVAL")


def test_a_driver_whose_allocation_is_not_known_is_not_asked_for_one(kernel):
    kernel.driver = "brand_new"
    assert tried() == ({}, {"vgem": ""}, "export: how brand_new allocates a buffer is not known here")


def test_each_side_refuses_what_it_is_offered(kernel):
    kernel.refuses["import", NPU.drm[0]] = errno.ENODEV
    kernel.refuses["import", VGEM.card] = 524
    assert tried() == ({"": "", "vgem": "ENOTSUPP"}, {"vgem": "ENODEV"}, "")


def test_a_device_that_goes_away_meanwhile_has_refused_nothing(kernel):
    kernel.vanishes = NPU.drm[0]
    assert tried() == ({}, {}, "/dev/accel/accel0: went away while it was tried (ENODEV)")


def test_the_node_of_another_device_is_not_tried(kernel):
    kernel.refuses["open", NPU.drm[0]] = errno.ENXIO
    assert tried() == ({}, {}, "/dev/accel/accel0: is not the kernel's node of this name (ENXIO)")


def test_a_peer_without_a_buffer_refuses_nothing(kernel):
    kernel.refuses["allocate", VGEM.card] = errno.ENOMEM
    assert tried() == ({"": "", "vgem": ""}, {}, "import: vgem gave no buffer: ENOMEM")


def test_a_peer_that_may_not_be_opened_is_denied(kernel):
    kernel.refuses["open", VGEM.card] = errno.EACCES
    assert tried() == ({"": "", "vgem": "EACCES"}, {"vgem": "EACCES"}, "")


def test_a_node_that_may_not_be_opened_is_denied_every_trial(kernel):
    kernel.refuses["open", NPU.drm[0]] = errno.EACCES
    assert tried() == ({"": "EACCES"}, {"vgem": "EACCES"}, "")


def test_a_node_that_does_not_open_refuses_nothing(kernel):
    kernel.refuses["open", NPU.drm[0]] = errno.ENODEV
    assert tried() == ({}, {}, "/dev/accel/accel0: ENODEV")


def test_of_a_node_outside_drm_it_is_said_which_interface_was_tried(kernel, monkeypatch):
    apusys = Hardware("of:/soc/apu", "/sys/devices/platform/soc/apu", other=("/dev/apusys",))
    assert tried(apusys) == ({}, {}, "/dev/apusys: no interface of this node that shares dma-bufs is known here")
    monkeypatch.setattr(dma_buf, "fastrpc", lambda _stack, _node, _size: os.open(os.devnull, os.O_RDWR))
    dsp = Hardware("of:/soc/dsp", "/sys/devices/platform/soc/dsp", other=("/dev/fastrpc-cdsp",))
    exports, imports, note = tried(dsp)
    assert (exports, imports) == ({"": "", "vgem": ""}, {})
    assert "FASTRPC_IOCTL_ALLOC_DMA_BUFF" in note


def test_all_nodes_denied_is_a_denied_probe(kernel, monkeypatch):
    monkeypatch.setattr(dma_buf, "find", lambda: (NPU, VGEM))
    kernel.refuses["open", NPU.drm[0]] = errno.EACCES
    with pytest.raises(PermissionError):
        dma_buf.run()


def test_peers_are_others_by_a_node_that_takes_no_display_over():
    display = Hardware("of:/display", "/sys/devices/platform/display", card="/dev/dri/card2")
    found = dma_buf._peers(NPU, (NPU, GPU, VGEM, display))
    assert [(each.name, each.path) for each in found] == [(GPU.subject, GPU.drm[0]), ("vgem", VGEM.card)]


BUFINFO = """
Dma-buf Objects:
size    \tflags   \tmode    \tcount   \texp_name\tino     \tname
01048576\t00000002\t00080007\t00000002\tdrm\t{ino:08d}\t<none>
\tAttached Devices:
\t0000:00:05.0
Total 1 devices attached

00004096\t00000002\t00080007\t00000002\tsystem\t99999999\t0000:00:06.0
\tAttached Devices:
\tvgem
Total 1 devices attached


Total 2 objects, 1052672 bytes
"""


def test_an_attachment_is_the_buffers_own(tmp_path, monkeypatch):
    with (tmp_path / "buffer").open("w+b") as buffer:
        (tmp_path / "bufinfo").write_text(BUFINFO.format(ino=os.fstat(buffer.fileno()).st_ino))
        monkeypatch.setattr(dma_buf, "BUFINFO", str(tmp_path / "bufinfo"))
        assert dma_buf._attached(buffer.fileno(), "0000:00:05.0")
        for other in ("vgem", "0000:00:06.0", "0000:00:0", ""):
            assert not dma_buf._attached(buffer.fileno(), other)
        monkeypatch.setattr(dma_buf, "BUFINFO", str(tmp_path / "nowhere"))
        assert not dma_buf._attached(buffer.fileno(), "0000:00:05.0")


def test_two_descriptors_that_are_no_dma_bufs_are_never_the_same_buffer(kernel, monkeypatch, tmp_path):
    shared = tmp_path / "file"
    shared.touch()
    monkeypatch.setattr(drm, "export", lambda _node, _handle: os.open(shared, os.O_RDWR))
    with shared.open() as buffer, dma_buf.ExitStack() as stack:
        assert dma_buf._again(stack, 0, 8, buffer.fileno()) is None
