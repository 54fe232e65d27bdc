"""A confined worker on another kernel, as root and as an ordinary user, with a real accelerator's node to drive and others refused."""

from __future__ import annotations

import json
import signal
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.auditor.conftest import chain
from tests.dut.packing import worker_package

if TYPE_CHECKING:
    import machine

pytestmark = pytest.mark.dut

ROOT = Path(__file__).parents[2]
NODES = {"amd64": "/dev/accel/accel0", "arm64": "/dev/dri/renderD128"}

# A worker without a TFLite runtime, which has the accelerator copy on each invoke, as a driver's user space would.
WORKER = r"""
import fcntl, os, struct
class Driver(worker.Session):
    def do_hello(self, header, payload):
        folders = [os.path.dirname(os.__file__)]
        return {"python": "3", "runtime": {"name": "none", "version": "0"}, "folders": folders}, b""
    def do_model(self, header, payload):
        global accelerator, handle
        accelerator = os.open(NODE, os.O_RDWR)
        handle = call(0xC0106441, "=QII", 1 << 20, 0, 0)[1]  # DRM_IOCTL_EDU_CREATE
        return {"inputs": [], "outputs": [], "claims": None}, b""
    def do_invoke(self, header, payload):
        for _ in range(10):
            # inside the first page, the only one that is sure to be in one piece for the device
            call(0xC0186440, "=IIQQ", handle, 1024, 0, 2048)  # DRM_IOCTL_EDU_COPY
        try:
            os.open("/dev/udmabuf", os.O_RDWR)
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
real = "from auditor.inference.worker.main import main"
code = process.BOOTSTRAP.replace(real, f"from auditor.inference.worker import main as worker\nNODE = {NODE!r}\n{WORKER}")
process._COMMAND = (*process._COMMAND[:-1], code.replace("main(int", "worker.main(int"))
with process.Worker("test", b"", Limits(), nodes=(NODE,)) as worker:
    worker.hello("auto")
    confinement = worker.confine(Policy(devices=(NODE,)), required=True)
    worker.load_model(1, xnnpack=False)
    before = worker.counted()
    inference = worker.invoke()
    busy = sum(worker.counted().since(before).amounts.values())
    print(json.dumps([confinement.to_json(), confinement.escapes, worker.refused(), worker.device_bytes(), busy, inference.bracket_ns]))
"""


@pytest.mark.parametrize("dut", ["in-place", "arm64.in-place"], indirect=True)
def test_a_confined_worker_drives_the_accelerator_and_nothing_else(dut: machine.Machine) -> None:
    dut.put({"/tmp/crosml-auditor.zip": worker_package()})
    node, keys = NODES[dut.configuration.board.architecture.name], "/sys/module/edu_accel/parameters/fdinfo_keys"
    modes = dut.run(f"stat -c '%a %n' {node} /dev/udmabuf; chmod 666 {node} /dev/udmabuf", user="root")
    script = f"NODE, WORKER = {node!r}, {WORKER!r}\n{CONTROLLER}"
    for become in ("", "setpriv --reuid=65534 --regid=65534 --clear-groups "):
        said = dut.run(f"cd /; {become}python3 -", user="root", stdin=script.encode())
        confinement, escapes, refused, held, busy, bracket = json.loads(said)
        assert (confinement["state"], confinement["capabilities"], confinement["seccomp"]) == ("confined", 0, 2)
        assert confinement["landlock_abi"] >= 6
        assert {error for _attempt, error in escapes} <= {"EPERM", "EACCES", "ENOSYS"}
        assert [(each["call"], each["path"]) for each in refused] == [("openat", "/dev/udmabuf")]
        assert held == 1 << 20
        assert 0 < busy < bracket
    # the same with a driver that says nothing of memory and engines, as many do: what it holds is not known, not 0
    try:
        said = dut.run(f"echo 0 >{keys}; cd /; python3 -", user="root", stdin=script.encode())
    finally:
        dut.run("\n".join((f"echo 1 >{keys}", *(f"chmod {mode}" for mode in modes.splitlines()))), user="root")
    *_, held, busy, _bracket = json.loads(said)
    assert (held, busy) == (None, 0)


# A measurement through the hostile delegate: what became of each of its attempts, and what was seen of them.
MEASURE = r"""
import json, sys
sys.path[:0] = ["/tmp/crosml-auditor.zip", "/tmp/runtime"]
from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.inference.executor import Access
with open("/tmp/scene/model", "rb") as file:
    model = file.read()
job = Job("chain", model, delegate="/tmp/scene/lib/hostile.so", access=Access(device_nodes=(sys.argv[1],)), runtime="ai-edge-litert",
          import_path=("/tmp/runtime",), inputs=2, min_runs=2, min_seconds=0, warmup_seconds=0)
run = measure(job)
print(json.dumps([run["status"], run["worker_output"], run["conditions"]]))
"""
STAGES = {"load", "create", "prepare", "invoke"}


