"""What the VFIO probe takes for a fault that the kernel reports; tests/dut has the probe itself."""

from __future__ import annotations

import os

import pytest

from auditor.probes.vfio import _Log

FAULT = b"DMAR: [DMA Read NO_PASID] Request device [00:05.0] fault addr 0x900000"
WORD = rb"arm-smmu-v3 9050000.smmuv3: \x090x0000002800000010"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch):
    """A log whose records are written by the test; a datagram socket gives one record a read, as /dev/kmsg does."""
    import socket

    read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    made = object.__new__(_Log)
    made.error = ""
    made._descriptor = read.fileno()
    os.set_blocking(read.fileno(), False)
    with read, write:
        yield made, write


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (b"3,1,1,-;" + FAULT + b"\n SUBSYSTEM=pci\n", [FAULT.decode()]),
        (b"3,1,1,-;arm-smmu-v3 9050000.smmuv3: event 0x10 received:\n", ["arm-smmu-v3 9050000.smmuv3: event 0x10 received:"]),
        (b"3,1,1,-;" + WORD + b"\n", [WORD.decode()]),
        (b"3,1,1,-;arm-smmu-v3 9050000.smmuv3: allocated 65536 entries for cmdq\n", []),
        (b"11,1,1,-;" + FAULT + b"\n", []),  # facility 1: written by user space
        (b"3,1,1,-;all is well\n", []),
        (b"x;" + FAULT, []),
        (b"", []),
    ],
)
def test_only_the_kernel_s_own_records_of_a_fault_count(log, record, found):
    made, write = log
    write.send(record)
    assert made.faults() == found


def test_a_log_that_could_not_be_opened_has_none(log):
    made, write = log
    write.send(b"3,1,1,-;" + FAULT)
    made.error = "EPERM"
    assert made.faults() == []
