"""Boots a configuration of the virtual device under test and lets one in over ssh.

QEMU emulates the processor (TCG): that /dev/kvm exists does not mean that it works. As a program, for developers:

    python tests/dut/machine.py --list
    python tests/dut/machine.py CONFIGURATION                 boot, print how to get in, wait for Ctrl-C
    python tests/dut/machine.py CONFIGURATION -- COMMAND...   boot, run a command in the guest, stop
"""

from __future__ import annotations

import io
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import image
from configurations import CONFIGURATIONS, PC, Board, Configuration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

READY = "crosml-audit virtual DUT: ready"
BOOT_SECONDS = 180
TOOLS = {"ssh": "openssh-client", "setpriv": "util-linux"}


class MachineError(Exception):
    """The machine did not start, or a command in it failed; the message holds the end of what was said."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A running guest."""

    configuration: Configuration
    built: image.Image
    #: An ssh_config(5) file that knows the host ``dut``: address, port, key, host key.
    ssh_config: Path
    port: int
    qemu: subprocess.Popen[bytes]

    def ssh(self, user: str | None = None) -> list[str]:
        """Return the ssh command line that reaches the guest as the configuration's user, or as another."""
        return ["ssh", "-F", str(self.ssh_config), f"{user or self.configuration.user}@dut"]

    def run(self, command: str, *, user: str | None = None, stdin: bytes = b"", timeout: float = 120) -> str:
        """Run a shell command in the guest and return its output; MachineError where it fails or takes too long."""
        try:
            done = subprocess.run([*self.ssh(user), command], check=False, input=stdin, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise MachineError(f"{command!r} did not end in {timeout:.0f} s") from error
        if done.returncode:
            raise MachineError(f"{command!r} ended with {done.returncode}: {_tail(done.stderr)}")
        return done.stdout.decode(errors="backslashreplace")

    def put(self, files: Mapping[str, bytes], mode: int = 0o644) -> None:
        """Write files into the guest, owned by root: absolute path to content."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, content in files.items():
                entry = tarfile.TarInfo(path.lstrip("/"))
                entry.size, entry.mode = len(content), mode
                archive.addfile(entry, io.BytesIO(content))
        self.run("busybox tar -x -C /", user="root", stdin=buffer.getvalue())

    def last_words(self) -> str:
        """How QEMU ended, if it did, and what it and the guest's console said last."""
        return _last_words(self.qemu, self.ssh_config.parent)


def missing(board: Board = PC) -> str:
    """What this machine lacks to run the virtual device: the command that installs it, in one line; or nothing."""
    return image.missing(image.TOOLS | TOOLS | {board.program: board.package})


@contextmanager
def boot(configuration: Configuration) -> Iterator[Machine]:
    """Boot a configuration, set it up, and end it on leaving. ArchiveError, MachineError.

    QEMU also ends with the thread that boots it, so a thread of a pool is not the one to call this.
    """
    built = image.build(configuration.board.architecture)
    with tempfile.TemporaryDirectory(prefix="crosml-dut-") as directory:
        place = Path(directory)
        port = _free_port()
        with (
            (place / "qemu").open("wb") as said,
            subprocess.Popen(
                _qemu(configuration, built, place / "console", port), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            ) as qemu,
        ):
            try:
                _wait_for(qemu, place)
                machine = Machine(configuration, built, _write_ssh_config(place, built, port), port, qemu)
                if configuration.files:
                    machine.put(configuration.files)
                if configuration.setup:
                    machine.run("sh -e", user="root", stdin="\n".join(configuration.setup).encode())
                yield machine
            finally:
                qemu.kill()


def _qemu(configuration: Configuration, built: image.Image, console: Path, port: int) -> list[str]:
    board = configuration.board
    parameters = ["quiet", "panic=-1", "mitigations=off", *board.kernel_parameters, *configuration.kernel_parameters]
    devices = [
        *configuration.devices,
        "virtio-net-pci,addr=1e.0,netdev=net,romfile=,iommu_platform=on,disable-legacy=on",
    ]
    # One processor: with two, a guest was seen to panic ("Oops: int3") while a trace event was switched off. QEMU probably goes on
    # running code that another emulated processor has since replaced, and the kernel patches its own by way of int3.
    return [
        *("setpriv", "--pdeathsig", "KILL"),  # no machine outlives a killed test run
        *(board.program, "-accel", "tcg,thread=multi", "-machine", board.machine),
        *("-cpu", board.cpu, "-smp", "1", "-m", str(configuration.memory), "-nodefaults", "-nographic", "-no-reboot"),
        *("-serial", f"file:{console}"),
        *("-kernel", str(built.kernel), "-initrd", str(built.initramfs), "-append", " ".join(parameters)),
        *("-blockdev", "driver=null-co,read-zeroes=on,node-name=empty"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *(argument for device in devices for argument in ("-device", device)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(qemu: subprocess.Popen[bytes], place: Path) -> None:
    """Wait for the guest to say that it is ready: a connection tried earlier costs seconds of back-off."""
    console = place / "console"
    deadline = time.monotonic() + BOOT_SECONDS
    while not (console.exists() and READY in console.read_text(errors="replace")):
        if qemu.poll() is not None:
            raise MachineError(_last_words(qemu, place))
        if time.monotonic() > deadline:
            said = _tail(console.read_bytes()) if console.exists() else "nothing"
            raise MachineError(f"the guest was not ready after {BOOT_SECONDS} s; its console said: {said}")
        time.sleep(0.1)


def _last_words(qemu: subprocess.Popen[bytes], place: Path) -> str:
    ended = qemu.poll()  # 0 where the guest's kernel panicked
    how = "QEMU runs" if ended is None else f"QEMU ended with {ended}" if ended >= 0 else f"QEMU was ended by {signal.Signals(-ended).name}"
    said = (_tail(file.read_bytes()) for file in (place / "qemu", place / "console") if file.exists())
    return "\n".join((how, *said))


def _write_ssh_config(place: Path, built: image.Image, port: int) -> Path:
    (place / "known_hosts").write_text(f"dut {built.host_key}\n")
    config = place / "ssh_config"
    config.write_text(
        f"Host dut\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  HostKeyAlias dut\n"
        f"  IdentityFile {built.client_key}\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  UserKnownHostsFile {place / 'known_hosts'}\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n"
        "  LogLevel ERROR\n  ConnectTimeout 30\n"
    )
    return config


def _tail(said: bytes) -> str:
    return "\n".join(said.decode(errors="backslashreplace").strip().splitlines()[-100:])


def main(arguments: list[str]) -> int:
    """Run the command line described at the top of this file."""
    by_name = {configuration.name: configuration for configuration in CONFIGURATIONS}
    if arguments == ["--list"]:
        for configuration in CONFIGURATIONS:
            print(f"{configuration.name:18} {configuration.title}")
        return 0
    if not arguments or arguments[0] not in by_name or arguments[1:2] not in ([], ["--"]):
        print(f"usage: machine.py --list | {{{'|'.join(by_name)}}} [-- COMMAND...]", file=sys.stderr)
        return 2
    if needed := missing(by_name[arguments[0]].board):
        print(f"the virtual device needs: {needed}", file=sys.stderr)
        return 1
    start = time.monotonic()
    try:
        with boot(by_name[arguments[0]]) as machine:
            print(f"up after {time.monotonic() - start:.1f} s", file=sys.stderr)
            if not (command := arguments[2:]):
                print(f"{shlex.join(machine.ssh())}    (Ctrl-C ends it)", file=sys.stderr)
                while True:
                    time.sleep(3600)
            start = time.monotonic()
            status = subprocess.run([*machine.ssh(), *command], check=False).returncode
            print(f"ran in {time.monotonic() - start:.1f} s", file=sys.stderr)
            return status
    except KeyboardInterrupt:
        return 0
    except (image.ArchiveError, MachineError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
