"""The zoo on a device under test, seen from there: a process of its own, started by the agent, which measures as on any machine.

Requests and replies are frames (auditor/frames.py). A request is a JSON object with what to `do`; contents follow it, a frame each, led
by `=`. Each reply is a JSON object: {"progress": text}, {"folder": path of a new one, which the agent removes if this process cannot},
{"run": [model, document]}; the last one is {"end": {…}}, or {"usage": what was asked for wrongly, in one line}.

    survey   {options (ZooOptions), try_runtime, find, zoo_version, models, accelerators}
             -> {python, machine, glibc, no_runtime: why, delegate, settings, found: [{name, sha256, origin}],
                archive: sha512 of the one that was given, tools: whether there are any}
    content  {name: of a model that was found} -> {model: base64; empty for none, and for a large one}
    stage    {device_dir, bytes, execute} -> {folder | problem}
    unpack   a tar stream's parts, the last of them empty -> {problem}: into that folder
    measure  {runtime: its package in the folder, copied: the delegate there, sent: [{name, sha256, origin}],
             images: [{path, sha256}] beside those that were given} and the contents of both
             -> {no_runtime: why nothing here can measure, problem}

It ends with the agent, and then leaves no worker and no folder behind.
"""

from __future__ import annotations

import base64
import ctypes
import io
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

from auditor import folders, frames
from auditor.bench import staging
from auditor.bench.access import access
from auditor.bench.delegates import Delegate, shared_library, stable_delegate
from auditor.bench.native import find_tools
from auditor.bench.options import ZooOptions
from auditor.bench.own_answers import carried
from auditor.bench.schedule import MeasureOptions, NoRuntime, measure_zoo, runner
from auditor.errors import UsageError
from auditor.inference import runtime
from auditor.inference.executor import Access
from auditor.model import visible
from auditor.zoo.catalogue import ZooModel, ZooVersion, read_model
from auditor.zoo.find import FoundImage
from auditor.zoo.models import ModelFile, found_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CARRIED = 64 << 20
"""Bytes of a model that goes to the controller."""

RUNTIME = "runtime"
"""Name of the folder that --runtime's files are copied to, in the folder that is removed in the end."""

_SET_PDEATHSIG = 1


