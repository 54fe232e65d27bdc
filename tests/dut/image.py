"""Builds what the virtual devices under test boot: a Debian kernel and a root file system, both with nothing but apt.

The guest is Debian trixie: its 6.12 kernel is the first of Debian's with DRM accel, dma-buf heaps and virtio-iommu (on
amd64; what arm64's lacks is written down in docs/dut.md). The kernel's version is read from what ``linux-image-amd64``, or
``-arm64``, depends on in the archive. Nothing of arm64 runs here: an amd64 compiler makes its modules and libraries, and
an amd64 Python compiles its library. Packages come as ``tests/archive.py`` says:
neither this machine's apt nor its dpkg is touched. The whole root file system is the initramfs.

Everything is kept in ``$XDG_CACHE_HOME/crosml-audit/dut``, a folder a stage, named by the SHA-256 of the stage's inputs;
the folder may be removed at any time. ``python tests/dut/image.py --refresh`` asks the archive again, which is needed once
the kernel found there before has been replaced by a point release.

Root is not needed: a user other than root needs unprivileged user namespaces, for ``unshare`` and ``chroot`` into the
root file systems whose compiler builds the modules and whose Python compiles its own library.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # this is a program too

from tests import archive  # noqa: E402  # found by the line above
from tests.archive import ArchiveError, extract, run  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

GUEST_PACKAGES = (
    "base-files", "bash", "busybox-static", "coreutils", "dash", "findutils", "grep", "iproute2", "kmod", "libc-bin",
    "libstdc++6", "libudev1", "login", "mawk", "openssh-server", "passwd", "pciutils", "python3", "sed", "util-linux",
)  # fmt: skip
BUILDER_PACKAGES = (
    "base-files", "bash", "coreutils", "dash", "findutils", "grep", "kmod", "libelf1t64", "make", "mawk", "perl-base", "sed",
    "xz-utils",
)  # fmt: skip
INTERPRETER_PACKAGES = ("base-files", "libpython3-stdlib", "python3-minimal")
# Modules of the kernel package that the guest has; their dependencies come with them.
KERNEL_MODULES = (
    "drm_shmem_helper", "gpu-sched", "test_firmware", "vfio-pci", "vfio_iommu_type1", "vgem", "virtio-gpu", "virtio_blk",
    "virtio_iommu", "virtio_net", "vivid",
)  # fmt: skip
# Folders that no test reads; what they weigh would be loaded at every boot.
UNUSED = (
    "usr/share/doc", "usr/share/i18n", "usr/share/info", "usr/share/locale", "usr/share/man", "usr/share/perl5",
    "usr/lib/{triplet}/gconv", "usr/lib/{triplet}/perl-base",
)  # fmt: skip

# A program that this needs, and the Debian package that has it.
TOOLS = archive.TOOLS | {
    "cpio": "cpio",
    "depmod": "kmod",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
}

ETC = {
    "hostname": "crosml-audit-dut\n",
    "lsb-release": 'DISTRIB_ID=crosml-audit-dut\nDISTRIB_DESCRIPTION="crosml-audit virtual DUT"\n',
    "passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        "tester:x:1000:1000::/home/tester:/bin/sh\n"
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
    ),
    "group": "root:x:0:\nvideo:x:44:\nrender:x:104:\ntester:x:1000:\nnogroup:x:65534:\n",
    "shadow": "root:*:20000:0:99999:7:::\ntester:*:20000:0:99999:7:::\n",
    "ssh/sshd_config": (
        "HostKey /etc/ssh/host_key\n"
        "AuthorizedKeysFile /etc/ssh/authorized_keys\n"
        "PermitRootLogin prohibit-password\n"
        "PasswordAuthentication no\n"
        "UsePAM no\n"
        "UseDNS no\n"
        "PrintMotd no\n"
    ),
}
DELEGATES = HERE.parents[1] / "fixtures" / "delegates"
FIRMWARE = b"EDUFW\x001.0\ncrosml-audit: firmware of the virtual accelerator, made at build time; unsigned\n" * 16


@dataclass(frozen=True, slots=True)
class Architecture:
    """What an image is made for."""

    #: Debian's name, and GNU's.
    name: str
    triplet: str
    #: Packages with a compiler that makes code for it on amd64; its program is `TRIPLET-gcc-14`.
    compilers: tuple[str, ...]
    #: Kernel modules that only this one has.
    kernel_modules: tuple[str, ...] = ()


AMD64 = Architecture("amd64", "x86_64-linux-gnu", ("binutils", "gcc-14", "libc6-dev"), ("habanalabs", "intel_vpu"))
ARM64 = Architecture("arm64", "aarch64-linux-gnu", ("gcc-14-aarch64-linux-gnu", "libc6-dev-arm64-cross"))


@dataclass(frozen=True, slots=True)
class Image:
    """What QEMU boots, and the keys that let one in."""

    release: str
    kernel: Path
    initramfs: Path
    client_key: Path
    host_key: str
    #: A folder with the delegates of `fixtures`, each as `libNAME.so`, compiled for the guest with its suite's compiler.
    delegates: Path


def missing(tools: Mapping[str, str] = TOOLS) -> str:
    """What this machine lacks to build the image: the command that installs it, in one line; or nothing."""
    if platform.machine() != "x86_64":
        return f"an x86_64 machine; this is {platform.machine()}"
    return archive.missing(tools)


def build(architecture: Architecture = AMD64, refresh: bool = False) -> Image:
    """Build the image, or find it in the cache. ArchiveError where it cannot be built."""
    cache = archive.cache_folder("dut")
    recipe = Path(__file__).read_bytes()
    sources = (path for folder in (HERE / "modules", DELEGATES) for path in sorted(folder.iterdir()) if path.is_file())
    init = (HERE / "init").read_bytes()

    def stage(name: str, inputs: Iterable[str | bytes], make: Callable[[Path], None]) -> Path:
        return archive.cached(cache, name, [archive.SUITE, *inputs], make)

    own = archive.lists(refresh=refresh)  # of programs that run here
    lists = own if architecture is AMD64 else archive.lists(architecture=architecture.name, refresh=refresh)
    release = archive.kernel_release(architecture.name)
    version = release.removesuffix(f"-{architecture.name}")

    def packages(name: str, lists: Path, names: Sequence[str]) -> Path:
        return stage(name, [release, *names], lambda place: download(lists, names, place))

    guest = packages("guest-packages", lists, GUEST_PACKAGES)
    interpreter = packages("interpreter-packages", own, INTERPRETER_PACKAGES)
    kernel = stage("kernel-packages", [release], lambda place: fetch(lists, [f"linux-image-{release}", f"linux-headers-{release}"], place))
    headers = (f"linux-headers-{version}-common", f"linux-kbuild-{version}")
    builder = packages("builder-packages", own, (*BUILDER_PACKAGES, *architecture.compilers, *headers))
    compiled = stage(
        "compiled",
        [builder.name, kernel.name, recipe, *(part for path in sources for part in (path.name, path.read_bytes()))],
        lambda place: compile_sources(architecture, release, (builder, kernel), place),
    )
    place = stage(
        "image",
        [guest.name, compiled.name, recipe, init],
        lambda place: build_image(architecture, release, guest, interpreter, kernel, compiled / "modules", place),
    )
    return Image(
        release=release,
        kernel=place / "vmlinuz",
        initramfs=place / "initramfs",
        client_key=place / "client_key",
        host_key=(place / "host_key.pub").read_text().strip(),
        delegates=compiled / "delegates",
    )


def download(lists: Path, names: Sequence[str], place: Path) -> None:
    """Download packages and what they depend on into a folder."""
    (place / "partial").mkdir()
    archive.apt(lists, place, "apt-get", "install", "--yes", "--download-only", *names)


def fetch(lists: Path, names: Sequence[str], place: Path) -> None:
    """Download packages alone into a folder."""
    archive.apt(lists, place, "apt-get", "download", *names)


def unpack(packages: Path, root: Path) -> None:
    """Unpack a folder's packages, except the kernel; their scripts do not run."""
    wanted = [package for package in sorted(packages.glob("*.deb")) if not package.name.startswith("linux-image-")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda package: extract(package, root), wanted):
            pass


