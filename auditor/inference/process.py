"""The controller's hold on one worker: start it, talk to it, watch it from outside, end it.

What decides is read here and not said by the worker: the clock is the bracket around a request and its reply, processor time is the
kernel's count for the whole process, memory is what /proc shows that the process and what it started hold, of devices as well. Every way
to end badly is a WorkerFailure with a Status.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor.inference import group, scratch, wire
from auditor.inference.channel import PIPE_BYTES, Channel, Log, Reply, pipe, read_claims, read_count, read_tensor, read_text, sealed
from auditor.inference.confinement import Confinement, not_refused, read_kernel_state
from auditor.inference.fdinfo import MAX_THREADS, DeviceUse, device_numbers, read_device_use
from auditor.inference.memory import FileId, file_id, read_memory, status_bytes
from auditor.inference.processes import descendants
from auditor.inference.refusals import Refusals, take_descriptor
from auditor.inference.sealing import KEY_BYTES, covered, digest
from auditor.inference.watch import Limits, cpu_ns, oom_kills
from auditor.inference.wire import Claims, Outcome, ProtocolError, Status, WorkerFailure
from auditor.inference.witness import Counted, Watched, Witness
from auditor.inference.worker.confine import Policy, base_policy
from auditor.inference.worker.supervise import clean
from auditor.tflite.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from auditor.tflite.tensors import Bytes

BOOTSTRAP = """\
import json, sys
first, sys.path[:] = json.loads(sys.argv[1])
from auditor.inference.worker.main import main
sys.path[:0] = first
main(int(sys.argv[2]), int(sys.argv[3]))
"""
"""What a worker runs. It gets the import path of this process, so it finds the same packages in a checkout, a wheel or a zip; a folder
with a runtime comes before it for the runtime alone."""

SUPERVISOR = """\
import json, sys
sys.path[:], *rest = json.loads(sys.argv[1])
from auditor.inference.worker.supervise import main
main(*rest)
"""

_PYTHON = (sys.executable, "-I", "-S", *(["-B"] if sys.dont_write_bytecode else []), "-X", "utf8", "-c")
_COMMAND = (*_PYTHON, BOOTSTRAP)

MAX_OUTPUT = 8192
"""Bytes kept of each end of what a worker prints."""
MAX_TOOL_OUTPUT = 1 << 18
"""The same, of a tool whose figures are in it."""

_TICK_SECONDS = 0.1
_LOOKS_SHARE = 0.2
"""Of the time, what looking at the worker may take: on a slow device, which may have one processor, the worker needs it too."""
_END_SECONDS = 20.0
"""After so long without an end, a supervisor is ended itself."""

_WORKERS_WORDS = frozenset(Outcome) - {
    *(Outcome.COMPLETED, Outcome.DELEGATE_MISSING, Outcome.DIED, Outcome.EXITED, Outcome.TIMED_OUT),
    *(Outcome.PROTOCOL_ERROR, Outcome.OUTPUT_SHAPE_MISMATCH, Outcome.UNCONFINABLE, Outcome.OPERATOR_MISSING, Outcome.CPU_EXCEEDED),
    *(Outcome.DELEGATE_NOT_APPLIED, Outcome.OUTPUT_UNREADABLE),
}
"""The outcomes that a worker itself may report; the others are the controller's to find."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run. `claims` is None without a delegate; `ns` is the bracket."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    claims: Claims | None
    ns: int


@dataclass(frozen=True, slots=True)
class Inference:
    """One inference in nanoseconds: the controller's bracket, the worker's own figure within it, the process's CPU time."""

    bracket_ns: int
    worker_ns: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tool ended by itself: its code; the clock, its processor time and its peak of memory, None where not all of it was read."""

    exit: int
    bracket_ns: int
    cpu_ns: int
    peak_bytes: int | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Several inferences and their answers, each as `Worker.outputs` has it.

    In nanoseconds the controller's bracket around all, the worker's own figure for each, the process's CPU time within the bracket, and the
    whole exchange, from before the inputs were sent until the answers were there. To uncover and set the inputs, and to copy and digest
    the outputs, is in the bracket.
    """

    bracket_ns: int
    worker_ns: tuple[int, ...]
    cpu_ns: int
    exchange_ns: int
    answers: tuple[tuple[tuple[TensorSpec, ...], bytes], ...]


