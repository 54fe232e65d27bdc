"""What a user-space driver loads by way of a file: loaders whose drivers are named by configuration, or lie in a folder of plug-ins.

Sources: Khronos OpenCL-ICD-Loader (icd_linux.c), Vulkan-Loader (LoaderDriverInterface.md), libglvnd (egl_vendor.d), Mesa (src/loader,
src/gbm/main/backend.c), libva (va.c), OpenVINO (plugins.xml), Qualcomm's fastrpc (ADSP_LIBRARY_PATH). Variables of the environment that
name other places are those of whoever starts the driver; of them, ADSP_LIBRARY_PATH is looked for where services are started.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.facts.reading import parse
from auditor.facts.types import Missing, Ok
from auditor.model import Remedy, Status, printable
from auditor.sources import base

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.reading import Device
    from auditor.facts.types import Fact

MAX_FILES = 256
"""Configuration files of one kind, and plug-ins in one folder."""

MAX_NAMES = 64
"""Libraries that one file names."""

_JOBS = "/etc/init"
_JOB_LIMIT = 1 << 18
_DSP_FOLDERS = (
    "/usr/lib/rfsa/adsp", "/usr/lib/dsp", "/usr/lib/dsp/adsp", "/usr/lib/dsp/cdsp", "/usr/lib/dsp/cdsp1", "/dsp", "/dsp/cdsp",
    "/vendor/dsp", "/vendor/dsp/cdsp", "/vendor/lib/rfsa/adsp", "/system/lib/rfsa/adsp",
)  # fmt: skip
_DSP_VARIABLE = re.compile(r"\b(?:ADSP|CDSP|DSP)_LIBRARY_PATH\s*=\s*[\"']?([^\"'\s]{1,4096})")
_LOCATION = re.compile(r"<plugin\b[^<>]{0,1024}?\blocation\s*=\s*\"([^\"<>]{1,4096})\"")


class Named(NamedTuple):
    """A library that something names; a name without a folder is looked for as the linker looks for it."""

    how: str
    name: str


@dataclass(frozen=True, slots=True)
class Loader:
    """A kind of loader: how its files' names begin, and what its bytes spell where it goes by another name."""

    how: str
    files: tuple[str, ...]
    words: tuple[str, ...]
    configurations: tuple[str, ...] = ()
    """Folders of configuration files."""
    suffix: str = ""
    read: Callable[[str, str], tuple[str, ...]] | None = None
    """The libraries that the text of a configuration file, at a path, names. Raises ValueError."""
    plugins: tuple[tuple[str, str], ...] = ()
    """Folders below each library folder, and how the names of plug-ins in them end."""


def _icd(text: str, path: str) -> tuple[str, ...]:
    del path
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not names or any("\0" in name for name in names):
        raise ValueError("expected the name of a library")
    return names


def _manifest(text: str, path: str) -> tuple[str, ...]:
    """`{"ICD": {"library_path": …}}`, or `layer` or `layers` in its place; a path with a folder is relative to the file's own."""
    document: Any = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - of the document, not of an argument
    layers = document.get("layers", [])
    parts = [document.get("ICD"), document.get("layer"), *(layers if isinstance(layers, list) else [])]
    found = [part["library_path"] for part in parts if isinstance(part, dict) and "library_path" in part]
    meta = any(isinstance(part, dict) and "component_layers" in part for part in parts)
    if not all(isinstance(each, str) and each for each in found) or not (found or meta):
        raise ValueError("library_path: expected a text")
    folder = path.rpartition("/")[0]
    return tuple(posixpath.normpath(f"{folder}/{each}") if "/" in each and not each.startswith("/") else each for each in found)


