from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.inference import fdinfo
from auditor.inference.fdinfo import DeviceUse, _holds_memory, device_use, read_device_use

PIPE = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t77\n"
CLIENT = """\
pos:\t0
flags:\t02100002
drm-driver:\tintel_vpu
drm-client-id:\t7
drm-pdev:\t0000:00:0b.0
drm-engine-compute:\t2000000 ns
drm-engine-capacity-compute:\t2
drm-total-memory:\t4096 KiB
drm-shared-memory:\t1 MiB
drm-resident-memory:\t3 MiB
drm-purgeable-memory:\t0
"""
BUFFER = "pos:\t0\nino:\t{ino}\nsize:\t{size}\ncount:\t2\nexp_name:\tsystem\n"
MIB = 1 << 20


def test_nothing_of_a_device():
    assert device_use({"0": PIPE, "1": ""}) == DeviceUse(0, {})


def test_a_client_counts_once_and_by_what_is_resident():
    use = device_use({"3": CLIENT, "4": CLIENT}, own={"3"})
    assert use == DeviceUse(3 * MIB, {("0000:00:0b.0", "7", "compute"): 2_000_000}, clients=frozenset({7}))


def test_two_clients_and_old_names():
    other = CLIENT.replace("client-id:\t7", "client-id:\t8").replace("drm-resident-memory:\t3 MiB\n", "")
    assert device_use({"3": CLIENT, "4": other}).bytes == 7 * MIB
    oldest = "drm-driver:\tv3d\ndrm-client-id:\t1\ndrm-memory-vram:\t512 KiB\ndrm-memory-gtt:\t512 KiB\n"
    assert device_use({"3": oldest}).bytes == MIB


def test_a_buffer_counts_once():
    texts = {"3": BUFFER.format(ino=5, size=MIB), "4": BUFFER.format(ino=5, size=MIB), "5": BUFFER.format(ino=6, size=MIB)}
    assert device_use(texts).bytes == 2 * MIB


@pytest.mark.parametrize(("size", "expected"), [(0, 3 * MIB), (MIB, 3 * MIB), (2 * MIB, 4 * MIB)])
def test_what_a_client_shares_is_counted_once_and_never_lost(size, expected):
    """2 MiB are the client's own; 1 MiB is shared, whether or not its descriptor is still open."""
    assert device_use({"3": CLIENT, "4": BUFFER.format(ino=5, size=size)}).bytes == expected


WITHOUT_KEYS = "".join(line + "\n" for line in CLIENT.splitlines() if not line.startswith(("drm-total", "drm-shared", "drm-resident")))


@pytest.mark.parametrize(
    ("texts", "devices", "complete"),
    [
        ({"3": CLIENT}, {"3"}, True),
        ({"3": WITHOUT_KEYS}, {"3"}, False),  # rocket, virtio_gpu of 6.12
        ({"3": WITHOUT_KEYS}, (), False),
        ({"3": CLIENT, "4": WITHOUT_KEYS}, {"3", "4"}, False),
        ({"3": PIPE}, {"3"}, False),  # fastrpc, VFIO, what is outside of DRM
        ({"3": PIPE}, (), True),
        ({"3": BUFFER.format(ino=5, size=MIB)}, (), True),
        ({"3": PIPE + "drm-total-memory:\t1 MiB\n"}, {"3"}, False),  # the driver must be DRM's
    ],
)
def test_memory_is_all_of_it_only_where_every_device_accounts_for_it(texts, devices, complete):
    assert device_use(texts, devices).complete is complete


def test_which_descriptors_are_of_devices(tmp_path):
    fds = [os.open(path, os.O_RDONLY) for path in ("/dev/null", "/dev/zero", "/dev/urandom", str(tmp_path))]
    try:
        assert [_holds_memory(f"/proc/self/fd/{each}") for each in fds] == [False] * 4
        assert read_device_use([os.getpid()]).complete
    finally:
        for each in fds:
            os.close(each)


def test_a_device_outside_of_drm_is_seen():
    try:
        node = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"/dev/fuse, which is a device that every user may open, is not to be opened: {error.strerror}")
    try:
        assert not read_device_use([os.getpid()]).complete
    finally:
        os.close(node)


def test_a_buffers_name_is_no_figure():
    """DMA_BUF_SET_NAME takes 32 bytes of anything."""
    forged = BUFFER.format(ino=5, size=MIB) + "name:\tx\nsize:\t0\nino:\t9\ndrm-driver:\tx\ndrm-engine-x:\t9 ns\n"
    assert device_use({"3": forged}) == DeviceUse(MIB, {})


@pytest.mark.parametrize("line", ["drm-resident-memory:\t-3 MiB", "drm-resident-memory:\t3 GiB", "drm-engine-compute:\tlong"])
def test_a_figure_that_is_not_understood(line):
    name = line.partition(":")[0]
    text = "\n".join(line if each.startswith(name + ":") else each for each in CLIENT.split("\n"))
    with pytest.raises(ValueError, match="expected a number"):
        device_use({"3": text}, own={"3"})


@given(st.dictionaries(st.text(max_size=2), st.text(max_size=60).map(lambda text: CLIENT[:200] + text)))
def test_any_text_is_a_figure_or_refused(texts):
    try:
        assert device_use(texts).bytes >= 0
    except ValueError:
        return


