"""Debian packages for tests, from the mirror that this machine's own apt uses: real kernels, real firmware, a compiler.

They are Debian trixie's, for amd64 where nothing else is said, whatever this machine is. Packages are downloaded with
private lists and unpacked without running their scripts, so neither this machine's apt nor its dpkg is touched, and root is
not needed.

Everything is kept in ``$XDG_CACHE_HOME/crosml-audit/packages``, each folder named by the SHA-256 of what it was made from; it may
be removed at any time. ``python tests/archive.py --refresh`` asks the archive again, which is needed once a package found there
before has been replaced by a point release.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SUITE = "trixie"
ARCHITECTURE = "amd64"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# A program that this needs, and the Debian package that has it.
TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg"}


class ArchiveError(Exception):
    """Packages cannot be had, or a program over them failed; the message is one that a person can act on."""


@contextmanager
def needed() -> Iterator[None]:
    """What a test needs from the archive: where it cannot be had the test is skipped with the reason; with CI=true it fails."""
    import pytest

    try:
        yield
    except ArchiveError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"packages of Debian {SUITE} cannot be had: {error}")
        pytest.skip(f"packages of Debian {SUITE} cannot be had: {error}")


def missing(tools: Mapping[str, str] = TOOLS) -> str:
    """What this machine lacks of some programs and of the archive's keys: the command that installs it, in one line; or nothing."""
    packages = sorted({package for tool, package in tools.items() if not shutil.which(tool, path=_path())})
    if not KEYRING.exists():
        packages.append("debian-archive-keyring")
    return f"apt-get install --no-install-recommends {' '.join(packages)}" if packages else ""


def unpacked(package: str, component: str = "main", suite: str = SUITE) -> Path:
    """One package's files, without what it depends on; ArchiveError where they cannot be had."""
    archive = lists(component, suite)

    def make(place: Path) -> None:
        downloads = place.parent / "downloads"
        downloads.mkdir()
        apt(archive, downloads, "apt-get", "download", package)
        for file in downloads.glob("*.deb"):
            extract(file, place)

    return cached(_home(), package, [_state(archive), package], make)


def wheel(requirement: str, platform: str) -> str:
    """A folder with a wheel's files, downloaded as this machine's pip does it; where it cannot be had, the test is skipped."""
    import pytest

    options = ["--no-deps", "--only-binary=:all:", "--platform", platform, "--python-version", "3.11"]

    def make(place: Path) -> None:
        downloads = place.parent / "wheels"
        run([sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(downloads), *options, requirement])
        for file in downloads.glob("*.whl"):
            with zipfile.ZipFile(file) as content:
                content.extractall(place)

    try:
        return str(cached(_home(), requirement.partition("==")[0], [requirement, platform], make))
    except ArchiveError as error:
        pytest.skip(f"{requirement} cannot be had: {error}")


def npm(package: str) -> Path:
    """The folder of an npm package, `name@version`, as this machine's npm downloads it; nothing of it is run. ArchiveError without it."""

    def make(place: Path) -> None:
        downloads = place.parent / "packages"
        downloads.mkdir()
        run(["npm", "pack", "--silent", package], cwd=downloads)
        for file in downloads.glob("*.tgz"):
            with tarfile.open(file) as content:
                content.extractall(place, filter="data")

    return cached(_home(), re.sub(r"\W", "-", package), [package], make) / "package"


def kernel_release(architecture: str = ARCHITECTURE) -> str:
    """The release of the suite's kernel, `6.12.…-amd64`: its package is `linux-image-` with it."""
    archive = lists(architecture=architecture)
    inputs = [_state(archive), architecture]
    place = cached(_home(), "kernel-release", inputs, lambda place: _find_release(archive, architecture, place))
    return (place / "release").read_text()


def lists(component: str = "main", suite: str = SUITE, *, architecture: str = ARCHITECTURE, refresh: bool = False) -> Path:
    """A component's package lists, for ``apt``: those fetched before, else from the first mirror that serves the suite."""
    if lacks := missing():
        raise ArchiveError(f"this machine needs: {lacks}")
    if refresh:
        _lists.cache_clear()
        for old in _home().glob(f"lists-{component}-{architecture}-*"):
            shutil.rmtree(old)
    found = _lists(_home(), component, suite, architecture, mirrors())
    if isinstance(found, ArchiveError):
        raise found
    return found


