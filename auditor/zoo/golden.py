"""Golden images: how an image becomes a model's input, how it is varied, and how two answers to it are compared.

Random noise proves little where a model answers all noise alike; a photograph does. The images are public, so a delegate could know
them, and answer by heart: hence each is mirrored or not, moved a few pixels and made darker or brighter, as drawn in each run, and the
delegate is compared with the reference's answer to that very picture. What this leaves open: a delegate that recognises a picture
whatever is done to it, and keeps an answer that it moves and mirrors in the same way; and one that tells photographs from noise by
looking at them, and only computes those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from auditor.zoo.catalogue import Golden, Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from auditor.tflite.graph import Graph
    from auditor.tflite.tensors import TensorSpec

MOST_PIXELS_MOVED = 4
BRIGHTNESS = (0.9, 1.1)
MASKED = 0.5
"""A pixel of a mask is set above this."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The size that an image is brought to; with `crop`, its top is cut out in these proportions first."""

    width: int
    height: int
    crop: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """An image brought to a size; `pixels` are RGB, a byte each, row by row."""

    name: str
    sha256: str
    frame: Frame
    pixels: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The golden images of one model, and what a class or a mask is in its output. `note` says which images could not be used."""

    recipe: Golden
    pictures: tuple[Picture, ...] = ()
    note: str = ""
    scale: float = 0.0
    """Of the output, where it is quantized as a whole: the values are scale * (raw - zero_point). 0 where it is not."""
    zero_point: int = 0


@dataclass(frozen=True, slots=True)
class Variation:
    """What is done to a picture: mirrored, moved right and down by pixels (edges repeated), values multiplied."""

    mirrored: bool = False
    right: int = 0
    down: int = 0
    brightness: float = 1.0


def frame_of(recipe: Golden, graph: Graph) -> Frame | None:
    """The size of a model's one image; None where it takes something else."""
    shapes = [tensor.shape for tensor in graph.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1 or shapes[0][3] != 3 or not 0 < math.prod(shapes[0]) <= 1 << 24:
        return None
    return Frame(shapes[0][2], shapes[0][1], recipe.crop)


def draw(generator: np.random.Generator) -> Variation:
    """Draw a variation; none leaves the picture as it is."""
    right, down = (int(each) for each in generator.integers(-MOST_PIXELS_MOVED, MOST_PIXELS_MOVED + 1, 2))
    return Variation(bool(generator.integers(2)), right, down, float(generator.uniform(*BRIGHTNESS)))


def input_bytes(picture: Picture, spec: TensorSpec, recipe: Golden, variation: Variation = Variation()) -> bytes:
    """Return the bytes of a model's input. Raises ValueError for an input that no image fits."""
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    shape = (1, picture.frame.height, picture.frame.width, 3)
    if spec.shape != shape or spec.dtype not in {"float32", "int8", "uint8"}:
        raise ValueError(f"input {spec.dtype}{list(spec.shape)}, expected float32, int8 or uint8{list(shape)}")
    pixels = np.frombuffer(picture.pixels, np.uint8).reshape(shape[1:]).astype(np.float64)
    if variation.mirrored:
        pixels = pixels[:, ::-1]
    rows = np.clip(np.arange(shape[1]) - variation.down, 0, shape[1] - 1)
    columns = np.clip(np.arange(shape[2]) - variation.right, 0, shape[2] - 1)
    values = np.clip(np.rint(pixels[rows][:, columns] * variation.brightness), 0, 255)
    if spec.dtype == "float32":
        low, high = recipe.range
        return bytes((low + values * ((high - low) / 255)).astype(np.float32).tobytes())
    return bytes((values - 128 if spec.dtype == "int8" else values).astype(spec.dtype).tobytes())


def figures(golden: GoldenSet, output: bytes, spec: TensorSpec) -> dict[str, Any] | None:
    """What the metric sees in one output: {class, probability, margin: to the next} or {share}; None where it is not all finite."""
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    values = _values(golden, output, spec)
    if not values.size or not np.isfinite(values).all():
        return None
    if golden.recipe.metric is Metric.MASK:
        return {"share": float((values > MASKED).mean())}
    chances = _probabilities(values)
    order = np.argsort(-chances, kind="stable")
    best, next_best = (float(chances[index]) for index in (order[0], order[min(1, len(order) - 1)]))
    return {"class": int(order[0]), "probability": best, "margin": best - next_best}


def agreement(golden: GoldenSet, spec: TensorSpec, reference: bytes, test: bytes) -> float:
    """How far two answers agree: 1 or 0 for the same class or another; for masks, what both cover over what either covers."""
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    left, right = (_values(golden, data, spec) for data in (reference, test))
    if not left.size or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return 0.0
    if golden.recipe.metric is Metric.TOP_1:
        return float(np.argmax(left) == np.argmax(right))
    either = int(((left > MASKED) | (right > MASKED)).sum())
    return float(((left > MASKED) & (right > MASKED)).sum() / either) if either else 1.0


def idle_error(outputs: Sequence[bytes], spec: TensorSpec) -> float | None:
    """Return the least mean error of a delegate that computes nothing: zeros, the answer before, or one answer to all inputs.

    The one answer is the mean of the reference's answers to the other inputs. None where a value is not finite, or there is none, or the
    answers are not all of one size.
    """
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    answers = [np.frombuffer(data, spec.dtype).astype(np.float64) for data in outputs]
    sizes = {each.size for each in answers}
    if len(sizes) != 1 or 0 in sizes or not all(np.isfinite(each).all() for each in answers):
        return None
    errors = [float(np.mean([np.abs(each).mean() for each in answers]))]
    if len(answers) > 1:
        mean = sum(answers) / len(answers)
        errors.append(float(np.mean([np.abs(one - two).mean() for one, two in pairwise(answers)])))
        errors.append(float(np.mean([np.abs(each - mean).mean() for each in answers])) * len(answers) / (len(answers) - 1))
    return min(errors)


def _values(golden: GoldenSet, output: bytes, spec: TensorSpec) -> npt.NDArray[np.float64]:
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    raw = np.frombuffer(output, spec.dtype).astype(np.float64)
    return (raw - golden.zero_point) * golden.scale if golden.scale else raw


def _probabilities(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The values themselves where they are probabilities: none is negative, and they add up to one. Else their softmax."""
    import numpy as np  # noqa: PLC0415 - only those who measure pay for it

    if values.min() >= 0 and abs(values.sum() - 1) < 0.1:
        return values
    powers: npt.NDArray[np.float64] = np.exp(values - values.max())
    powers /= powers.sum()
    return powers
