"""What tells a delegate's faults from its kernels' rounding: the figures behind the limits of zoo-accuracy.follows and .golden.

On the 8-bit stand-in, inputs are random noise; the first table is of the page's mean error (limit 1.5) and of ours. With the folder of the
real models and of photographs as an argument, a second table is of golden images.

    python benchmarks/accuracy.py [FOLDER]
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

import numpy as np

from auditor import requirements
from auditor.bench.pictures import decode_all
from auditor.bench.tracking import Tracking
from auditor.inference.process import Worker
from auditor.inference.watch import Limits
from auditor.inference.wire import AUTO
from auditor.inference.worker.confine import Policy
from auditor.tflite.graph import read_graph
from auditor.tflite.rewrite import without_custom_deconvolution
from auditor.tflite.tensors import TensorSpec, compare, make_inputs
from auditor.zoo import golden
from auditor.zoo.find import find_images, find_models
from auditor.zoo.generate import generate
from auditor.zoo.golden import GoldenSet
from checks.zoo_accuracy import CORRELATED, OFFSET
from checks.zoo_golden import AGREED, IDLE_SHARE
from fixtures import faults

if TYPE_CHECKING:
    from collections.abc import Sequence

INPUTS, SEED = 50, 20260101
FAULTS = {
    "lost bias, layer 2": lambda model: faults.lost_bias(model, 2),
    "lost bias, layer 20": lambda model: faults.lost_bias(model, 20),
    "lost bias, last layer": lambda model: faults.lost_bias(model, -1),
    "dead channel, layer 5": lambda model: faults.dead_channel(model, 5),
    "dead channel, layer 20": lambda model: faults.dead_channel(model, 20),
    "dead channel, layer 30 (not told apart)": lambda model: faults.dead_channel(model, 30),
    "fewer bits": faults.fewer_bits,
}


def answers(model: bytes, inputs: Sequence[bytes], *, xnnpack: bool = True) -> list[bytes]:
    """What the service's worker answers: its one output."""
    found = []
    with Worker("reference", model, Limits()) as worker:
        worker.hello(AUTO)
        worker.confine(Policy(), required=False)
        worker.load_model(1, xnnpack=xnnpack)
        for each in inputs:
            worker.set_inputs(each)
            worker.invoke()
            found.append(worker.outputs()[1])
        worker.quit()
    return found


def track(spec: TensorSpec, reference: Sequence[bytes], test: Sequence[bytes]) -> tuple[float, float, float]:
    """The mean error, the correlation and the offset."""
    tracking = Tracking()
    for left, right in zip(reference, test, strict=True):
        tracking.add(spec.dtype, left, right)
    errors = [compare(spec, left, right).mean or 0.0 for left, right in zip(reference, test, strict=True)]
    return float(np.mean(errors)), tracking.correlation() or 0.0, tracking.offset(len(reference)) or 0.0


def stand_in() -> None:
    model = generate("mobilenet_v2_1.0_224_quant")
    generator = np.random.default_rng(SEED)
    given, spec = TensorSpec("", (1, 224, 224, 3), "uint8"), TensorSpec("", (1, 1001), "uint8")
    inputs = [make_inputs([given], generator) for _ in range(INPUTS)]
    reference = answers(model, inputs)
    print(f"8-bit stand-in, {INPUTS} inputs, seed {SEED}; limits: error 1.5, correlation {CORRELATED}, offset {OFFSET}")
    rows = {"honest: builtin kernels": answers(model, inputs, xnnpack=False), "answer to another input": reference[1:] + reference[:1]}
    for name, make in FAULTS.items():
        rows[name] = answers(make(model), inputs)
    for name, test in rows.items():
        error, correlation, offset = track(spec, reference, test)
        ratios = f"correlation / limit {correlation / CORRELATED:5.2f}, offset / limit {offset / OFFSET:6.2f}"
        print(f"  {name:40} error {error:6.3f}, {ratios}, {'PASS' if correlation >= CORRELATED and offset <= OFFSET else 'FAIL'}")


def photographs(folder: str) -> None:
    generator = np.random.default_rng(SEED)
    for found in find_models(folder, requirements.load().zoo.models).values():
        recipe = found.model.golden
        if recipe is None:
            continue
        model = without_custom_deconvolution(found.content)
        graph = read_graph(model)
        frame = golden.frame_of(recipe, graph)
        assert frame is not None
        pictures, _problems = decode_all(find_images(folder), [frame], allow_unconfined=True)
        (output,) = graph.outputs
        images = GoldenSet(recipe, pictures, "", output.scale, output.zero_point)
        kind = "uint8" if output.type == "UINT8" else "float32"
        given, spec = TensorSpec("", graph.inputs[0].shape, kind), TensorSpec("", output.shape, kind)
        plain = [golden.input_bytes(each, given, recipe) for each in pictures]
        inputs = [golden.input_bytes(each, given, recipe, golden.draw(generator)) for each in pictures]
        reference = answers(model, inputs)
        idle = golden.idle_error(reference, spec) or 0.0
        limit = AGREED[recipe.metric.value]
        print(f"{found.model.name}, {len(pictures)} images, seed {SEED}; limits: agreement {limit}, error {IDLE_SHARE} of doing nothing")
        rows = {"honest: builtin kernels": answers(model, inputs, xnnpack=False), "known by heart": answers(model, plain)}
        if kind == "uint8":
            rows |= {name: answers(make(model), inputs) for name, make in FAULTS.items()}
        agree = functools.partial(golden.agreement, images, spec)
        for name, test in rows.items():
            agreed = min(map(agree, reference, test))
            error = float(np.mean([compare(spec, left, right).mean for left, right in zip(reference, test, strict=True)]))
            passes = agreed >= limit and error <= IDLE_SHARE * idle
            print(
                f"  {name:40} least agreement {agreed:.4f}, error / limit {error / idle / IDLE_SHARE:7.4f}, {'PASS' if passes else 'FAIL'}"
            )


if __name__ == "__main__":
    stand_in()
    if len(sys.argv) > 1:
        photographs(sys.argv[1])
