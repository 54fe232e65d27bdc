"""Whether a delegate's answers follow the inputs as the reference's do, and how far they lie beside them; of many inferences of one output.

The page's bound is a mean error, and random weights in 8 bits make one that says little: a rounding here or there changes as much as a
channel that is dead. What rounding does not do is answer as if to another input, or all answers with the same offset.
"""

from __future__ import annotations

import math
from typing import Any

FEWEST = 20
"""Inputs, below which chance alone may look like an offset."""


class Tracking:
    """Sums over inferences. It needs numpy; an inference with a NaN or an infinity on either side is left out.

    Of outputs whose size goes by the input, nothing is known.
    """

    def __init__(self) -> None:
        self._runs, self._sizes = 0, set[int]()
        self._reference: Any = 0.0
        self._test: Any = 0.0
        self._difference: Any = 0.0
        self._squares = [0.0, 0.0, 0.0, 0.0]

    def add(self, dtype: str, reference: bytes, test: bytes) -> None:
        """Take one inference's output, both as bytes of `dtype`."""
        import numpy as np  # noqa: PLC0415 - only those who measure pay for it

        left, right = (np.frombuffer(data, dtype).astype(np.float64) for data in (reference, test))
        self._sizes.add(left.size)
        if len(self._sizes) > 1 or not (np.isfinite(left).all() and np.isfinite(right).all()):
            return
        difference = right - left
        self._runs += 1
        self._reference += left
        self._test += right
        self._difference += difference
        pairs = ((left, left), (right, right), (left, right), (difference, difference))
        self._squares = [total + float(one @ two) for total, (one, two) in zip(self._squares, pairs, strict=True)]

    def correlation(self) -> float | None:
        """Between both sides' answers, each element less its mean over the inputs: 1 is perfect, 0 is no relation.

        None where the reference answers every input alike, or there were not two.
        """
        reference, test, both, _ = self._centred()
        if reference <= 0:
            return None
        return max(-1.0, min(1.0, both / math.sqrt(reference * test))) if test > 0 else 0.0

    def offset(self, inputs: int) -> float | None:
        """How far the answers lie beside the reference's in the mean of all inputs, by how far the reference's differ between inputs.

        Root mean squares over the elements; what differences of either sign leave by chance over `inputs` inputs is taken off.
        None where the reference answers every input alike, or there were too few.
        """
        reference, _, _, difference = self._centred()
        distinct = min(inputs, self._runs)
        if reference <= 0 or distinct < FEWEST:
            return None
        mean = self._difference / self._runs
        variance = difference / self._runs * distinct / (distinct - 1)
        own = reference / self._runs * distinct / (distinct - 1)
        return math.sqrt(max(0.0, float(mean @ mean) - variance / distinct) / own)

    def _centred(self) -> list[float]:
        """The sums of products, less those of the means; zeros without two inferences."""
        if self._runs < 2 or len(self._sizes) > 1:
            return [0.0] * 4
        sums = (
            (self._reference, self._reference),
            (self._test, self._test),
            (self._reference, self._test),
            (self._difference, self._difference),
        )
        centred = [square - float(one @ two) / self._runs for square, (one, two) in zip(self._squares, sums, strict=True)]
        # what is less than the digits of a sum is nothing
        return [
            value if index == 2 or value > 1e-12 * square else 0.0
            for index, (value, square) in enumerate(zip(centred, self._squares, strict=True))
        ]