@functools.cache
def mirrors() -> tuple[str, ...]:
    """The places that this machine's apt gets main releases from, as apt itself reads its configuration."""
    targets = run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"])
    found = [line.split() for line in targets.splitlines()]
    uris = [uri for uri, suite, component in found if component == "main" and not re.search("[-/]", suite)]
    if not uris:
        raise ArchiveError("/etc/apt/sources.list*: expected a Debian mirror (a release's component main), found none")
    return tuple(dict.fromkeys(uris))


def apt(archive: Path, downloads: Path, *command: str) -> str:
    """Run an apt program on the private lists of an archive folder; packages go to the folder ``downloads``."""
    options = {
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Cache::archives": str(downloads),
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourcelist": str(archive / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": str(archive),
        "Dir::State::lists": str(archive / "lists"),
        "Dir::State::status": str(archive / "status"),
    }
    flags = [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]
    return run([command[0], "-q", *flags, *command[1:]], env={"APT_CONFIG": str(archive / "apt.conf")}, cwd=downloads)


def extract(package: Path, root: Path) -> None:
    """Unpack one package's file."""
    run(["dpkg-deb", "--extract", str(package), str(root)])


def cached(cache: Path, name: str, inputs: Iterable[str | bytes], make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills from these inputs; made once, by one process, wholly or not at all."""
    digest = hashlib.sha256()
    for part in inputs:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:%s" % (len(data), data))
    place = cache / f"{name}-{digest.hexdigest()}"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-unfinished-") as work:
                finished = Path(work) / "finished"
                umask = os.umask(0o022)  # modes must not follow the caller's
                try:
                    finished.mkdir()
                    make(finished)
                finally:
                    os.umask(umask)
                finished.rename(place)
            print(f"{cache.name}: {name} in {time.monotonic() - start:.1f} s", file=sys.stderr)
    return place


def cache_folder(name: str) -> Path:
    """A folder of this project's tests that outlives them."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crosml-audit" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(command: Sequence[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a program and return its output; ArchiveError with the end of what it said where it fails."""
    environment = {**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=cwd)
    except OSError as error:
        raise ArchiveError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-8:])
        raise ArchiveError(f"{command[0]} ended with {done.returncode}: {said}")
    return done.stdout


def _home() -> Path:
    return cache_folder("packages")


def _state(archive: Path) -> bytes:
    """What changes whenever the archive does: its signed list of lists."""
    return b"".join(path.read_bytes() for path in sorted((archive / "lists").glob("*Release")))


@functools.cache
def _lists(home: Path, component: str, suite: str, architecture: str, uris: tuple[str, ...]) -> Path | ArchiveError:
    """The lists, or why there are none: a mirror that does not answer is waited for once, not by every test."""
    name, inputs = f"lists-{component}-{architecture}", [suite, *uris]
    try:
        return cached(home, name, inputs, lambda place: _fetch_lists(component, suite, architecture, uris, place))
    except ArchiveError as error:
        return error


def _fetch_lists(component: str, suite: str, architecture: str, uris: tuple[str, ...], place: Path) -> None:
    for directory in ("lists/partial", "partial"):
        (place / directory).mkdir(parents=True)
    (place / "status").touch()
    # How to reach the network (proxies, certificates) is the machine's to say; hooks and sources are not taken over.
    settings = run(["apt-config", "dump", "Acquire"])
    private = 'Dir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n'
    private += f'APT::Architecture "{architecture}";\nAPT::Architectures "{architecture}";\n'
    (place / "apt.conf").write_text(settings + private)
    errors = []
    for uri in uris:
        (place / "sources.list").write_text(f"deb [signed-by={KEYRING}] {uri} {suite} {component}\n")
        try:
            apt(place, place, "apt-get", "update", "--error-on=any")
        except ArchiveError as error:
            errors.append(str(error))
        else:
            return
    raise ArchiveError("\n".join(errors))


def _find_release(archive: Path, architecture: str, place: Path) -> None:
    depends = apt(archive, place, "apt-cache", "depends", f"linux-image-{architecture}")
    found = re.search(r"Depends: linux-image-(6\.\S+)", depends)
    if not found:
        raise ArchiveError(f"expected linux-image-{architecture} to depend on a 6.x kernel of {SUITE}, found:\n{depends}")
    (place / "release").write_text(found[1])


def _path() -> str:
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"


if __name__ == "__main__":
    try:
        for part in ("main", "non-free-firmware"):
            print(lists(part, refresh="--refresh" in sys.argv[1:]))
    except ArchiveError as problem:
        sys.exit(str(problem))
