"""The dma-buf probe: an accelerator's buffer is really given to others, and buffers of others are really given to it.

The document is described in `auditor.facts.dma_buf`, which reads it. Rules of the probe:

* A trial says that the accelerator's driver or its peer was asked to share, and what it said. What could not even be tried (a driver whose
  allocation is not known, a peer without a buffer to give) is said in the note, since it refuses nothing.
* That the accelerator may not be opened (EACCES) is said of every trial that it took away.
* Buffers are freed with their descriptors, at the latest with the probe's process.
"""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.probes import drm
from auditor.probes.buffers import Capture, Heap, Udmabuf, captures, closing, fastrpc, heaps, udmabuf
from auditor.probes.ioctl import WRITE, call, error_name, number, opened
from auditor.probes.nodes import Hardware, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


CHANGES = (
    "opens the nodes of accelerators and of other DRM devices, dma-buf heaps, udmabuf and V4L2 capture devices, and closes them again",
    "allocates buffers of at most 1 MiB, shares them between those devices, and frees them; of a camera a queue is set up and not started",
    "on a test device that can copy, has it copy 64 bytes inside of such a buffer",
)

BUFINFO = "/sys/kernel/debug/dma_buf/bufinfo"
BUFINFO_LIMIT = 8 << 20
NOTE_LIMIT = 400
"""Characters of a note."""

SYNC = number(WRITE, "b", 0, 8)
_SYNC_READ, _SYNC_WRITE, _SYNC_END = 1, 2, 4
_FROM, _TO, _LENGTH = 0, 2048, 64
"""What a device copies inside of a page: one that is contiguous without an IOMMU too."""

_DENIED = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Peer:
    """Another DRM device, with the node at which it gives and takes buffers."""

    hardware: Hardware
    path: str

    @property
    def name(self) -> str:
        """The device's own name where it is software, else its subject; never the number of a node."""
        return self.hardware.name if self.hardware.software else self.hardware.subject

    def buffer(self, stack: ExitStack) -> int:
        """The descriptor of a buffer of its own."""
        node = stack.enter_context(opened(self.path))
        how = drm.known(drm.driver(node))
        if how is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return closing(stack, drm.export(node, drm.allocate(node, how)))


Source = Peer | Heap | Udmabuf | Capture
Receiver = Peer | Capture


@dataclass(frozen=True, slots=True)
class Open:
    """An accelerator's DRM node that was opened, and the command by which its device copies, where there is one."""

    hardware: Hardware
    node: int
    driver: str

    def copied(self, handle: int, buffer: int) -> bool:
        """Whether what the device copies inside of its handle is seen through a descriptor of the buffer."""
        command = drm.copies(self.driver)
        if command is None:
            return False
        token = os.urandom(_LENGTH)
        with suppress(OSError, ValueError), mmap.mmap(buffer, mmap.PAGESIZE) as memory:
            call(buffer, SYNC, "=Q", _SYNC_WRITE)
            memory[_FROM : _FROM + _LENGTH] = token
            memory[_TO : _TO + _LENGTH] = bytes(_LENGTH)
            call(buffer, SYNC, "=Q", _SYNC_WRITE | _SYNC_END)
            call(self.node, command, "=IIQQ", handle, _LENGTH, _FROM, _TO)
            call(buffer, SYNC, "=Q", _SYNC_READ)
            seen = memory[_TO : _TO + _LENGTH]
            call(buffer, SYNC, "=Q", _SYNC_READ | _SYNC_END)
            return seen == token
        return False