def inside(root: Path, *command: str) -> None:
    """Run a program of a root file system in it: as root, or as the root of a user namespace of one's own."""
    null = root / "dev" / "null"
    null.parent.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        enter = ["chroot", str(root)]
    else:
        null.touch()
        script = 'mount --bind /dev/null "$0/dev/null" && exec chroot "$0" "$@"'
        enter = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(root)]
    try:
        run([*enter, *command], env={"PATH": "/usr/sbin:/usr/bin"})
    finally:
        null.unlink()


def compile_sources(architecture: Architecture, release: str, packages: Iterable[Path], place: Path) -> None:
    """Build the kernel modules of this folder and the delegates of `fixtures`, with the suite's compiler and the kernel's headers."""
    with tempfile.TemporaryDirectory(dir=place.parent, prefix="builder-") as directory:
        root = Path(directory)
        for folder in packages:
            unpack(folder, root)
        awk = root / "usr/bin/awk"
        if not awk.is_symlink():
            awk.symlink_to("mawk")
        for name, folder in (("modules", HERE / "modules"), ("delegates", DELEGATES)):
            shutil.copytree(folder, root / name)
            (place / name).mkdir()
        inside(root, "make", "-s", "-j2", "-C", f"/usr/lib/modules/{release}/build", "M=/modules", "modules")
        for module in sorted((root / "modules").glob("*.ko")):
            shutil.copy(module, place / "modules")
        for source in sorted((root / "delegates").glob("*.c")):
            library = f"lib{source.stem}.so"
            options = ("-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", f"/delegates/{library}", f"/delegates/{source.name}")
            inside(root, f"{architecture.triplet}-gcc-14", *options, "-lm")
            shutil.copy(root / "delegates" / library, place / "delegates")


