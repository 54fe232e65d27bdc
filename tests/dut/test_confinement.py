"""A confined worker on another kernel, as root and as an ordinary user, with a real accelerator's node to drive and others refused."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import machine

pytestmark = pytest.mark.dut

ROOT = Path(__file__).parents[2]

# A worker without a TFLite runtime, which has the accelerator copy on each invoke, as a driver's user space would.
WORKER = r"""
import fcntl, os, struct
class Driver(worker.Session):
    def do_hello(self, header, payload):
        folders = [os.path.dirname(os.__file__)]
        return {"python": "3", "runtime": {"name": "none", "version": "0"}, "folders": folders}, b""
    def do_model(self, header, payload):
        global accelerator, handle
        accelerator = os.open("/dev/accel/accel0", os.O_RDWR)
        handle = call(0xC02064B2, "=IIIIIIQ", 512, 512, 32, 0, 0, 0, 0)[4]  # DRM_IOCTL_MODE_CREATE_DUMB
        return {"inputs": [], "outputs": [], "claims": None}, b""
    def do_invoke(self, header, payload):
        for _ in range(10):
            # inside the first page, the only one that is sure to be in one piece for the device
            call(0xC0186440, "=IIQQ", handle, 1024, 0, 2048)  # DRM_IOCTL_EDU_COPY
        try:
            os.open("/dev/dma_heap/system", os.O_RDWR)
        except PermissionError:
            return {"ns": 0}, b""
        raise RuntimeError("another node could be opened")
def call(request, layout, *values):
    data = bytearray(struct.pack(layout, *values))
    fcntl.ioctl(accelerator, request, data, True)
    return struct.unpack(layout, data)
worker.Session = Driver
"""

CONTROLLER = r"""
import json, sys
sys.path.insert(0, "/tmp/crosml-auditor.zip")
from auditor.inference import process
from auditor.inference.watch import Limits
from auditor.inference.worker.confine import Policy
from auditor.inference.fdinfo import busy_ns
real = "from auditor.inference.worker.main import main"
code = process.BOOTSTRAP.replace(real, "from auditor.inference.worker import main as worker\n" + WORKER)
process._COMMAND = (*process._COMMAND[:-1], code.replace("main(int", "worker.main(int"))
with process.Worker("test", b"", Limits()) as worker:
    worker.hello("auto")
    confinement = worker.confine(Policy(devices=("/dev/accel/accel0",)), required=True)
    worker.load_model(1, xnnpack=False)
    before = worker.engines()
    inference = worker.invoke()
    busy = busy_ns(before, worker.engines())
    print(json.dumps([confinement.to_json(), confinement.escapes, worker.refused(), worker.device_bytes(), busy, inference.bracket_ns]))
"""


def _package() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((ROOT / "auditor").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT))
    return buffer.getvalue()


@pytest.mark.parametrize("dut", ["in-place"], indirect=True)
def test_a_confined_worker_drives_the_accelerator_and_nothing_else(dut: machine.Machine) -> None:
    dut.put({"/tmp/crosml-auditor.zip": _package()})
    dut.run("chmod 666 /dev/accel/accel0 /dev/dma_heap/system", user="root")
    script = f"WORKER = {WORKER!r}\n{CONTROLLER}"
    for become in ("", "setpriv --reuid=65534 --regid=65534 --clear-groups "):
        said = dut.run(f"cd /; {become}python3 -", user="root", stdin=script.encode())
        confinement, escapes, refused, held, busy, bracket = json.loads(said)
        assert (confinement["state"], confinement["capabilities"], confinement["seccomp"]) == ("confined", 0, 2)
        assert confinement["landlock_abi"] >= 6
        assert {error for _attempt, error in escapes} <= {"EPERM", "EACCES", "ENOSYS"}
        assert [(each["call"], each["path"]) for each in refused] == [("openat", "/dev/dma_heap/system")]
        assert held == 512 * 512 * 4
        assert 0 < busy < bracket
