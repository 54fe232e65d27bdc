"""One model in one confined worker: what the service makes for a graph executor, and the zoo's runner for each of its processes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditor.inference import wire
from auditor.inference.process import Loaded, Worker
from auditor.inference.wire import AUTO, RUNTIMES, Outcome, Status, WorkerFailure
from auditor.inference.witness import Watched
from auditor.inference.worker.confine import Policy
from auditor.tflite import operators
from auditor.tflite.graph import BadModel, read_graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from typing_extensions import Self

    from auditor.inference.confinement import Confinement
    from auditor.inference.watch import Limits


@dataclass(frozen=True, slots=True)
class Access:
    """What a delegate may use of the machine in addition to libraries, its own folder and a folder to write to.

    The nodes of accelerators, and what there is to watch of them; more paths that it may read, write and drive, each with all below it; and
    whether to run where the kernel cannot confine it.
    """

    device_nodes: tuple[str, ...] = ()
    allow_paths: tuple[str, ...] = ()
    allow_unconfined: bool = False
    accelerators: tuple[Watched, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is run. Raises ValueError for a runtime that is none.

    `delegate` is the path of an external delegate's library; `library_path` is the only thing that its process finds in its
    environment (LD_LIBRARY_PATH).
    """

    delegate: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    settings: str | None = None
    """The settings file of a stable delegate, which only the native tools can load; `delegate` is then the library that it names."""
    library_path: tuple[str, ...] = ()
    access: Access = field(default_factory=Access)
    libraries: tuple[str, ...] = ()
    """More libraries that the delegate's process may read: those that its own search paths name (bench/libraries.py)."""
    runtime: str = AUTO
    import_path: tuple[str, ...] = ()
    """Folders that the worker looks for the runtime in before it looks where this process finds its packages."""
    threads: int = 1
    xnnpack: bool = True
    """Whether the runtime's own XNNPACK delegate may take what is left."""

    def __post_init__(self) -> None:
        if self.runtime not in (AUTO, *RUNTIMES):
            raise ValueError(f"runtime {self.runtime!r}, expected one of {', '.join((AUTO, *RUNTIMES))}")


class Executor:
    """A worker that is confined and has nothing loaded yet; `load` loads the delegate, if there is one, and the model.

    A context manager: on leaving, the worker and its whole process group are gone. Raises WorkerFailure, here and everywhere. `role` names
    the process in a failure.
    """

    def __init__(self, model: bytes, options: Options, limits: Limits, role: str) -> None:
        self._model, self._options, self._role = model, options, role
        self.worker = Worker(
            role,
            model,
            limits,
            options.library_path,
            options.import_path,
            nodes=options.access.device_nodes,
            accelerators=options.access.accelerators,
        )
        try:
            self.python, self.runtime = self.worker.hello(options.runtime)
            self.confinement: Confinement = self.worker.confine(policy(options), required=not options.access.allow_unconfined)
        except BaseException:
            self.worker.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.worker.close()

    def require_operators(self) -> Mapping[str, str]:
        """Compare what the model needs with what the runtime has, before the model is loaded. Returns the digest of each.

        Of a model that our own reader cannot read, nothing is said: the runtime decides.
        """
        there = self.worker.operators()
        try:
            wanted = operators.needed(read_graph(self._model))
        except BadModel:
            return {"runtime": operators.digest(there)}
        if missing := operators.missing(wanted, there):
            message = wire.bounded("; ".join(missing))
            raise WorkerFailure(Status(Outcome.OPERATOR_MISSING, self._role, "operators", message=message), self.worker.output)
        return {"runtime": operators.digest(there), "model": operators.digest(wanted)}

    def load(self) -> tuple[Loaded, int]:
        """Load delegate and model. Returns the model, and the bracket of both in ns."""
        options, ns = self._options, 0
        if options.delegate is not None:
            ns = self.worker.load_delegate(os.path.abspath(options.delegate), dict(options.options))
        loaded = self.worker.load_model(options.threads, xnnpack=options.xnnpack)
        return loaded, ns + loaded.ns


def policy(options: Options) -> Policy:
    """What a worker may open beside what every one needs.

    For a delegate: its own folder and those of its libraries, the accelerator's nodes, and what was allowed.
    """
    if options.delegate is None:
        return Policy()
    path = os.path.abspath(options.delegate)
    folders = [os.path.dirname(each) for each in (path, os.path.realpath(path))]
    # in the root folder, everything lies
    own = [path if folder == "/" else folder for folder in folders]
    settings = [] if options.settings is None else [options.settings]
    more = map(os.path.abspath, (*settings, *options.library_path, *options.libraries))
    nodes = options.access.device_nodes
    return Policy(
        readable=tuple(dict.fromkeys((*own, *more, *described(nodes)))),
        writable=options.access.allow_paths,
        devices=(*nodes, *options.access.allow_paths),
        listable=LISTED if nodes else (),
    )


LISTED = ("/dev/accel", "/dev/dri", "/sys/class/accel", "/sys/class/drm", "/sys/dev/char")
"""Folders in which libdrm and Mesa look for nodes by name (xf86drm.c, drmGetDevices2)."""


def described(nodes: Iterable[str]) -> tuple[str, ...]:
    """The folders in which sysfs describes nodes and their devices, by their real paths, for Landlock goes by those.

    libdrm and Mesa read `/sys/dev/char/MAJOR:MINOR/device/{vendor,device,uevent}` and others of their node before they use it.
    """
    found: list[str] = []
    for node in nodes:
        try:
            status = os.stat(node)
        except OSError:
            continue
        if stat.S_ISCHR(status.st_mode):
            own = f"/sys/dev/char/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            found += [os.path.realpath(path) for path in (own, f"{own}/device") if os.path.isdir(path)]
    return tuple(each for each in dict.fromkeys(found) if each.startswith("/sys/devices/") and each.count("/") > _DEPTH)


_DEPTH = 3
"""A path with no more slashes is of no device, but of a bus or a bridge with all that is on it."""
