"""The ChromeOS ML service on a device: its executable, its models, its workers' seccomp policies, how it was started.

Sources: chromiumos/platform2, ml/init/ml-service.conf (what is started), ml/seccomp (the workers' policies), ml/process.cc (switches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.facts.absence import is_listed
from auditor.facts.minijail import read_policy
from auditor.facts.processes import has_ended, read_processes, unnumbered
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, Listing, Missing, MlService, Ok, ServiceFile
from auditor.model import Remedy, Status, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from auditor.facts.reading import Device
    from auditor.facts.types import T
    from auditor.model import Evidence

EXECUTABLE = "/usr/bin/ml_service"
MODELS = "/opt/google/chrome/ml_models"
POLICIES = "/usr/share/policy"

FILES = 512
"""Models, or policies, above which the rest is not looked at."""

COMMAND_LINE = 1 << 16
"""Bytes of a process's command line; longer ones are not understood."""


def read_ml_service(device: Device) -> MlService:
    """The service, where there is one; of a device without it nothing else is asked."""
    executable = _executable(device)
    if isinstance(executable, Missing):
        return MlService(executable, executable, executable, executable)
    return MlService(
        executable=executable,
        models=_each(device, MODELS, lambda name: name.endswith(".tflite"), _file),
        policies=_each(device, POLICIES, lambda name: name.startswith("ml_service-") and name.endswith(".policy"), read_policy),
        switches=_switches(device),
    )


def _executable(device: Device) -> Fact[ServiceFile]:
    """Missing(ABSENT) only where the folder was listed and does not name the executable."""
    found = _file(device, EXECUTABLE)
    if isinstance(found, Ok) or found.status is not Status.ABSENT:
        return found
    named = is_listed(device, EXECUTABLE)
    if isinstance(named, Ok) and not named.value:
        return Missing(Status.ABSENT, all_of(found, named))
    return Missing(Status.FAILED, all_of(found, named), "whether there is one could not be seen", Remedy.EVIDENCE)


def _file(device: Device, path: str) -> Fact[ServiceFile]:
    root = device.stat("/")
    return parse(
        device.stat(path),
        lambda found: ServiceFile(path, found.size, device.sha256(path), parse(root, lambda top: found.dev == top.dev)),
    )


def _each(
    device: Device,
    folder: str,
    wanted: Callable[[str], bool],
    reader: Callable[[Device, str], Fact[T]],
) -> Fact[Listing[T]]:
    """What a reader makes of the wanted files in a folder."""
    listed = device.names(folder)
    if isinstance(listed, Missing):
        return listed
    names = [name for name in listed.value if wanted(name)]
    found = [reader(device, f"{folder}/{name}") for name in names[:FILES]]
    unread = [each for each in found if isinstance(each, Missing)]
    if len(names) > FILES:
        unread.append(Missing(Status.FAILED, listed.evidence, f"more than {FILES} files", Remedy.EVIDENCE))
    return Ok(Listing(tuple(each.value for each in found if isinstance(each, Ok)), all_of(listed, *found), tuple(unread)), listed.evidence)


def _switches(device: Device) -> Fact[tuple[str, ...]]:
    """From the command lines in /proc, which a process can overwrite: what is there was given, what is not may have been."""
    processes = read_processes(device)
    if isinstance(processes, Missing):
        return processes
    if processes.value.unread:
        return processes.value.unread[0]
    found: set[str] = set()
    evidence: list[Evidence] = [*processes.evidence]
    for process in processes.value.items:
        line = parse(device.data(f"/proc/{process}/cmdline", length=COMMAND_LINE), _arguments)
        if isinstance(line, Missing):
            if has_ended(device, process, line):
                continue
            return Missing(line.status, unnumbered(line.evidence), line.note, line.remedy)
        if line.value and line.value[0].rpartition("/")[2] == "ml_service":
            switches = sorted({visible(each.partition("=")[0]) for each in line.value[1:] if each.startswith("--")})
            evidence += unnumbered(line.evidence, " ".join(switches))
            found.update(switches)
    return Ok(tuple(sorted(found)), tuple(dict.fromkeys(evidence)))


def _arguments(data: bytes) -> list[str]:
    if len(data) == COMMAND_LINE:
        raise ValueError(f"longer than {COMMAND_LINE} bytes")
    return data.decode("utf-8", "surrogateescape").split("\0")