def run() -> dict[str, Any]:
    """The results of all accelerators; PermissionError where not one of their nodes may be opened."""
    found = find()
    shared: list[Heap | Udmabuf | Capture] = [*heaps(), *udmabuf(), *captures()]
    accelerators = [each for each in found if each.is_accelerator]
    if accelerators and all(_denied(path) for each in accelerators for path in (*each.drm, *each.other)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return {"accelerators": [_results(each, _peers(each, found), shared) for each in accelerators]}


def _denied(path: str) -> bool:
    try:
        with opened(path):
            return False
    except OSError as error:
        return error.errno in _DENIED


def _peers(accelerator: Hardware, found: Iterable[Hardware]) -> list[Peer]:
    """The other DRM devices: by a render node, since opening a display's node may take the display over; software by its only one."""
    others = [each for each in found if each.subject != accelerator.subject]
    return [Peer(each, path) for each in others for path in ((each.card,) if each.software else each.drm[:1]) if path]


def _results(accelerator: Hardware, peers: Sequence[Peer], shared: Sequence[Heap | Udmabuf | Capture]) -> dict[str, Any]:
    trials = _Trials(accelerator.subject)
    trials.driver = bound(accelerator)
    sources: tuple[Source, ...] = (*shared, *peers)
    receivers: tuple[Receiver, ...] = (*peers, *(each for each in shared if isinstance(each, Capture)))
    for path in (*accelerator.drm[:1], *accelerator.other):
        _node(accelerator, path, sources, receivers, trials)
    return {
        "accelerator": accelerator.subject,
        "driver": trials.driver,
        "claimed": trials.claimed,
        "exports": trials.exports,
        "imports": trials.imports,
        "note": "; ".join(trials.notes)[:NOTE_LIMIT],
        "address_space": trials.address_space,
    }


def _node(accelerator: Hardware, path: str, sources: Iterable[Source], receivers: Iterable[Receiver], trials: _Trials) -> None:
    try:
        with opened(path) as node:
            if path in accelerator.other:
                _other(path, node, receivers, trials)
                return
            trials.driver, trials.claimed = drm.driver(node), drm.prime(node)
            trials.address_space = drm.address_space(node, trials.driver)
            here = Open(accelerator, node, trials.driver)
            _export(here, receivers, trials)
            _import(here, sources, trials)
            trials.hold(path, node)
    except OSError as error:
        trials.not_opened(path, error, sources)


class _Trials:
    """What was tried with one accelerator, as it comes in."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.driver = ""
        self.claimed: int | None = None
        self.address_space: int | None = None
        self.exports: list[dict[str, str]] = []
        self.imports: list[dict[str, str]] = []
        self.notes: list[str] = []

    def exported(self, importer: str, error: str = "", proof: str = "") -> None:
        """A buffer of the accelerator's was offered; to nobody in particular where `importer` is empty."""
        self.exports.append({"exporter": self.subject, "importer": importer, "error": error, "proof": proof})

    def imported(self, exporter: str, error: str = "", proof: str = "") -> None:
        """The accelerator was offered a buffer."""
        self.imports.append({"exporter": exporter, "importer": self.subject, "error": error, "proof": proof})

    def hold(self, path: str, node: int) -> None:
        """Take everything back where the device has gone meanwhile: whatever is asked of one that is gone, DRM refuses with ENODEV."""
        try:
            drm.driver(node)
        except OSError as error:
            self.exports.clear()
            self.imports.clear()
            self.notes.append(f"{path}: went away while it was tried ({error_name(error)})")

    def not_opened(self, path: str, error: OSError, sources: Iterable[Source]) -> None:
        """A node that did not open: every trial at it was denied, or none could be made."""
        if error.errno in _DENIED:
            self.exported("", error_name(error))
            for source in sources:
                self.imported(source.name, error_name(error))
        else:
            why = "is not the kernel's node of this name (ENXIO)" if error.errno == errno.ENXIO else error_name(error)
            self.notes.append(f"{path}: {why}")


def _export(here: Open, receivers: Iterable[Receiver], trials: _Trials) -> None:
    """A buffer of the accelerator's own, for a descriptor and for each receiver."""
    how = drm.known(here.driver)
    if how is None:
        trials.notes.append(f"export: how {here.driver} allocates a buffer is not known here")
        return
    with ExitStack() as stack:
        try:
            handle = drm.allocate(here.node, how)
        except OSError as error:
            trials.notes.append(f"export: {how.macro}: {error_name(error)}")
            return
        try:
            buffer = closing(stack, drm.export(here.node, handle))
        except OSError as error:
            trials.exported("", error_name(error))
            return
        trials.exported("")
        for receiver in receivers:
            _offer(receiver, buffer, trials, lambda again: here.copied(handle, again))


def _offer(receiver: Receiver, buffer: int, trials: _Trials, moved: Callable[[int], bool]) -> None:
    """A buffer of the accelerator's, offered to one receiver; `moved` is whether the device's copy is seen through a descriptor."""
    with ExitStack() as stack:
        try:
            if isinstance(receiver, Capture):
                receiver.take(stack, buffer, drm.SIZE)
                trials.exported(receiver.name, proof="attachment" if _attached(buffer, receiver.device) else "")
                return
            node = stack.enter_context(opened(receiver.path))
            handle = drm.import_(node, buffer)
        except OSError as error:
            if error.errno == errno.EFBIG:
                trials.notes.append(f"export to {receiver.name}: its frame is larger than the buffer")
            else:
                trials.exported(receiver.name, error_name(error))
            return
        again = _again(stack, node, handle, buffer)
        proof = "device-copy" if again is not None and moved(again) else _seen(again, buffer, receiver.hardware.name)
        trials.exported(receiver.name, proof=proof)


def _import(here: Open, sources: Iterable[Source], trials: _Trials) -> None:
    """Buffers of others, each offered to the accelerator."""
    for source in sources:
        with ExitStack() as stack:
            try:
                buffer = source.buffer(stack)
            except OSError as error:
                if error.errno in _DENIED:
                    trials.imported(source.name, error_name(error))
                else:
                    trials.notes.append(f"import: {source.name} gave no buffer: {error_name(error)}")
                continue
            try:
                handle = drm.import_(here.node, buffer)
            except OSError as error:
                trials.imported(source.name, error_name(error))
                continue
            again = _again(stack, here.node, handle, buffer)
            proof = "device-copy" if here.copied(handle, buffer) else _seen(again, buffer, here.hardware.name)
            trials.imported(source.name, proof=proof)
            with suppress(OSError):
                drm.close(here.node, handle)


def _other(path: str, node: int, receivers: Iterable[Receiver], trials: _Trials) -> None:
    """A node outside DRM: of the interfaces there are, fastrpc's is the only one that mainline has."""
    name = os.path.basename(path)
    if not name.startswith("fastrpc-"):
        trials.notes.append(f"{path}: no interface of this node that shares dma-bufs is known here")
        return
    trials.notes.append(f"{path}: FASTRPC_IOCTL_ALLOC_DMA_BUFF was tried; an import takes a session on the DSP, and was not")
    with ExitStack() as stack:
        try:
            buffer = fastrpc(stack, node, drm.SIZE)
        except OSError as error:
            trials.exported("", error_name(error))
            return
        trials.exported("")
        for receiver in receivers:
            _offer(receiver, buffer, trials, lambda _: False)


def _again(stack: ExitStack, node: int, handle: int, buffer: int) -> int | None:
    """The importer's handle exported once more, where that is the same buffer: DRM then gives the descriptor's own file again."""
    with suppress(OSError):
        again = closing(stack, drm.export(node, handle))
        names = {os.readlink(f"/proc/self/fd/{each}").partition(":")[0] for each in (buffer, again)}
        # Kernels before 5.3 have one inode for all dma-bufs, which they call anon_inode.
        if names == {"/dmabuf"} and os.fstat(again).st_ino == os.fstat(buffer).st_ino:
            return again
    return None


def _seen(again: int | None, buffer: int, device: str) -> str:
    """What proves that an importer has a buffer, without a device that copies."""
    if again is not None:
        return "same-inode"
    return "attachment" if _attached(buffer, device) else ""


def _attached(buffer: int, device: str) -> bool:
    """Whether the kernel lists a device as attached to a buffer (drivers/dma-buf/dma-buf.c, dma_buf_debug_show)."""
    with suppress(OSError, ValueError), open(BUFINFO, encoding="utf-8", errors="backslashreplace") as file:
        number_ = os.fstat(buffer).st_ino
        for block in file.read(BUFINFO_LIMIT).split("\n\n"):
            lines = block.splitlines()
            if "\tAttached Devices:" in lines and any(_inode(line) == number_ for line in lines):
                return f"\t{device}" in lines[lines.index("\tAttached Devices:") :]
    return False


def _inode(line: str) -> int:
    """The inode in the first line of a buffer: size, flags, mode, count, exporter, inode, name."""
    columns = line.split("\t")
    return int(columns[5]) if len(columns) > 5 and columns[5].isdecimal() else -1


def bound(accelerator: Hardware) -> str:
    """The driver that is bound to a device, by its name in sysfs."""
    try:
        return os.path.basename(os.readlink(f"{accelerator.sysfs}/driver"))
    except OSError:
        return ""
