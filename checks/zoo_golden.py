"""zoo-<model>-accuracy, on golden images: photographs show what noise cannot, that a delegate computes the model at all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditor.model import Answer, Level, Outcome, Owner, Remedy, check
from checks.zoo_runs import TIMED, cited, invalid, judge_file, witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from auditor.facts.types import Facts, ModelResult
    from auditor.model import ModelRun, Requirement

AGREED = {"top-1": 1.0, "mask": 0.95}
"""What an answer must agree with the reference's. Of honest kernels, masks agree by 1.0000; with weights in bfloat16, by 0.97."""
CLEAR = 0.1
"""By how much the reference's first class must be ahead of the next, or honest kernels differ in it."""
FILLED = (0.01, 0.99)
"""Share of the picture in the reference's mask: one that is empty or full says nothing."""
IDLE_SHARE = 1 / 8
"""The mean error on all images, by that of a delegate that computes nothing. Of honest kernels 0.06 at most; of an answer known by heart
to the image as it is published, 0.25. `benchmarks/accuracy.py` prints them."""


@check(
    "zoo-accuracy.golden",
    each="model",
    level=Level.SHOULD,
    expected="on each golden image, the reference's class, or its mask by at least 95 % (intersection over union)",
    passes="The delegate sees in the golden images what the CPU sees.",
    fails="The delegate sees something else in a golden image than the CPU does.",
    not_applicable="No golden image lies beside the model, or an image means nothing to it.",
    remediation="Compare operator by operator on this image; the run document holds its digest and how it was varied.",
    owner=Owner.VENDOR,
)
def golden(facts: Facts, requirement: Requirement) -> Iterator[Answer]:
    """Images (BMP, JPEG, PNG) that lie beside the models are given to the reference and, between the timed noise inputs, to the delegate.

    A classifier must find the reference's class, a segmentation its mask. An image counts where the reference's class is clearly ahead, or
    its mask neither empty nor full; a classifier is only judged where two images have different classes, or one answer to all would pass.
    The mean error must also be at most an eighth of what a delegate that computes nothing would have.

    The images are public, so each is mirrored, moved and made brighter or darker as drawn in each run, and the delegate is compared with
    the reference's answer to that very picture: one that knows an image by its digest, or answers as to the published one, fails. What
    remains possible: to recognise an image whatever was done to it and keep answers that are changed in the same way, and to tell
    photographs from noise by their content and compute only one of them. Images of your own beside the models leave no room for the first.

    Where noise proves nothing (zoo-accuracy.baseline), a pass here in every run lets the page's bound decide; a failure here does not
    fail the page's bound.
    """
    yield from judge_file(facts, requirement, _judge)


def _judge(facts: Facts, result: ModelResult, runs: tuple[ModelRun, ...], _requirement: Requirement) -> Iterator[Answer]:
    if all(run.golden is None for run in runs) and all(run.status == "completed" for run in runs):
        yield Answer(Outcome.NOT_APPLICABLE, "no golden image", cited(result))
        return
    void = invalid(facts, result, runs, broken=Outcome.FAIL)
    yield void or witnessed(replace(judge_images(runs), evidence=cited(result)), runs, TIMED)


def judge_images(runs: tuple[ModelRun, ...]) -> Answer:
    """What the golden images say of a model's completed runs: the worst of them."""
    answers = [_of_run(run.golden) for run in runs]
    return min(answers, key=lambda answer: (Outcome.FAIL, Outcome.UNKNOWN, Outcome.PASS).index(answer.outcome))


def _of_run(golden: Any) -> Answer:
    """The answer from one run's golden images; all figures were checked when they were read (facts/runs.py)."""
    pictures = golden["pictures"] if golden else ()
    note = golden["note"] if golden else "not in every run"
    if not pictures:
        remediation = "Have images of the kind beside the models, and `pip install 'crosml-audit[images]'` to decode them."
        return Answer(
            Outcome.UNKNOWN,
            note or "none was answered in time",
            because="No golden image could be used.",
            remedy=Remedy.ZOO,
            remediation=remediation,
        )
    metric, idle = golden["metric"], golden["idle_error"]
    observed = "; ".join((*map(_shown, pictures), *([note] if note else [])))
    spoilt = [each for each in pictures if each["reference"] and not each["test"]]
    wrong = [each for each in pictures if each["test"] and _decisive(metric, each) and each["agreement"] < AGREED[metric]]
    if spoilt or wrong:
        because = "The delegate alone gives NaN or infinity." if spoilt else None
        return Answer(Outcome.FAIL, "; ".join(map(_shown, spoilt or wrong)), because=because)
    decisive = [each["reference"].get("class") for each in pictures if _decisive(metric, each)]
    if not decisive or (metric == "top-1" and len(set(decisive)) < 2):
        because = "No two images have clear and different classes." if metric == "top-1" else "No image's mask is neither empty nor full."
        return Answer(Outcome.UNKNOWN, observed, because=f"To the reference itself, these images say nothing. {because}", remedy=Remedy.ZOO)
    errors = [each["avg_error"] for each in pictures if each["avg_error"] is not None]
    error = sum(errors) / len(errors)
    if idle is None:
        return Answer(Outcome.UNKNOWN, observed, because="The reference gives NaN or infinity for one of the images.", remedy=Remedy.ZOO)
    observed += f"; mean error {error:.3g}, without computing {idle:.3g}"
    if error > IDLE_SHARE * idle:
        because = "What it sees is right, but its values are too far off to be computed from these pictures."
        return Answer(Outcome.FAIL, observed, because=because)
    return Answer(Outcome.PASS, observed)


def _decisive(metric: str, picture: Any) -> bool:
    """Whether the reference's answer to an image is one that honest kernels agree in, and that others do not have by chance."""
    reference = picture["reference"]
    if not reference:
        return False
    return bool(reference["margin"] >= CLEAR if metric == "top-1" else FILLED[0] <= reference["share"] <= FILLED[1])


def _shown(picture: Any) -> str:
    test, reference = (_seen(picture[side]) for side in ("test", "reference"))
    agreed = f", agreement {picture['agreement']:.4g}" if picture["agreement"] < 1 else ""
    return f"{picture['name']} ({picture['sha256'][:12]}): {test}, reference {reference}{agreed}"


def _seen(figures: Any) -> str:
    if not figures:
        return "not finite"
    return f"class {figures['class']} ({figures['probability']:.3f})" if "class" in figures else f"mask {figures['share']:.3f}"
