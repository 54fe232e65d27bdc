"""The zoo on a device under test, seen from the controller: what goes over there, and the run documents that come back.

Vendor code runs on the device alone. What must be there first goes over the connection that asks the facts, into one folder of its own
that the device removes again: the runtime's folder, and what is named by `local:PATH`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import tarfile
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from auditor import frames
from auditor.bench.delegates import shared_library
from auditor.bench.options import ZooOptions
from auditor.bench.own_answers import compare_carried
from auditor.bench.remote import RUNTIME
from auditor.errors import AuditError, UsageError
from auditor.inference import runtime
from auditor.inference.runtime import Machine
from auditor.inference.wire import AUTO
from auditor.model import ZooModelUsed, visible
from auditor.zoo.catalogue import ZooVersion, model_document
from auditor.zoo.models import ModelFile, found_files, stand_in_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from auditor.sources.ssh import Ssh

LOCAL = "local:"
"""Leads a path of the controller's, where one of the device is expected."""

DELEGATE = "delegate"
"""Name of the folder that a delegate is copied to."""

MAX_RUNS = 64
"""Repetitions of a model that a device may send."""

_BLOCK = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """What a device's zoo is to be measured with; `run` is whether to measure, else what is named is only put in its place."""

    zoo: ZooVersion
    options: ZooOptions
    accelerators: tuple[str, ...] = ()
    run: bool = True


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes over, as it was found on the controller: files by their names in the device's folder, and models."""

    files: tuple[tuple[str, str, int], ...] = ()
    """Name there, path here, bytes."""
    package: str = ""
    """The runtime's, where it is among the files."""
    models: tuple[ModelFile, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteSetup:
    """A device that is ready to measure. With a `note` it cannot: that says why."""

    delegate: str | None = None
    stable_delegate: str | None = None
    models: tuple[ZooModelUsed, ...] = ()
    archive: str = ""
    """sha512 of the archive that `--zoo` named; by the device's word where it lies there."""
    sent: tuple[ModelFile, ...] = ()
    package: str = ""
    machine: Machine | None = None
    note: str = ""
    tools: bool = False
    """Whether the device says that it has tools of its own, whose answers are computed a second time here."""


def pack(job: RemoteJob) -> Upload:
    """Look at what is the controller's, before anything is connected. Raises UsageError for what is not what it must be."""
    files: list[tuple[str, str, int]] = []
    delegate, models, package = _local(job.options.delegate), _local(job.options.zoo), ""
    if delegate is not None:
        library = shared_library(delegate).path
        files.append((f"{DELEGATE}/{os.path.basename(library)}", library, os.path.getsize(library)))
    if job.run and job.options.runtime is not None:
        package = runtime.check_folder(job.options.runtime, job.options.tflite)
        files += _listed(job.options.runtime)
    found = found_files(job.zoo, models) if job.run and models is not None else {}
    return Upload(tuple(files), package, tuple(found.values()))


def equip(device: Ssh, job: RemoteJob, upload: Upload, progress: Callable[[str], None]) -> RemoteSetup:
    """See what the device has, and copy what it has not. Raises UsageError for what was named of it wrongly."""
    progress(f"looking for the zoo on {device.host}")
    options = job.options
    delegate = None if job.options.delegate is None or _local(job.options.delegate) is not None else job.options.delegate
    survey = _end(
        device,
        {
            "do": "survey",
            "options": replace(options, delegate=delegate).document(),
            "try_runtime": bool(upload.package),
            "find": job.run and not upload.models,
            "zoo_version": job.zoo.version,
            "models": [model_document(model) for model in job.zoo.models],
            "accelerators": job.accelerators,
        },
        python=list,
        machine=str,
        glibc=(list, type(None)),
        no_runtime=str,
        delegate=(str, type(None)),
        settings=(str, type(None)),
        found=list,
        archive=str,
        tools=bool,
    )
    machine, found = _machine(device, survey), _used(device, job, survey["found"])
    package = upload.package if survey["no_runtime"] else ""
    if package and job.options.runtime is not None:
        runtime.check_folder(job.options.runtime, job.options.tflite, machine)
    files = [each for each in upload.files if package or not each[0].startswith(f"{RUNTIME}/")]
    folder, problem = _stage(device, job, files, progress)
    delegate = survey["delegate"] or job.options.delegate
    if _local(job.options.delegate) is not None and not problem:
        delegate = f"{folder}/{upload.files[0][0]}"
    sent = upload.models
    if job.run and job.options.zoo is None:
        sent = stand_in_files(job.zoo, [each.name for each in found])
    used = {each.name: each for each in (*found, *(each.used for each in sent))}
    ordered = tuple(used[model.name] for model in job.zoo.models if model.name in used)
    archive = next((each.archive for each in upload.models), visible(survey["archive"]))
    return RemoteSetup(delegate, survey["settings"], ordered, archive, sent, package, machine, problem, survey["tools"])


def measure(device: Ssh, job: RemoteJob, setup: RemoteSetup, progress: Callable[[str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure the zoo on the device; yields (model name, run document) as each is done. Raises AuditError for what keeps it from that."""
    # they lay beside all of the models that were given
    images = setup.sent[0].images if setup.sent else ()
    request = {
        "do": "measure",
        "runtime": setup.package,
        "copied": setup.delegate if _local(job.options.delegate) is not None else None,
        "sent": [{"name": each.model.name, "sha256": each.sha256, "origin": each.origin} for each in setup.sent],
        "images": [{"path": each.path, "sha256": each.sha256} for each in images],
    }
    contents = [*(each.content for each in setup.sent), *(each.content for each in images)]
    counts = {each.name: 0 for each in setup.models}
    models = _contents(device, setup, progress) if setup.tools else {}
    for kind, content in device.call(request, contents):
        if kind == "progress":
            progress(str(content))
        elif kind == "run":
            name, document = content if isinstance(content, list) and len(content) == 2 else (None, None)
            if not isinstance(name, str) or not isinstance(document, dict) or counts.get(name, MAX_RUNS) >= MAX_RUNS:
                raise _unexpected(device)
            counts[name] += 1
            yield name, _second(document, models.get(name), allow_unconfined=job.options.allow_unconfined)
        elif kind == "end":
            end = _fields(device, content, no_runtime=str, problem=str)
            if end["no_runtime"]:
                raise AuditError(_no_runtime(setup.machine, end["no_runtime"]))
            if end["problem"]:
                raise AuditError(f"on the device: {visible(end['problem'])}")


def _contents(device: Ssh, setup: RemoteSetup, progress: Callable[[str], None]) -> dict[str, bytes]:
    """The models' contents, as they are named to the device; of a model that the device has, what it sends as the file of that digest."""
    known = {each.model.name: each.content for each in setup.sent}
    missing = [each for each in setup.models if each.name not in known]
    # without a runtime here there is nothing that could be done with them
    for each in missing if missing and not runtime.why_none(AUTO) else ():
        progress(f"fetching {each.name} from {device.host}")
        text = _end(device, {"do": "content", "name": each.name}, model=str)["model"]
        with contextlib.suppress(ValueError):
            content = base64.b64decode(text, validate=True)
            if hashlib.sha256(content).hexdigest() == each.sha256:
                known[each.name] = content
    return known


def _second(document: dict[str, Any], content: bytes | None, *, allow_unconfined: bool) -> dict[str, Any]:
    """A run's document, with what the controller's runtime says of the tool's answers; whatever the device said of that is dropped."""
    conditions = document.get("conditions")
    tool = conditions.get("tool") if isinstance(conditions, dict) else None
    if not isinstance(conditions, dict) or not isinstance(tool, dict):
        return document
    if content is None:
        answers: dict[str, Any] = {"note": runtime.why_none(AUTO) or "the device did not send the model"}
    else:
        answers = compare_carried(content, tool.get("answers"), allow_unconfined=allow_unconfined)
    return {**document, "conditions": {**conditions, "tool": {**tool, "answers": answers}}}


def _no_runtime(machine: Machine | None, problem: str) -> str:
    return (
        f"nothing on the device runs the zoo ({visible(problem)}): put benchmark_model and inference_diff_eval on its PATH, "
        f"or install a TFLite runtime for its python3, or give --runtime DIR (`pip install --target DIR`, for {machine})"
    )


def _local(path: str | None) -> str | None:
    """The path on the controller; None where it is one of the device."""
    return path[len(LOCAL) :] if path is not None and path.startswith(LOCAL) else None


def _listed(folder: str) -> Iterator[tuple[str, str, int]]:
    """The regular files of a runtime's folder, without bytecode, which another Python may have written."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each != "__pycache__")
        inside = os.path.relpath(place, folder)
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.isfile(path):
                yield os.path.normpath(f"{RUNTIME}/{inside}/{name}"), path, os.path.getsize(path)


def _stage(device: Ssh, job: RemoteJob, files: list[tuple[str, str, int]], progress: Callable[[str], None]) -> tuple[str, str]:
    """Have a folder made and filled. Returns its path, and what went wrong; UsageError where that was asked for by name."""
    size = sum(-(-each[2] // _BLOCK) * _BLOCK for each in files)
    request = {"do": "stage", "device_dir": job.options.device_dir, "bytes": size, "execute": bool(files)}
    staged = _end(device, request, folder=str, problem=str)
    if not staged["folder"]:
        problem = visible(staged["problem"])
        if job.options.device_dir is not None:
            raise UsageError(f"--device-dir: {problem} (on {device.host})")
        return "", f"no folder of the device can take what must be copied there ({problem}); name one with --device-dir"
    problem = _end(device, {"do": "unpack"}, _parts(files, size, progress), problem=str)["problem"] if files else ""
    return staged["folder"], f"on the device: {visible(problem)}" if problem else ""


def _parts(files: list[tuple[str, str, int]], size: int, progress: Callable[[str], None]) -> Iterator[bytes]:
    """The files as one tar stream, in parts; an empty one is its end."""
    buffer, done = io.BytesIO(), 0
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=frames.PART) as archive:
        for name, path, _size in files:
            with open(path, "rb") as file:
                entry = tarfile.TarInfo(name)
                entry.size = os.fstat(file.fileno()).st_size
                archive.addfile(entry, file)
            done += entry.size
            if buffer.tell():
                progress(f"copying to the device: {done >> 20} of {size >> 20} MiB")
                yield buffer.getvalue()
                buffer.seek(0)
                buffer.truncate()
    yield buffer.getvalue()
    yield b""


def _end(device: Ssh, request: dict[str, Any], contents: Iterable[bytes] = (), **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """The fields of what a request ends with."""
    ends = [content for kind, content in device.call(request, contents) if kind == "end"]
    return _fields(device, ends[0], **kinds)


def _fields(device: Ssh, content: Any, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """An object's fields, each of its type. Raises AuditError for anything else."""
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise _unexpected(device)
    return content


def _unexpected(device: Ssh) -> AuditError:
    return AuditError(f"--host {device.host}: unexpected reply from the agent")


def _machine(device: Ssh, survey: dict[str, Any]) -> Machine:
    pairs = [survey["python"], survey["glibc"] or [0, 0]]
    if not all(len(pair) == 2 and all(type(number) is int for number in pair) for pair in pairs):
        raise _unexpected(device)
    python, glibc = map(tuple, pairs)
    return Machine(python, visible(survey["machine"]), glibc if survey["glibc"] else None)


def _used(device: Ssh, job: RemoteJob, found: list[Any]) -> tuple[ZooModelUsed, ...]:
    """The models that the device says it has."""
    each = [_fields(device, item, name=str, sha256=str, origin=str) for item in found]
    names = {model.name for model in job.zoo.models}
    if not all(item["name"] in names and _SHA256.fullmatch(item["sha256"]) and item["origin"] in {"device", "given"} for item in each):
        raise _unexpected(device)
    return tuple(ZooModelUsed(item["name"], item["sha256"], item["origin"]) for item in each)
