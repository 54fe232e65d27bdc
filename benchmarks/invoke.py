"""The embedded runner's figure of an inference against a C loop over the runtime's own Invoke: the budget is less than 1 % at 1 ms.

One confined worker, as the zoo's, holds one interpreter. In turn, in blocks, the same inference is timed three ways: by the runner (a
request for each, inputs set before and outputs read after), by the worker's own code without the exchange, and by a loop in C that calls
tflite::Interpreter::Invoke between two readings of the clock, after copying the inputs, as benchmark_model does. Neighbouring blocks are
compared, so that what the machine does meanwhile meets all three alike.

The loops keep the processor's caches and predictors warm, as benchmark_model does. Between two inferences of the runner lie an exchange
with another process, a copy of every tensor through the kernel, and whatever else the machine gave the processor to: its inferences are
colder, and that is no work of the runner's within its clock. Both differences are printed.

Only tflite-runtime exports that function: `make .venv-tflite/.dev`, then `.venv-tflite/bin/python benchmarks/invoke.py`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from auditor.bench.embedded import BATCH
from auditor.inference import process
from auditor.inference.process import Worker
from auditor.inference.watch import Limits
from auditor.inference.worker import main as worker
from auditor.inference.worker.confine import Policy
from auditor.statistics import student_interval
from auditor.tflite.tensors import make_inputs
from auditor.zoo.generate import generate

MODEL = "selfie_segmentation_landscape_256x256"
"""The fastest stand-in: 1.2 ms on a quiet machine."""
SEED, BLOCKS, INFERENCES = 20230113, 20, 160
INVOKE = "_ZN6tflite4impl11Interpreter6InvokeEv"
BUDGET = 0.01

SOURCE = r"""
#include <stdint.h>
#include <string.h>
#include <time.h>

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int loop(int (*invoke)(void *), void *interpreter, void *tensor, const void *input, size_t size, int count, int64_t *ns) {
    for (int i = 0; i < count; i++) {
        memcpy(tensor, input, size);
        int64_t started = now();
        int status = invoke(interpreter);
        ns[i] = now() - started;
        if (status) return status;
    }
    return 0;
}
"""

BOOTSTRAP = """\
import json, sys
first, sys.path[:] = json.loads(sys.argv[1])
import invoke
from auditor.inference.worker import main as worker
worker.Session = invoke.Timed
sys.path[:0] = first
worker.main(int(sys.argv[2]), int(sys.argv[3]))
"""


class Timed(worker.Session):
    """A worker that can also time many inferences at one request: in C, and in its own way."""

    def do_loops(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Return nanoseconds of each inference by `how`: `c` or `python`."""
        count, interpreter = header["count"], self._interpreter
        if header["how"] == "python":
            times = []
            for _ in range(count):
                self.do_input({}, payload)
                times.append(self.do_invoke({}, b"")[0]["ns"])
            return {"ns": times}, b""
        runtime = ctypes.CDLL(header["runtime"])
        address = ctypes.cast(runtime[INVOKE], ctypes.c_void_p)
        (tensor,) = interpreter.get_input_details()
        view = interpreter.tensor(tensor["index"])()
        data = view.ctypes.data
        del view  # the runtime refuses to run while someone holds its memory
        ns = (ctypes.c_int64 * count)()
        loop = ctypes.CDLL(header["library"]).loop
        loop.argtypes = (ctypes.c_void_p,) * 4 + (ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
        status = loop(address, interpreter._native_handle(), data, payload, len(payload), count, ns)  # noqa: SLF001
        if status:
            raise RuntimeError(f"Invoke returned {status}")
        return {"ns": list(ns)}, b""


def compiled(folder: str) -> str:
    path = f"{folder}/loop.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=SOURCE.encode(), check=True)
    return path


def by_runner(each: Worker, inputs: bytes) -> list[int]:
    """As embedded._timed does it."""
    times: list[int] = []
    while len(times) < INFERENCES:
        times += each.run_batch([inputs] * BATCH).worker_ns
    return times


def in_the_worker(each: Worker, how: str, inputs: bytes, library: str, runtime: str) -> list[int]:
    header = {"how": how, "count": INFERENCES, "library": library, "runtime": runtime}
    times: list[int] = each._request("loops", header, inputs).header["ns"]  # noqa: SLF001
    return times


def measure(library: str, runtime: str) -> dict[str, list[list[int]]]:
    """Nanoseconds of each inference, in blocks, by way; the order of the ways changes from block to block."""
    import numpy as np  # noqa: PLC0415  # the worker imports this file, too

    order = random.Random(SEED)  # noqa: S311
    blocks: dict[str, list[list[int]]] = {"runner": [], "python": [], "c": []}
    process._COMMAND = (*process._COMMAND[:-1], BOOTSTRAP)  # type: ignore[assignment]  # noqa: SLF001
    with Worker("test", generate(MODEL), Limits()) as each:
        each.hello("tflite-runtime")
        each.confine(Policy((library, runtime)), required=False)
        loaded = each.load_model(1, xnnpack=True)
        inputs = make_inputs(loaded.inputs, np.random.default_rng(SEED))
        ways = {
            "runner": lambda: by_runner(each, inputs),
            "python": lambda: in_the_worker(each, "python", inputs, library, runtime),
            "c": lambda: in_the_worker(each, "c", inputs, library, runtime),
        }
        for way in ways.values():
            way()  # warm up
        for _ in range(BLOCKS):
            for name in order.sample(list(ways), len(ways)):
                blocks[name].append(ways[name]())
        each.quit()
    return blocks


def ratios(blocks: dict[str, list[list[int]]], way: str, fold: Any) -> str:
    """The mean ratio of a way to the loop in C over paired blocks, with a Student interval (95 %) of its logarithm."""
    logs = [math.log(fold(own) / fold(c)) for own, c in zip(blocks[way], blocks["c"], strict=True)]
    interval = student_interval(logs, 0.95)
    return f"{math.exp(interval.mean):.4f} [{math.exp(interval.low):.4f}, {math.exp(interval.high):.4f}]"


def main() -> None:
    if importlib.util.find_spec("tflite_runtime") is None:
        print("not run: ai-edge-litert exports no Interpreter::Invoke to call from C; tflite-runtime does:")
        print("  make .venv-tflite/.dev && .venv-tflite/bin/python benchmarks/invoke.py")
        return
    if shutil.which("cc") is None:
        print("not run: no C compiler (apt-get install gcc libc6-dev)")
        return
    package = Path(str(importlib.util.find_spec("tflite_runtime").origin)).parent  # type: ignore[union-attr]
    runtime = next(str(path) for path in sorted(package.glob("*interpreter_wrapper*.so")))
    with tempfile.TemporaryDirectory() as folder:
        blocks = measure(compiled(folder), runtime)
    print(f"{MODEL}, tflite-runtime, 1 thread; {BLOCKS} blocks of {INFERENCES} inferences each way, order by seed {SEED}")
    print(f"{'':<36}{'minimum us':>11}{'median us':>11}   ratio of minimums, paired    ratio of medians, paired")
    names = {"c": "C loop over Invoke", "python": "the worker's code, no exchange", "runner": "the runner, a batch a request"}
    for way, name in names.items():
        times = [ns for block in blocks[way] for ns in block]
        told = "" if way == "c" else f"   {ratios(blocks, way, min):<29}{ratios(blocks, way, statistics.median)}"
        print(f"{name:<36}{min(times) / 1e3:>11.1f}{statistics.median(times) / 1e3:>11.1f}{told}")
    for way, what in (("python", "the cost of timing in Python"), ("runner", "that, and a colder start of each inference")):
        differences = [min(own) - min(c) for own, c in zip(blocks[way], blocks["c"], strict=True)]
        apart = statistics.median(differences) / 1e6
        kept = "kept" if apart < BUDGET else "MISSED"
        print(f"{names[way]}: {apart * 1e3:+.1f} us ({what}), {apart:+.2%} at 1 ms; budget < {BUDGET:.0%}: {kept}")


if __name__ == "__main__":
    sys.exit(main())