@pytest.mark.parametrize("dut", ["arm64.zoo"], indirect=True)
def test_a_hostile_delegate_gets_nowhere(dut: machine.Machine, made: str) -> None:
    """As tests/auditor/inference/test_hostile.py has it on this machine; here on another architecture and its table of calls."""
    runtime = {f"/tmp/runtime/{path.relative_to(made)}": path.read_bytes() for path in Path(made).rglob("*") if path.is_file()}
    library = (dut.built.delegates / "libhostile.so").read_bytes()
    scene = {"/tmp/scene/lib/hostile.so": library, "/tmp/scene/outside": b"nobody may touch this", "/tmp/scene/model": chain()}
    dut.put({**runtime, **scene, "/tmp/crosml-auditor.zip": worker_package()})
    state = "cd /tmp/scene; ls . lib; cat outside; stat -c '%a %u %y %z' outside"
    try:
        before = dut.run(state, user="root")
        ran = [dut.run(f"cd /; python3 - {NODES['arm64']}", user=user, stdin=MEASURE.encode(), timeout=300) for user in ("root", "tester")]
        assert dut.run(state, user="root") == before
    finally:
        dut.run("rm -r /tmp/runtime /tmp/scene /tmp/crosml-auditor.zip", user="root")
    for said in ran:
        status, output, conditions = json.loads(said)
        assert status["outcome"] == "completed", (status, output)
        lines = [line.split() for line in output.splitlines() if line.startswith("hostile ")]
        assert {stage for _, stage, _, _ in lines} == STAGES
        assert len(lines) > 4 * 60
        assert [line for line in lines if line[3] == "managed"] == []
        found = conditions["confinement"]
        assert (found["state"], found["problems"], found["capabilities"], found["seccomp"]) == ("confined", [], 0, 2)
        assert all(each["refused"] for each in conditions["escapes"])
        seen = {(each["call"], each["path"]) for each in conditions["refused"]}
        assert {("openat", "/etc/passwd"), ("openat", "/tmp/scene/lib/../outside"), ("socket", None), ("ptrace", None)} <= seen


# What a 32-bit program does: end with 0 where the kernel answers its getpid(), and of an illegal instruction where that is ENOSYS.
CODE_32 = {
    "amd64": bytes.fromhex(
        "b814000000 cd80"  # mov eax, 20 (getpid); int 0x80
        "83f8da 7502 0f0b"  # cmp eax, -38; jne +2; ud2
        "b801000000 31db cd80"  # mov eax, 1 (exit); xor ebx, ebx; int 0x80
    ),
    "arm64": struct.pack(
        "<8I",
        *(0xE3A07014, 0xEF000000),  # mov r7, #20 (getpid); svc 0
        *(0xE3700026, 0x1A000000, 0xE7F000F0),  # cmn r0, #38; bne over the next; udf
        *(0xE3A07001, 0xE3A00000, 0xEF000000),  # mov r7, #1 (exit); mov r0, #0; svc 0
    ),
}
ELF_MACHINES = {"amd64": 3, "arm64": 40}  # EM_386, EM_ARM
EABI_5 = 0x05000000


def program_32(architecture: str) -> bytes:
    """A static 32-bit program for a machine whose kernel is of 64 bits: one segment at 64 KiB, with its header."""
    code, base, headers = CODE_32[architecture], 0x10000, 52 + 32
    machine_, flags = ELF_MACHINES[architecture], EABI_5 if architecture == "arm64" else 0
    header = struct.pack("<4s5B7x2H5I6H", b"\x7fELF", 1, 1, 1, 0, 0, 2, machine_, 1, base + headers, 52, 0, flags, 52, 32, 1, 0, 0, 0)
    size = headers + len(code)
    return header + struct.pack("<8I", 1, 0, base, base, size, size, 5, 0x10000) + code


# Runs a program: as it is, or under the worker's filter, of which the rule against execve is taken out.
UNDER_THE_FILTER = r"""
import os, sys
sys.path.insert(0, "/tmp/crosml-auditor.zip")
from auditor.inference.worker import confine, seccomp
name = seccomp.machine()
execve = seccomp.REFUSED["execve"][seccomp.MACHINES[name][1]]
program = seccomp.program(name, os.getpid(), notify=False)
(at,) = (at for at, each in enumerate(program) if each[0] == seccomp._EQUAL and each[3] == execve)
del program[at : at + 2]
for filtered in (False, True):
    child = os.fork()
    if child == 0:
        if filtered:
            confine._prctl(confine._SET_NO_NEW_PRIVS, 1)
            seccomp._install(name, program, seccomp._SPEC_ALLOW)
        os.execv(sys.argv[1], sys.argv[1:])
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("dut", ["in-place", "arm64.in-place"], indirect=True)
def test_a_32_bit_programs_calls_are_refused(dut: machine.Machine) -> None:
    """They have other numbers than those that the filter knows: AUDIT_ARCH_I386 on x86-64, AUDIT_ARCH_ARM on aarch64."""
    dut.put({"/tmp/crosml-auditor.zip": worker_package()})
    dut.put({"/tmp/program-32": program_32(dut.configuration.board.architecture.name)}, mode=0o755)
    assert dut.run("python3 - /tmp/program-32", user="root", stdin=UNDER_THE_FILTER.encode()).split() == ["0", str(-signal.SIGILL)]