XE = "drm-driver:\txe\ndrm-client-id:\t7\ndrm-cycles-rcs:\t{}\ndrm-total-cycles-rcs:\t{}\ndrm-cycles-ccs:\t4\n"


FILE = "pos:\t0\nflags:\t02100002\nmnt_id:\t6\nino:\t{}\n"
DRM = FILE + "drm-driver:\t{}\ndrm-client-id:\t5\n"
UNTOLD = {
    "rocket": DRM.format(91, "rocket"),
    "ethos-u": DRM.format(91, "ethosu"),
    "qaic": DRM.format(91, "qaic").replace("drm-client", "drm-pdev:\t0000:01:00.0\ndrm-client"),
    "intel-npu of 6.12": DRM.format(91, "intel_vpu"),
    "etnaviv of 6.12": DRM.format(91, "etnaviv") + "drm-engine-2D:\t400 ns\n",
    "habanalabs": FILE.format(91),
    "fastrpc": FILE.format(91),
    "vfio": FILE.format(91),
    "vfio of newer kernels": FILE.format(91) + "vfio-device-syspath:\t/sys/devices/pci0000:00/0000:00:0b.0\n",
    "one that counts cycles alone": DRM.format(91, "x") + "drm-cycles-a:\t1\ndrm-total-cycles-a:\t2\n",
    "one that names a region, without a driver": FILE.format(91) + "drm-resident-memory:\t1 MiB\n",
    "one that tells what it shares alone": DRM.format(91, "x") + "drm-shared-memory:\t1 MiB\n",
    "one that tells what it could free alone": DRM.format(91, "x") + "drm-purgeable-memory:\t1 MiB\ndrm-active-memory:\t1 MiB\n",
}


@pytest.mark.parametrize("text", UNTOLD.values(), ids=UNTOLD)
def test_memory_that_a_driver_does_not_tell_is_not_all(text):
    """Whatever else the process holds: its other device tells, and so does the dma-buf."""
    texts = {"3": text, "4": CLIENT, "5": BUFFER.format(ino=5, size=MIB)}
    use = device_use(texts, {"3", "4"}, {"3"})
    assert not use.complete
    assert use.bytes >= 3 * MIB, "what is told may still be too much"


def test_cycles_are_pairs():
    """An engine whose passing cycles the driver does not write, as msm's, shows no time."""
    assert device_use({"3": XE.format(100, 1000)}, own={"3"}).cycles == {("", "7", "rcs"): (100, 1000)}
    assert device_use({"3": XE.format("x", 1000)}, own={"3"}).cycles == {}
    assert device_use({"3": XE.format(100, 1000)}).cycles == {}, "another device's"


def test_cycles_are_no_memory():
    """`drm-total-cycles-` begins as memory regions do: xe's would be bytes, and a driver without memory keys would account for all."""
    assert device_use({"3": XE.format(1, 5 << 30) + "drm-resident-system:\t1 MiB\n"}) == DeviceUse(MIB, {})
    assert not device_use({"3": XE.format(1, 5 << 30)}).complete


def test_clients_of_the_accelerator():
    assert device_use(
        {"3": XE.format(1, 2), "4": CLIENT.replace("client-id:\t7", "client-id:\t8"), "5": "pos: 0"}, own={"3", "5"}
    ).clients == {7}


def test_this_process():
    assert read_device_use([os.getpid()]) == DeviceUse(0, {})


def test_a_process_that_has_ended():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(ProcessLookupError):
        read_device_use([child])


def test_too_many_descriptors(monkeypatch):
    monkeypatch.setattr(fdinfo, "MAX_DESCRIPTORS", 1)
    with pytest.raises(OSError, match="expected at most 1"):
        read_device_use([os.getpid()])


def test_only_engines_of_the_accelerator_count():
    """A display's engines work for everybody."""
    assert device_use({"3": CLIENT}).engines == {}
    display = CLIENT.replace("0b.0", "02.0")
    assert set(device_use({"3": display, "4": CLIENT}, own={"4"}).engines) == {("0000:00:0b.0", "7", "compute")}


def test_a_thread_with_descriptors_of_its_own_after_the_first_has_ended(tmp_path):
    """Its leader is a zombie, and has none: all threads are read."""
    code = """
import ctypes, os, threading, time
def rest():
    ctypes.CDLL(None).unshare(0x400)
    descriptor = os.open("held", os.O_RDONLY)
    print(descriptor, flush=True)
    time.sleep(60)
threading.Thread(target=rest).start()
time.sleep(0.2)
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""
    (tmp_path / "held").write_text("")
    child = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        descriptor = child.stdout.readline().decode().strip()
        while b"Z (zombie)" not in pathlib.Path(f"/proc/{child.pid}/status").read_bytes():
            time.sleep(0.01)
        links = [f"{folder}/fd/{name}" for folder in fdinfo.descriptor_tables(child.pid) for name in fdinfo.descriptors(f"{folder}/fd")]
        assert str(tmp_path / "held") in [os.readlink(link) for link in links if link.endswith(f"/{descriptor}")]
        assert read_device_use([child.pid]) == DeviceUse(0, {})
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
