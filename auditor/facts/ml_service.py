"""The ChromeOS ML service on a device: its executable, its models, its workers' seccomp policies, how it was started.

Sources: chromiumos/platform2, ml/init/ml-service.conf (what is started), ml/seccomp (the workers' policies), ml/process.cc (switches).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from auditor.facts.absence import is_listed
from auditor.facts.minijail import read_policy
from auditor.facts.processes import has_ended, read_processes, read_restraint, unnumbered
from auditor.facts.reading import all_of, parse
from auditor.facts.types import Fact, Listing, Missing, MlService, Ok, Restraint, ServiceFile
from auditor.model import Evidence, Remedy, Status, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from auditor.facts.reading import Device
    from auditor.facts.types import T

EXECUTABLE = "/usr/bin/ml_service"
MODELS = "/opt/google/chrome/ml_models"
POLICIES = "/usr/share/policy"

FILES = 512
"""Models, or policies, above which the rest is not looked at."""

COMMAND_LINE = 1 << 16
"""Bytes of a process's command line; longer ones are not understood."""


@dataclass(frozen=True, slots=True)
class _Process:
    """A process of the service, and the names of the switches that it was given."""

    number: str
    switches: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def read_ml_service(device: Device) -> MlService:
    """The service, where there is one; of a device without it nothing else is asked."""
    executable = _executable(device)
    if isinstance(executable, Missing):
        return MlService(executable, executable, executable, executable, executable)
    running = _running(device)
    return MlService(
        executable=executable,
        models=_each(device, MODELS, lambda name: name.endswith(".tflite"), _file),
        policies=_each(device, POLICIES, lambda name: name.startswith("ml_service-") and name.endswith(".policy"), read_policy),
        switches=_switches(running),
        restraints=_restraints(device, running),
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


def _running(device: Device) -> Fact[tuple[_Process, ...]]:
    """The daemon and its workers, known by their command lines, which a process can overwrite: what is there was given."""
    processes = read_processes(device)
    if isinstance(processes, Missing):
        return processes
    if processes.value.unread:
        return processes.value.unread[0]
    found: list[_Process] = []
    for process in processes.value.items:
        line = parse(device.data(f"/proc/{process}/cmdline", length=COMMAND_LINE), _arguments)
        if isinstance(line, Missing):
            if has_ended(device, process, line):
                continue
            return Missing(line.status, unnumbered(line.evidence), line.note, line.remedy)
        if line.value and line.value[0].rpartition("/")[2] == "ml_service":
            switches = tuple(sorted({visible(each.partition("=")[0]) for each in line.value[1:] if each.startswith("--")}))
            found.append(_Process(process, switches, unnumbered(line.evidence, " ".join(switches))))
    return Ok(tuple(found), processes.evidence)


def _switches(running: Fact[tuple[_Process, ...]]) -> Fact[tuple[str, ...]]:
    if isinstance(running, Missing):
        return running
    found = sorted({switch for each in running.value for switch in each.switches})
    return Ok(tuple(found), tuple(dict.fromkeys((*running.evidence, *(item for each in running.value for item in each.evidence)))))


def _restraints(device: Device, running: Fact[tuple[_Process, ...]]) -> Fact[tuple[Restraint, ...]]:
    if isinstance(running, Missing):
        return running
    found = [each for each in (read_restraint(device, process.number) for process in running.value) if each is not None]
    evidence = tuple(dict.fromkeys((*running.evidence, *(item for each in found for item in each.evidence))))
    for each in found:
        if isinstance(each, Missing):
            return replace(each, evidence=evidence)
    return Ok(tuple(dict.fromkeys(each.open() for each in found)), evidence)


def _arguments(data: bytes) -> list[str]:
    if len(data) == COMMAND_LINE:
        raise ValueError(f"longer than {COMMAND_LINE} bytes")
    return data.decode("utf-8", "surrogateescape").split("\0")
