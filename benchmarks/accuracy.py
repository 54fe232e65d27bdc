"""What tells a delegate's faults from its kernels' rounding: the figures behind the limits of zoo-accuracy.follows and .golden.

On the 8-bit stand-in, inputs are random noise; the first table is of the page's mean error (limit 1.5) and of ours. With the folder of the
real models and of photographs as an argument, a second table is of golden images.

The last table is of audits with the device's own tools, simulated: how often a delegate at so many times the page's limit fails or passes.
The tool's figure is a mean over 50 inputs that are the same in every audit. The auditor's own 12 inputs are drawn anew in each. Errors
differ from input to input as a gamma distribution with the page's limit of std_dev has it; on the segmentation model, where that is 17
times the limit of avg_error, with 2.4 times the mean, as measured of half-precision kernels (fixtures/native/diff-fp16.json). A delegate
that computes right for the tool alone shows it no error.

    python benchmarks/accuracy.py [FOLDER]
    python benchmarks/accuracy.py --audits
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
from auditor.statistics import MOST_INPUTS, Verdict, confirm, inputs_needed, within
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


AUDITS, SHARES = 10_000, (0.5, 0.9, 1.1, 2.0)
HALF_PRECISION = 2.63095e-08 / 1.11397e-08


def audits() -> None:
    generator = np.random.default_rng(SEED)
    for model in requirements.load().zoo.models:
        if model.baseline.avg_error is None or model.baseline.std_dev is None:
            continue
        limit, deviation = model.baseline.avg_error, model.baseline.std_dev
        needed = inputs_needed(limit, deviation) or "more"
        print(f"{model.name}: limits {limit:g} and {deviation:g}, {MOST_INPUTS} own inputs ({needed} needed)")
        for share in SHARES:
            spread = min(deviation, HALF_PRECISION * share * limit)
            rows = {"as it is": share * limit, "right for the tool alone": 0.0}
            for name, figure in rows.items():
                failed, passed = _audited(generator, share * limit, spread, figure, limit, deviation)
                wrong = f"false fails {failed:6.2%}" if share < 1 else f"false passes {passed:6.2%}"
                unknown = f"unknown {1 - failed - passed:7.2%}"
                print(f"  {share:3g} x the limit, {name:25} fail {failed:7.2%}, pass {passed:7.2%}, {unknown}: {wrong}")


def _audited(
    generator: np.random.Generator, mean: float, spread: float, figure: float, limit: float, deviation: float
) -> tuple[float, float]:
    """The shares of simulated audits that fail and that pass, by the rule of the finding."""
    shape = (mean / spread) ** 2
    own = generator.gamma(shape, mean / shape, (AUDITS, MOST_INPUTS)).tolist()
    verdicts = [confirm(each, limit, deviation) if within(figure, limit) else Verdict.MISSED for each in own]
    return verdicts.count(Verdict.MISSED) / AUDITS, verdicts.count(Verdict.MET) / AUDITS


if __name__ == "__main__":
    if sys.argv[1:] != ["--audits"]:
        stand_in()
    if len(sys.argv) > 1 and sys.argv[1] != "--audits":
        photographs(sys.argv[1])
    audits()