LOADERS = (
    Loader("OpenCL .icd", ("libOpenCL.so",), ("OpenCL/vendors",), ("/etc/OpenCL/vendors",), ".icd", _icd),
    Loader(
        "Vulkan manifest",
        ("libvulkan.so",),
        ("vulkan/icd.d",),
        tuple(
            f"{place}/vulkan/{kind}.d"
            for place in ("/etc", "/usr/local/etc", "/usr/local/share", "/usr/share")
            for kind in ("icd", "implicit_layer")
        ),
        ".json",
        _manifest,
    ),
    Loader(
        "EGL manifest",
        ("libEGL.so", "libEGL_", "libnvidia-egl"),
        ("glvnd/egl_vendor.d", "egl_external_platform.d"),
        (
            "/etc/glvnd/egl_vendor.d",
            "/usr/share/glvnd/egl_vendor.d",
            "/etc/egl/egl_external_platform.d",
            "/usr/share/egl/egl_external_platform.d",
        ),
        ".json",
        _manifest,
    ),
    Loader(
        "Mesa driver",
        ("libGL.so", "libEGL.so", "libEGL_mesa.so", "libGLX_mesa.so", "libgbm.so"),
        ("%s_dri.so",),
        plugins=(("dri", "_dri.so"),),
    ),
    Loader("GBM backend", ("libgbm.so",), ("%s_gbm.so",), plugins=(("gbm", "_gbm.so"),)),
    Loader("VA-API driver", ("libva.so",), ("_drv_video.so",), plugins=(("dri", "_drv_video.so"), ("va/drivers", "_drv_video.so"))),
)
"""What is followed; OpenVINO's and Qualcomm's ways are their own."""

_OPENVINO = Loader("OpenVINO plugins.xml", ("libopenvino.so",), ("plugins.xml",))
_FASTRPC = Loader("DSP library path", ("libcdsprpc.so", "libadsprpc.so", "libQnn", "libSNPE.so", "libSnpe"), ("ADSP_LIBRARY_PATH",))
WORDS = tuple(dict.fromkeys(word for each in (*LOADERS, _OPENVINO, _FASTRPC) for word in each.words))
"""What a file's bytes are searched for."""