def compile_library(root: Path, interpreter: Path) -> None:
    """Compile the library of a root file system's Python with another root file system's Python of the same version."""
    library = next((root / "usr/lib").glob("python3.*"))
    moved = interpreter / "library"
    library.rename(moved)
    options = ("-q", "-s", "/library", "-p", f"/usr/lib/{library.name}")
    inside(interpreter, library.name, "-m", "compileall", *options, "/library")
    moved.rename(library)


def build_image(architecture: Architecture, release: str, guest: Path, interpreter: Path, kernel: Path, modules: Path, place: Path) -> None:
    """Build the guest's kernel, root file system and keys."""
    root, python, linux = (place.parent / name for name in ("root", "python", "linux"))
    for folder in (root, python, linux):
        folder.mkdir()
    unpack(guest, root)
    unpack(interpreter, python)
    compile_library(root, python)
    for directory in UNUSED:
        shutil.rmtree(root / directory.format(triplet=architecture.triplet), ignore_errors=True)

    for package in kernel.glob("linux-image-*.deb"):
        extract(package, linux)
    (root / "boot").mkdir(exist_ok=True)
    for name in ("vmlinuz", "config"):
        shutil.copy(linux / f"boot/{name}-{release}", root / "boot")
    shutil.copy(linux / f"boot/vmlinuz-{release}", place / "vmlinuz")
    install_modules(release, (*KERNEL_MODULES, *architecture.kernel_modules), linux, modules, root)
    firmware = root / "usr/lib/firmware/edu/edu_fw.bin"
    firmware.parent.mkdir(parents=True)
    firmware.write_bytes(FIRMWARE)

    for name, text in ETC.items():
        (root / "etc" / name).write_text(text)
    for name in ("client_key", "host_key"):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "crosml-audit-dut", "-f", str(place / name)])
    shutil.copy(place / "client_key.pub", root / "etc/ssh/authorized_keys")
    shutil.copy(place / "host_key", root / "etc/ssh/host_key")
    (root / "home/tester").mkdir(parents=True)
    shutil.copy(HERE / "init", root / "init")
    (root / "init").chmod(0o755)

    with (place / "initramfs").open("wb") as initramfs:
        files = "\0".join([".", *sorted(str(path.relative_to(root)) for path in root.rglob("*"))])
        pack = ["cpio", "--quiet", "--null", "--create", "--format=newc", "--owner=+0:+0"]
        subprocess.run(pack, check=True, cwd=root, input=files.encode(), stdout=initramfs)


def install_modules(release: str, names: Iterable[str], linux: Path, extra: Path, root: Path) -> None:
    """Install the kernel modules that tests use, with their dependencies, and this folder's own as updates."""
    run(["depmod", "--basedir", str(linux / "usr"), release])
    source = linux / "usr/lib/modules" / release
    target = root / "usr/lib/modules" / release
    dependencies = {
        module: needed.split() for module, needed in (line.split(":", 1) for line in (source / "modules.dep").read_text().splitlines())
    }
    by_name = {Path(module).name.split(".")[0].replace("-", "_"): module for module in dependencies}
    wanted = {by_name[name.replace("-", "_")] for name in names}
    wanted |= {needed for module in wanted for needed in dependencies[module]}
    for name in (*wanted, "modules.builtin", "modules.builtin.modinfo", "modules.order"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    shutil.copytree(extra, target / "updates")
    run(["depmod", "--basedir", str(root / "usr"), release])


if __name__ == "__main__":
    if needed := missing():
        sys.exit(f"the virtual device needs: {needed}")
    try:
        for each in (AMD64, ARM64):
            print(build(each, refresh="--refresh" in sys.argv[1:]))
    except ArchiveError as problem:
        sys.exit(str(problem))