class Job:
    """What the device was asked for so far: a folder, the zoo's models, and those that were found here."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._folder = ""
        self._models: tuple[ZooModel, ...] = ()
        self._found: dict[str, ModelFile] = {}
        self._delegate = Delegate("")
        self._options = ZooOptions()
        self._access = Access()

    def serve(self) -> None:
        """Do what is asked, until nobody asks any more."""
        while (frame := frames.read(self._requests)) is not None:
            request = json.loads(frame)
            try:
                self._tell("end", getattr(self, "do_" + request["do"])(request))
            except UsageError as error:
                self._tell("usage", str(error))

    def clean(self) -> None:
        """Remove the folder."""
        if self._folder:
            folders.remove(self._folder)

    def do_survey(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Look at what is here, and whether what was named is what it must be."""
        self._models = tuple(map(read_model, request["models"]))
        options = self._options = ZooOptions.read(request["options"])
        self._access = access(options, tuple(request["accelerators"]))
        self._delegate = _delegate(options)
        if request["find"]:
            self._found = found_files(ZooVersion(request["zoo_version"], "", self._models), options.zoo)
        found = [{"name": name, "sha256": each.sha256, "origin": each.origin} for name, each in self._found.items()]
        embedded = request["try_runtime"] and runner(self._delegate, options.tflite) is None
        return {
            **asdict(runtime.this_machine()),
            "no_runtime": runtime.why_none(options.tflite) if embedded else "",
            "delegate": self._delegate.path if options.delegate else None,
            "settings": self._delegate.settings,
            "found": found,
            "tools": find_tools() is not None,
            "archive": next((each.archive for each in self._found.values()), ""),
        }

    def do_stage(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Make the folder that everything else is in."""
        named = request["device_dir"]
        try:
            self._folder = staging.make([named] if named else staging.places(), request["bytes"], execute=request["execute"])
        except staging.NoPlace as problem:
            return {"folder": "", "problem": str(problem)}
        self._tell("folder", self._folder)
        tempfile.tempdir = self._folder
        return {"folder": self._folder, "problem": ""}

    def do_unpack(self, _request: Mapping[str, Any]) -> dict[str, Any]:
        """Unpack what was sent; all of it is read, whatever becomes of it."""
        parts = self._contents()
        problem = ""
        try:
            staging.unpack(io.BufferedReader(_Stream(parts)), self._folder)
        except OSError as error:
            problem = f"{self._folder}: {error.strerror}"
        for _rest in parts:
            pass
        return {"problem": problem}

    def do_content(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A model that was found here, for the controller's runtime."""
        found = self._found.get(request["name"])
        content = found.content if found and len(found.content) <= MAX_CARRIED else b""
        return {"model": base64.b64encode(content).decode()}

    def do_measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Measure the models that were found here and those that were sent."""
        by_name = {model.name: model for model in self._models}
        sent = [ModelFile(by_name[each["name"]], self._content(), each["sha256"], each["origin"]) for each in request["sent"]]
        images = tuple(FoundImage(each["path"], self._content(), each["sha256"]) for each in request["images"])
        found = {**self._found, **{each.model.name: replace(each, images=images) for each in sent}}
        import_path = (os.path.join(self._folder, RUNTIME),) if request["runtime"] else ()
        if import_path:
            # behind what is installed, for numpy: only workers take the runtime from there
            sys.path += import_path
            self._tell("progress", "compiling the runtime")
            runtime.compile_used(import_path[0], request["runtime"])
        try:
            delegate = replace(self._delegate, path=request["copied"] or self._delegate.path)
            means = MeasureOptions(self._options, delegate, import_path, self._access)
            files = [found[name] for name in by_name if name in found]
            for name, document in measure_zoo(files, means, lambda text: self._tell("progress", text), carried):
                self._tell("run", [name, document])
        except NoRuntime as error:
            return {"no_runtime": error.problem, "problem": ""} if error.helped_by_runtime else {"no_runtime": "", "problem": str(error)}
        except BrokenPipeError:
            raise
        except OSError as error:
            return {"no_runtime": "", "problem": visible(f"{error.filename or self._folder}: {error.strerror}")}
        return {"no_runtime": "", "problem": ""}

    def _tell(self, kind: str, content: Any) -> None:
        frames.write(self._replies, json.dumps({kind: content}, allow_nan=False).encode())

    def _content(self) -> bytes:
        """The next frame that is no request."""
        frame = frames.read(self._requests)
        if frame is None:
            raise KeyboardInterrupt
        return frame[1:]

    def _contents(self) -> Iterator[bytes]:
        while part := self._content():
            yield part


def _delegate(options: ZooOptions) -> Delegate:
    """The delegate that a survey names; one that is still to be copied here has no path yet. Raises UsageError."""
    if options.stable_delegate is not None:
        return stable_delegate(options.stable_delegate)
    if options.delegate is None:
        return Delegate("", options.delegate_options)
    return shared_library(os.path.abspath(options.delegate), options.delegate_options)


class _Stream(io.RawIOBase):
    """Parts of a stream as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts, self._rest = parts, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or memoryview(next(self._parts, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def main(replies: int, agent: int) -> NoReturn:
    """Serve stdin, and reply on a descriptor, until that is closed, or the agent (by its process id) is gone."""
    os.set_inheritable(replies, False)
    signal.signal(signal.SIGTERM, _end)
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
    job = Job(0, replies)
    try:
        if os.getppid() == agent:
            job.serve()
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    finally:
        job.clean()
    sys.exit(0)


def _end(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