class Indirections:
    """The libraries that configuration names, each kind read once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._read: dict[str, tuple[tuple[str, ...], tuple[Missing, ...]]] = {}

    def of(self, path: str, held: frozenset[str], folders: tuple[str, ...]) -> tuple[list[Named], list[Missing]]:
        """What the file at a resolved path may load this way, and what could not be read of it; `folders` are the linker's own."""
        file, own = path.rpartition("/")[2], path.rpartition("/")[0]
        found: list[Named] = []
        unread: list[Missing] = []
        for loader in LOADERS:
            if _is(loader, file, held):
                names, missing = self._configured(loader)
                found += [Named(loader.how, name) for name in names]
                unread += missing
                for folder, suffix in loader.plugins:
                    for place in dict.fromkeys((own, *folders)):
                        self._folder(loader.how, f"{place}/{folder}", suffix, found, unread)
        if _is(_OPENVINO, file, held):
            self._openvino(own, found, unread)
        if _is(_FASTRPC, file, held):
            for place in dict.fromkeys((*_DSP_FOLDERS, *self._variables(unread))):
                self._folder(_FASTRPC.how, place, ".so", found, unread)
        return list(dict.fromkeys(found)), unread

    def _configured(self, loader: Loader) -> tuple[tuple[str, ...], tuple[Missing, ...]]:
        if loader.how not in self._read:
            names: list[str] = []
            unread: list[Missing] = []
            for folder in loader.configurations:
                for path in self._files(folder, loader.suffix, unread):
                    fact = self._names(path, loader.read) if loader.read else Ok(())
                    if isinstance(fact, Ok):
                        names += fact.value
                    elif fact.status is not Status.ABSENT:
                        unread.append(fact)
            self._read[loader.how] = (tuple(dict.fromkeys(names)), tuple(unread))
        return self._read[loader.how]

    def _names(self, path: str, reader: Callable[[str, str], tuple[str, ...]]) -> Fact[tuple[str, ...]]:
        def read(data: bytes) -> tuple[str, ...]:
            if len(data) >= base.READ_LIMIT:
                raise ValueError(f"at least {base.READ_LIMIT} bytes")
            names = reader(data.decode("utf-8", "surrogateescape"), path)
            if len(names) > MAX_NAMES:
                raise ValueError(f"{len(names)} libraries")
            return names

        return parse(self._device.data(path), read)

    def _files(self, folder: str, suffix: str, unread: list[Missing]) -> Iterator[str]:
        """The files of a folder with a suffix; none where there is no such folder."""
        names = self._device.names(folder)
        if isinstance(names, Missing):
            if names.status is not Status.ABSENT:
                unread.append(names)
            return
        chosen = [name for name in names.value if name.endswith(suffix)]
        if len(chosen) > MAX_FILES:
            unread.append(Missing(Status.FAILED, names.evidence, f"{len(chosen)} files in {printable(folder)}", Remedy.EVIDENCE))
        yield from (f"{folder}/{name}" for name in chosen[:MAX_FILES])

    def _folder(self, how: str, folder: str, suffix: str, found: list[Named], unread: list[Missing]) -> None:
        found += [Named(how, path) for path in self._files(folder, suffix, unread)]

    def _openvino(self, own: str, found: list[Named], unread: list[Missing]) -> None:
        """plugins.xml beside the library, or in a folder of its version's; a version without one has its plug-ins built in."""
        listed = self._device.names(own)
        names = listed.value if isinstance(listed, Ok) else ()
        for folder in (own, *(f"{own}/{name}" for name in names if name.startswith("openvino"))):
            fact = self._names(f"{folder}/plugins.xml", _plugins_of)
            if isinstance(fact, Ok):
                found += [Named(_OPENVINO.how, name) for name in fact.value]
            elif fact.status is not Status.ABSENT:
                unread.append(fact)

    def _variables(self, unread: list[Missing]) -> tuple[str, ...]:
        """The folders that ADSP_LIBRARY_PATH has where services are started; `;` or `:` stands between them."""
        folders: list[str] = []
        for path in ("/etc/environment", *self._files(_JOBS, ".conf", unread)):
            text = parse(self._device.data(path, length=_JOB_LIMIT), lambda data: data.decode("utf-8", "surrogateescape"))
            if isinstance(text, Ok):
                folders += [each for value in _DSP_VARIABLE.findall(text.value) for each in re.split("[;:]", value)]
            elif text.status is not Status.ABSENT:
                unread.append(text)
        for each in folders:
            if "$" in each:
                note = f"ADSP_LIBRARY_PATH: {printable(each)} is known to the shell only"
                unread.append(Missing(Status.FAILED, (), note, Remedy.EVIDENCE))
        return tuple(each.rstrip("/") for each in folders if each.startswith("/") and "$" not in each)[:MAX_NAMES]


def _plugins_of(text: str, path: str) -> tuple[str, ...]:
    if "<plugins" not in text:
        raise ValueError("expected <plugins>")
    folder = path.rpartition("/")[0]
    return tuple(each if each.startswith("/") else posixpath.normpath(f"{folder}/{each}") for each in _LOCATION.findall(text))


def _is(loader: Loader, file: str, held: frozenset[str]) -> bool:
    return file.startswith(loader.files) or not held.isdisjoint(loader.words)


def read_musl_path(device: Device, machine: str) -> Fact[tuple[str, ...]]:
    """The folders that musl's linker searches: of /etc/ld-musl-ARCH.path, by lines or colons, where there is one (ldso/dynlink.c)."""
    found = parse(device.data(f"/etc/ld-musl-{machine}.path"), lambda data: data.decode("utf-8", "surrogateescape"))
    if isinstance(found, Missing):
        return Ok(("/lib", "/usr/local/lib", "/usr/lib")) if found.status is Status.ABSENT else found
    return parse(found, lambda text: tuple(each.rstrip("/") or "/" for each in re.split("[:\n]", text) if each.strip()))