class Worker:
    """One worker process. A context manager: on leaving, it and all that it started are gone, and so they are when this process ends.

    Not thread-safe; several workers may be used from several threads. Every request raises WorkerFailure.
    """

    def __init__(
        self,
        role: str,
        model: bytes,
        limits: Limits,
        library_path: Sequence[str] = (),
        import_path: Sequence[str] = (),
        *,
        nodes: Sequence[str] = (),
        accelerators: Sequence[Watched] = (),
        tool: bool = False,
    ) -> None:
        """Start it; `tool` is for one that is to become one (`become`).

        Of the devices behind `nodes`, engines and memory are watched, and of `accelerators`, what else their drivers count.
        """
        self._role, self._limits = role, limits
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._accelerator = device_numbers(nodes)
        self._log = Log(MAX_TOOL_OUTPUT if tool else MAX_OUTPUT)
        self._peak = self._executor = 0
        self._is_weighed = self._memory_unread = False
        self._launcher: FileId | None = None
        self._device_peak: int | None = None
        self._device_unread = False
        self._folders: tuple[str, ...] = ()
        self._refusals: Refusals | None = None
        self._oom_kills = oom_kills()
        self._watched_until = 0.0
        self._cpu_before = 0
        self._ends = bytearray()
        name = scratch.PREFIX + os.urandom(8).hex()
        self._scratch = os.path.join(tempfile.gettempdir(), name)
        self._groups = group.plan(name, limits.memory_bytes, MAX_THREADS)
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            # its supervisor sees the controller's end of the channel closed, and ends; so that is waited for last
            ours.callback(self._wait)
            self._model = sealed(model)
            ours.callback(os.close, self._model)
            path = own_import_path()
            inherited = descriptors_of(path)
            self._own_files = frozenset(map(file_id, (self._model, *inherited)))
            self._channel = Channel(theirs, ours)
            output_write, self._output = pipe(theirs, ours, reverse=True)
            ends_write, self._end = pipe(theirs, ours, reverse=True)
            requests, replies = self._channel.theirs
            command = [*_COMMAND, json.dumps([list(import_path), path]), str(requests), str(replies)]
            environment = {"LD_LIBRARY_PATH": ":".join(library_path)} if library_path else {}
            self._supervisor = subprocess.Popen(
                [*_PYTHON, SUPERVISOR, json.dumps([path, requests, ends_write, self._scratch, self._groups, command, environment])],
                stdin=subprocess.DEVNULL,
                stdout=output_write,
                stderr=output_write,
                pass_fds=(requests, replies, ends_write, self._model, *inherited),
                env={},
                cwd="/",
                start_new_session=True,
            )
            self._poll = select.poll()
            for descriptor in (self._channel.replies, self._output, self._end):
                self._poll.register(descriptor, select.POLLIN)
            theirs.close()
            self._pid = self._started()
            self._pidfd = os.pidfd_open(self._pid)
            ours.callback(os.close, self._pidfd)
            ours.callback(self.kill)
            self._witness = Witness(self._pid, accelerators)
            ours.callback(self._witness.close)
            self._stack = ours.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and all that it started, if anything of it is left. May be called again."""
        self._stack.close()
        self._pidfd = -1  # its number may soon be another's, whom `kill` must not end

    def kill(self) -> None:
        """End the process now, from whatever thread; who waits for its answer gets a WorkerFailure. `close` is still to be called."""
        with contextlib.suppress(OSError):  # it has ended, or is closed
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    @property
    def pid(self) -> int:
        """The worker's process id; it is also its session's and its group's."""
        return self._pid

    @property
    def scratch(self) -> str:
        """The folder that is the worker's own, and its working directory; it is removed with it."""
        return self._scratch

    @property
    def model_path(self) -> str:
        """The model, as a path that the worker can open."""
        return f"/proc/self/fd/{self._model}"

    @property
    def output(self) -> str:
        """What the process printed so far, both streams together: the first and the last part of it."""
        return self._log.text()

    @property
    def is_output_whole(self) -> bool:
        """Whether nothing of it is left out."""
        return self._log.is_whole

    def hello(self, runtime: str) -> tuple[str, dict[str, str]]:
        """Have the runtime imported. Returns Python's version, and {name, version} of the runtime."""
        reply = self._request("hello", {"runtime": runtime}).header
        with self._checking("hello"):
            self._folders = tuple(map(read_text, reply["folders"]))
            return read_text(reply["python"]), {key: read_text(reply["runtime"][key]) for key in ("name", "version")}

    def confine(self, policy: Policy, *, required: bool) -> Confinement:
        """Have the process confine itself to what `policy` opens beside what every worker needs, and see that it did.

        Before anything of a vendor's is in it, so what it says of itself is still the auditor's word. With `required`, a confinement
        that does not hold is a WorkerFailure.
        """
        base = base_policy(self._scratch)
        whole = Policy(
            (*base.readable, *self._folders, *policy.readable),
            (*base.writable, *policy.writable),
            (*base.devices, *policy.devices),
            policy.executable,
            policy.listable,
        )
        reply = self._request("confine", {"policy": asdict(whole), "notify": self._can_listen()}).header
        with self._checking("confine"):
            abi, problems = read_count(reply["landlock_abi"]), tuple(map(read_text, reply["problems"]))
            listener = None if reply["listener"] is None else read_count(reply["listener"])
        if listener is not None:
            self._refusals = self._listen(listener, whole)
        tried = self._request("escape", {"scratch": self._scratch}).header
        with self._checking("escape"):
            escapes = tuple(
                (read_text(each["attempt"]), None if each["refused"] is None else read_text(each["refused"])) for each in tried["escapes"]
            )
            kernel = read_kernel_state(self.pid)
        if self._refusals:
            self._refusals.forget()
        self._witness.begin()
        problems = (*problems, *kernel.problems(), *not_refused(escapes))
        if problems and required:
            raise self._failure(Outcome.UNCONFINABLE, "confine", wire.bounded("; ".join(problems)))
        return Confinement(abi, kernel, whole, escapes, self._refusals is not None, problems)

    def operators(self) -> dict[str, int]:
        """Return name and greatest version of each builtin operator that the runtime has (operators.py)."""
        reply = self._request("operators", {}).header
        with self._checking("operators"):
            return {read_text(name): read_count(version) for name, version in reply["operators"].items()}

    def refused(self) -> list[dict[str, Any]] | None:
        """Return what the confinement refused since it holds (refusals.py); None where nobody could see that."""
        return self._refusals.seen() if self._refusals else None

    def become(self, arguments: Sequence[str], seconds: float) -> Ended:
        """Have the worker execute a tool, whose path is the first argument, and wait for its end, for so many seconds at most.

        What it printed is then all there. One that dies of a signal is a WorkerFailure.
        """
        before = self.cpu_ns()
        self._launcher, self._is_weighed = self._image(), True
        self._peak, self._device_peak, self._device_unread = 0, None, False
        if self._refusals:
            self._refusals.let_execute()
        started = time.perf_counter_ns()
        if self._exchange("become", {"arguments": list(arguments)}, seconds=seconds) is not None:
            raise self._failure(Outcome.PROTOCOL_ERROR, "become", "a tool that answers requests")
        bracket = time.perf_counter_ns() - started
        status, end = self._ending("become"), self._last_words()
        if status.exit is None:
            raise WorkerFailure(status, self.output)
        # the greatest resident size that wait4 has survives execve: it is at least the launcher's own
        at_end = self._refusals.peak_bytes if self._refusals else None
        peak = None if self._memory_unread else max(at_end or end["peak_bytes"], self._peak)
        return Ended(status.exit, bracket, max(0, end["cpu_ns"] - before), peak)

    def load_delegate(self, library: str, options: Mapping[str, str]) -> int:
        """Have the vendor's library loaded and its delegate created. Returns the bracket in ns."""
        return self._request("delegate", {"library": library, "options": dict(options)}).ns

    def load_model(self, threads: int, *, xnnpack: bool) -> Loaded:
        """Have the model loaded and the delegate applied; `xnnpack` lets the runtime's own delegate take what is left."""
        reply = self._request("model", {"descriptor": self._model, "threads": threads, "xnnpack": xnnpack})
        with self._checking("model"):
            inputs, outputs = (tuple(map(read_tensor, reply.header[key])) for key in ("inputs", "outputs"))
            if sum(tensor.nbytes for tensor in inputs) > wire.MAX_PAYLOAD:
                raise ValueError(f"inputs of more than {wire.MAX_PAYLOAD} bytes together")
            claims = None if reply.header["claims"] is None else read_claims(reply.header["claims"])
        return Loaded(inputs, outputs, claims, reply.ns)

    def set_inputs(self, *payload: Bytes) -> int:
        """Set all inputs; `payload` is their bytes in the model's order, in as many parts as one likes. Returns the bracket in ns."""
        return self._request("input", {}, payload).ns

    def select(self, executor: int) -> None:
        """Have all that follows be about this executor: a worker holds any number, each with its own interpreter and delegate."""
        self._executor = executor

    def drop(self) -> None:
        """Have the executor that is selected given back."""
        self._request("drop", {})

    def invoke(self) -> Inference:
        """Run one inference on the inputs last set."""
        before = self.cpu_ns()
        reply = self._request("invoke", {})
        after = self.cpu_ns()
        with self._checking("invoke"):
            worker_ns = read_count(reply.header["ns"])
            if worker_ns > reply.ns:
                raise ValueError(f"the worker claims {worker_ns} ns, the controller saw {reply.ns} ns")
        return Inference(reply.ns, worker_ns, after - before)

    def outputs(self, max_bytes: int = wire.MAX_PAYLOAD) -> tuple[tuple[TensorSpec, ...], bytes, int]:
        """Read all outputs: their shapes and types, their bytes in the model's order, and the bracket in ns."""
        reply = self._request("output", {}, max_payload=max_bytes)
        return self._read_outputs("output", reply), reply.payload, reply.ns

    def run(self, *payload: Bytes) -> tuple[tuple[TensorSpec, ...], bytes, int]:
        """Run one inference, inputs to outputs, in one exchange; the last is the worker's own figure for Invoke, in ns."""
        reply = self._request("run", {}, payload)
        with self._checking("run"):
            worker_ns = read_count(reply.header["ns"])
        return self._read_outputs("run", reply), reply.payload, worker_ns

    def _read_outputs(self, action: str, reply: Reply) -> tuple[TensorSpec, ...]:
        with self._checking(action):
            tensors = tuple(map(read_tensor, reply.header["outputs"]))
            size = sum(tensor.nbytes for tensor in tensors)
            if size != len(reply.payload):
                raise ValueError(f"{len(reply.payload)} bytes for tensors of {size} bytes")
        return tensors

    def run_batch(self, payloads: Sequence[bytes]) -> Batch:
        """Run several inferences, one right after the other; the inputs of each are as `set_inputs` takes them.

        Inputs and outputs go through a pipe outside the bracket, because that takes as long as an inference. So that nothing can be done
        for them there, the inputs are covered until the request to run brings the key, and its reply has the outputs' digests.
        """
        count, key, started = len(payloads), os.urandom(KEY_BYTES), time.perf_counter_ns()
        self._request("input", {"count": count}, [covered(payload, key, number) for number, payload in enumerate(payloads)])
        before = self.cpu_ns()
        reply = self._request("invoke", {"count": count, "key": key.hex()})
        after = self.cpu_ns()
        with self._checking("invoke"):
            times, digests = tuple(map(read_count, reply.header["ns"])), list(map(read_text, reply.header["digests"]))
            if not len(times) == len(digests) == count or sum(times) > reply.ns:
                raise ValueError(
                    f"the worker claims {len(times)} inferences in {sum(times)} ns, the controller saw {count} in {reply.ns} ns"
                )
        answers = self._batch_outputs(digests)
        return Batch(reply.ns, times, after - before, time.perf_counter_ns() - started, answers)

    def _batch_outputs(self, digests: Sequence[str]) -> tuple[tuple[tuple[TensorSpec, ...], bytes], ...]:
        """Read the outputs of the batch: those that were there when its inferences had ended."""
        reply = self._request("output", {"count": len(digests)})
        with self._checking("output"):
            answers = [tuple(map(read_tensor, each)) for each in reply.header["outputs"]]
            sizes = [sum(tensor.nbytes for tensor in each) for each in answers]
            if len(answers) != len(digests) or sum(sizes) != len(reply.payload):
                raise ValueError(
                    f"{len(reply.payload)} bytes for {len(answers)} answers of {sum(sizes)} bytes, expected {len(digests)} answers"
                )
            ends = itertools.accumulate(sizes)
            parts = [reply.payload[end - size : end] for size, end in zip(sizes, ends, strict=True)]
            if [digest(part) for part in parts] != digests:
                raise ValueError("outputs that were changed after the inference")
        return tuple(zip(answers, parts, strict=True))

    def picture(self, width: int, height: int, *, crop: bool) -> bytes:
        """Have the file that is in the model's place decoded as an image. Returns its pixels, RGB (decoding.py)."""
        size = {"width": width, "height": height, "crop": crop}
        reply = self._request("picture", {"descriptor": self._model, **size}, max_payload=3 * width * height)
        with self._checking("picture"):
            if len(reply.payload) != 3 * width * height:
                raise ValueError(f"{len(reply.payload)} bytes for {width} x {height} pixels")
        return reply.payload

    def quit(self) -> None:
        """Have everything given back, and see the process end by itself with code 0."""
        self._request("quit", {})
        deadline = time.monotonic() + self._limits.request_seconds
        while not self._receive():
            self._watch(deadline, "quit")
        status = self._ending("quit")
        if status.exit != 0:
            raise WorkerFailure(status, self.output)

    def ended(self) -> Status:
        """Tell how the process ended, once it has: by itself, or ended by somebody else."""
        deadline = time.monotonic() + _END_SECONDS
        while not self._receive() and time.monotonic() < deadline:
            pass
        return self._ending("idle")

    def peak_bytes(self) -> int | None:
        """Return the most memory that the process and what it started were seen to hold, in bytes; None if not all of it was read.

        From the first call on, it is looked at up to ten times a second during a request. A process can lower its own VmHWM
        (/proc/self/clear_refs), so the greatest of all readings counts.
        """
        self._is_weighed = True
        self._weigh()
        return None if self._memory_unread else self._peak

    def group_bytes(self) -> int | None:
        """Return the peak of the worker's control group, in bytes; None where it has none, or has ended."""
        return group.peak_bytes(self._groups, self.pid)

    def memory_bytes(self) -> int | None:
        """Return VmRSS + VmSwap, as the ML service counts a process's memory; None once it has ended, or where it is not read."""
        try:
            lines = status_bytes(self.pid)
        except OSError:
            return None
        return lines["VmRSS"] + lines["VmSwap"]

    def device_bytes(self) -> int | None:
        """Return the most device memory that the process was seen to hold, in bytes; None if that may not be all of it, or was not read.

        It is looked at here, before a request, and up to ten times a second during one: what is held for less than that is not seen.
        """
        self._look_at_device()
        return None if self._device_unread else self._device_peak

    def counted(self) -> Counted:
        """Return what the kernel has counted of the accelerator's work for the process, also for clients that it has closed since."""
        self._look_at_device(thoroughly=True)
        return self._witness.counted()

    def _started(self) -> int:
        """Wait for the worker's start. Returns its process id."""
        deadline = time.monotonic() + self._limits.start_seconds
        while b"\n" not in self._ends:
            if self._receive():
                raise self._failure(Outcome.EXITED, "start", "the worker's supervisor ended by itself")
            if time.monotonic() > deadline:
                raise self._failure(Outcome.TIMED_OUT, "start", "no start in time")
        return read_count(json.loads(self._ends.splitlines()[0])["pid"])

    def _last_words(self) -> dict[str, Any]:
        """What the supervisor said of the worker's end; nothing where it was ended itself."""
        said = self._ends.splitlines()
        return dict(json.loads(said[1])) if len(said) > 1 else {}

    def _request(
        self,
        action: str,
        header: dict[str, Any],
        payload: Sequence[Bytes] = (),
        max_payload: int = wire.MAX_PAYLOAD,
        seconds: float | None = None,
    ) -> Reply:
        reply = self._exchange(action, header, payload, max_payload, seconds)
        if reply is None:
            raise WorkerFailure(self._ending(action), self.output)
        return reply

    def _exchange(
        self,
        action: str,
        header: dict[str, Any],
        payload: Sequence[Bytes] = (),
        max_payload: int = wire.MAX_PAYLOAD,
        seconds: float | None = None,
    ) -> Reply | None:
        """Send a request and wait for its reply; None where the worker ends without one."""
        self._watch_memory(action)
        channel = self._channel
        limit = self._limits.start_seconds if action == "hello" else self._limits.request_seconds
        deadline = time.monotonic() + (limit if seconds is None else seconds)
        self._cpu_before = self.cpu_ns()
        channel.begin(action, {"executor": self._executor, **header} if self._executor else header, payload)
        if waiting := channel.is_pending:
            self._poll.register(channel.requests, select.POLLOUT)
        try:
            while True:
                ended = self._receive()
                if waiting:
                    channel.write()
                    if not channel.is_pending:
                        waiting = False
                        self._poll.unregister(channel.requests)
                with self._checking(action):
                    reply = channel.take(max_payload)
                if reply:
                    return self._accepted(action, reply)
                if ended:
                    return None
                self._watch(deadline, action)
        finally:
            if waiting:
                self._poll.unregister(channel.requests)

    def _receive(self) -> bool:
        """Wait a tick for something to come, and read it. True once the process has ended; then all is read."""
        ready = {descriptor for descriptor, _event in self._poll.poll(0 if self._is_over else _TICK_SECONDS * 1000)}
        if self._end in ready:
            self._read(self._end, self._ends.extend, self._lose)
            self._is_over = self._is_over or self._ends.count(b"\n") > 1
        if self._is_over or self._channel.replies in ready:
            self._read(self._channel.replies, self._channel.received.extend)
        if self._is_over or self._output in ready:
            self._read(self._output, self._log.add)
        return self._is_over

    def _lose(self) -> None:
        """Give the worker up: its supervisor was ended from outside, and so will it be."""
        self._is_over = True

    def _read(self, descriptor: int, keep: Callable[[bytes], None], end: Callable[[], None] = lambda: None) -> None:
        """Read once; at the end of file, look at this descriptor no more."""
        try:
            part = os.read(descriptor, PIPE_BYTES)
        except BlockingIOError:
            return
        if part:
            keep(part)
        else:
            end()
            with contextlib.suppress(KeyError):
                self._poll.unregister(descriptor)

    def _accepted(self, action: str, reply: Reply) -> Reply:
        with self._checking(action):
            error = reply.header.get("error")
            if error is None:
                return reply
            outcome, stage, message = Outcome(error["outcome"]), read_text(error["stage"]), read_text(error["message"])
            if outcome not in _WORKERS_WORDS:
                raise ValueError(f"the worker reports {outcome.value}")
        raise self._failure(outcome, stage, message)

    def _failure(self, outcome: Outcome, stage: str, message: str) -> WorkerFailure:
        return WorkerFailure(Status(outcome, self._role, stage, message=message), self.output)

    @contextlib.contextmanager
    def _checking(self, action: str) -> Iterator[None]:
        try:
            yield
        except (ProtocolError, ValueError, KeyError, TypeError, AttributeError) as problem:
            message = wire.bounded(f"{type(problem).__name__}: {problem}")
            raise self._failure(Outcome.PROTOCOL_ERROR, action, message) from problem

    def _watch(self, deadline: float, action: str) -> None:
        """Hold the worker to its limits while it is waited for."""
        if time.monotonic() > deadline:
            raise self._failure(Outcome.TIMED_OUT, action, "no answer in time")
        used = (self.cpu_ns() - self._cpu_before) / 1e9
        if used > self._limits.cpu_seconds:
            raise self._failure(Outcome.CPU_EXCEEDED, action, f"{used:.1f} s of processor time, the limit is {self._limits.cpu_seconds:g}")
        self._watch_memory(action)

    def _watch_memory(self, action: str) -> None:
        """Look at the memory and at the device, at most once a tick, and for a share of the time."""
        start = time.monotonic()
        if start < self._watched_until:
            return
        resident, limit = self.memory_bytes() or 0, self._limits.memory_bytes
        if resident > limit:
            message = f"{resident} bytes of resident memory, the limit is {limit}"
            raise self._failure(Outcome.OUT_OF_MEMORY, action, message)
        if self._is_weighed:
            self._weigh()
        self._look_at_device()
        took = time.monotonic() - start
        self._watched_until = start + max(_TICK_SECONDS, took / _LOOKS_SHARE)

    def _can_listen(self) -> bool:
        """Whether this process may take a descriptor of the worker's, as it would its listener."""
        try:
            os.close(take_descriptor(self._pidfd, 0))
        except OSError:
            return False
        return True

    def _listen(self, listener: int, policy: Policy) -> Refusals:
        try:
            refusals = Refusals(self.pid, self._pidfd, listener, policy)
        except OSError as problem:
            raise self._failure(Outcome.UNCONFINABLE, "confine", str(problem)) from problem
        self._stack.callback(refusals.close)
        # last in, first out: nobody must wait for an answer when it is closed
        self._stack.callback(self.kill)
        return refusals

    def _weigh(self) -> None:
        try:
            held = read_memory(descendants(self.pid), self._own_files, self._scratch)
            if self._launcher is not None and self._image() == self._launcher:
                return  # it has not become its tool yet
        except ProcessLookupError:
            return
        except OSError:
            self._memory_unread = True
            return
        self._peak = max(self._peak, held.peak, held.mapped + held.beside)

    def _image(self) -> FileId:
        """What the process executes."""
        found = os.stat(f"/proc/{self.pid}/exe")
        return found.st_dev, found.st_ino

    def _look_at_device(self, *, thoroughly: bool = False) -> None:
        use = DeviceUse()
        try:
            use = read_device_use(descendants(self.pid), self._accelerator)
        except ProcessLookupError:
            pass
        except OSError:
            self._device_unread = True
        else:
            self._device_unread = self._device_unread or not use.complete
            self._device_peak = max(self._device_peak or 0, use.bytes)
        self._witness.look(use, thoroughly=thoroughly)

    def _ending(self, action: str) -> Status:
        """Tell how the process ended; it has."""
        end = self._last_words()
        if not end:
            return Status(Outcome.DIED, self._role, action, message="the worker's supervisor was ended from outside")
        if end["exit"] is not None:
            message = f"the process ended by itself with code {end['exit']}"
            return Status(Outcome.EXITED, self._role, action, exit=end["exit"], message=message)
        return self._died(action, end["signal"])

    def _died(self, action: str, number: int) -> Status:
        name = signal.strsignal(number) or "unknown signal"
        if number == signal.SIGKILL and oom_kills() > self._oom_kills:
            message = "killed while the kernel was ending processes for want of memory"
            return Status(Outcome.OUT_OF_MEMORY, self._role, action, signal=number, message=message)
        return Status(Outcome.DIED, self._role, action, signal=number, message=f"the process died of signal {number} ({name})")

    def cpu_ns(self) -> int:
        """Processor time of all threads of the process so far, in ns (watch.py)."""
        return cpu_ns(self.pid)

    def _wait(self) -> None:
        """Wait until the supervisor has ended all; one that does not is ended, and what it made is removed here."""
        if self._supervisor is None:
            return
        process = os.pidfd_open(self._supervisor.pid)
        try:
            if not select.select([process], [], [], _END_SECONDS)[0]:
                self._supervisor.kill()
        finally:
            os.close(process)
        self._supervisor.wait()
        clean(self._scratch, self._groups)


def own_import_path() -> list[str]:
    """Return this process's import path, our own package's place first; relative entries would mean another place there."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [package, *(entry for entry in sys.path if os.path.isabs(entry) and entry != package)]


def descriptors_of(import_path: Sequence[str]) -> list[int]:
    """Return the descriptors that an import path leads through, for a child to inherit: on a device, this program is a file in memory."""
    found = (re.fullmatch("/proc/self/fd/([0-9]+)", entry) for entry in import_path)
    return [int(each[1]) for each in found if each]
