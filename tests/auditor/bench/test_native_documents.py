"""What the real tools printed, all of it: `fixtures/native` has 47 runs of three builds (release, verbose, without percentiles)."""

from __future__ import annotations

import functools
import glob
import json
import math
import os
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.bench.native_output import End, Line, ending, lines, read_benchmark, read_differences, repeated, shares

FOLDER = os.path.join(os.path.dirname(__file__), *[os.pardir] * 3, "fixtures", "native")
OPERATORS = {"mobilenet_v2_1.0_224_quant": 65, "selfie_segmentation_landscape_256x256": 246}
LISTING, RUNTIME, OWN, TOOL = "listing of nodes", "runtime's count", "delegate's own count", "benchmark_model"

CPU = "the EXTERNAL delegate was not created, and it went on on the CPU"
STABLE = "the STABLE_DELEGATE delegate was not created, and it went on on the CPU: "
DECONVOLUTION = "the tool has no operator Convolution2DTransposeBias: Encountered unresolved custom op: Convolution2DTransposeBias."
INVOKE = "it ended with code 1: Node number 65 (DummyDelegate) failed to invoke."

# warm-up and timed inferences, their mean in microseconds, the peak in MiB; what each source says was delegated; how it failed
BENCHMARKS = {
    "benchmark-cpu-verbose": ((30, 50, 19379.4, 19.8594), (), None, ""),
    "benchmark-cpu-without-percentiles": ((34, 50, 16653.7, 20.0312), (), None, ""),
    "benchmark-cpu": ((21, 50, 23298.3, 19.6875), (), None, ""),
    "benchmark-custom-operator-external": (None, (), End.OPERATOR, DECONVOLUTION),
    "benchmark-custom-operator": (None, (), End.OPERATOR, DECONVOLUTION),
    "benchmark-external-verbose": ((32, 50, 19014.4, None), ((RUNTIME, 64, 65, 2),), None, ""),
    "benchmark-external-without-percentiles": ((36, 50, 14712.8, None), (), None, ""),
    "benchmark-external": ((22, 50, 22389.0, None), (), None, ""),
    "benchmark-invoke-error": (None, ((OWN, 36, 65, 29),), End.INVOKE, INVOKE),
    "benchmark-missing-library-verbose": ((31, 50, 14648.9, None), (), End.NOT_APPLIED, CPU),
    "benchmark-missing-library-without-percentiles": ((18, 50, 26676.9, None), (), End.NOT_APPLIED, CPU),
    "benchmark-missing-library": ((22, 50, 28999.2, None), (), End.NOT_APPLIED, CPU),
    "benchmark-mistyped-option": ((18, 50, 25255.3, None), (), End.NOT_APPLIED, CPU),
    "benchmark-no-entry-point": ((18, 50, 26927.1, None), (), End.NOT_APPLIED, CPU),
    "benchmark-no-model": (None, (), End.CODE, "it ended with code 1: Could not open '/none.tflite'."),
    "benchmark-one-run-verbose": ((1, 1, 547279.0, None), (), None, ""),
    "benchmark-one-run-without-percentiles": ((1, 1, 561447.0, None), (), None, ""),
    "benchmark-one-run": ((1, 1, 610129.0, None), (), None, ""),
    "benchmark-partial-convolutions-verbose": ((5, 5, 95444.6, None), ((RUNTIME, 36, 65, 29),), None, ""),
    "benchmark-partial-convolutions": ((6, 5, 93936.2, None), ((OWN, 36, 65, 29),), None, ""),
    "benchmark-partial-preinvoke-state": ((7, 2, 79215.0, None), ((LISTING, 36, 65, 29),), None, ""),
    "benchmark-preinvoke-state": ((22, 50, 30207.2, None), ((LISTING, 64, 65, 2),), None, ""),
    "benchmark-prepare-error": (None, (), End.REFUSED, "it ended with code 1: Node number 65 (DummyDelegate) failed to prepare."),
    "benchmark-selfie-external": ((80, 74, 6717.69, None), ((TOOL, 246, 246, 1),), None, ""),
    "benchmark-stable-external": (
        (1, 50, 404313.0, None),
        (),
        End.NOT_APPLIED,
        STABLE + "Failed to find TFL_TheStableDelegate symbol: TOOLS/libxnn_external.so: undefined symbol: TFL_TheStableDelegate",
    ),
    "benchmark-stable-nolib": (
        (2, 50, 519087.0, None),
        (),
        End.NOT_APPLIED,
        STABLE + "Failed to open library TOOLS/nothere_delegate.so: "
        "TOOLS/nothere_delegate.so: cannot open shared object file: No such file or directory",
    ),
    "benchmark-stable-sample": ((2, 50, 328686.0, None), ((TOOL, 0, 65, 0),), None, ""),
    "benchmark-stable-typo": (
        (2, 50, 310686.0, None),
        (),
        End.NOT_APPLIED,
        STABLE + "Failed to parse the delegate settings file (SETTINGS/typo.json).",
    ),
    "benchmark-stable-typo2": (
        (2, 50, 454846.0, None),
        (),
        End.NOT_APPLIED,
        STABLE + "Failed to parse the delegate settings file (SETTINGS/typo2.json).",
    ),
    "benchmark-stable-unquoted": ((38, 50, 11790.9, None), (), None, ""),
    "benchmark-stable-xnn": ((43, 50, 10661.3, None), (), None, ""),
    "benchmark-takes-nothing-verbose": ((1, 50, 506903.0, None), ((TOOL, 0, 65, 0),), None, ""),
    "benchmark-takes-nothing-without-percentiles": ((1, 50, 844206.0, None), ((TOOL, 0, 65, 0),), None, ""),
    "benchmark-takes-nothing": ((1, 50, 636138.0, None), ((TOOL, 0, 65, 0),), None, ""),
    "benchmark-undefined-symbol": (
        None,
        (),
        End.CODE,
        "it ended with code 127: TOOLS/benchmark_model: symbol lookup error: TOOLS/t_undef.so: undefined symbol: missing_symbol_xyz",
    ),
    "benchmark-unknown-flag": ((38, 75, 13428.7, None), (), None, ""),
}
# runs, mean and deviation of each output's error; how it failed
DIFFERENCES = {
    "diff-cpu": (10, (("0.0", "0.0"),), None, ""),
    "diff-external-verbose": (10, (("0.0", "0.0"),), None, ""),
    "diff-external": (10, (("0.0", "0.0"),), None, ""),
    "diff-fp16": (10, (("1.11397e-08", "2.63095e-08"),), None, ""),
    "diff-graph-instead-of-model-file": (None, None, End.CODE, "it ended with code 1: Model file not found"),
    "diff-invoke-error": (None, None, End.INVOKE, INVOKE),
    "diff-missing-library": (3, (("0.0", "0.0"),), End.NOT_APPLIED, CPU),
    "diff-nan": (3, (("nan", "nan"),), None, ""),
    "diff-partial-convolutions": (5, (("61.0066", "0.142264"),), None, ""),
    "diff-stable": (5, (("0.0", "0.0"),), None, ""),
    "diff-takes-nothing": (10, (("0.0", "0.0"),), None, ""),
}
# what the delegates that were used print of their own
VENDORS = re.compile(r"^INFO: Dummy delegate: \w+ set to -?\d\.$")


@functools.cache
def document(name):
    with open(os.path.join(FOLDER, f"{name}.json"), encoding="utf-8") as file:
        return json.load(file)


@functools.cache
def text(name):
    """Both streams: what the runtime says when the delegate is applied is there before the tool says that it was."""
    return document(name)["stderr"] + document(name)["stdout"]


def provider(name):
    flags = " ".join(document(name)["arguments"])
    return "EXTERNAL" if "--external_delegate_path" in flags else "STABLE_DELEGATE" if "--stable_delegate" in flags else None


def operators(name):
    return next((count for model, count in OPERATORS.items() if model in document(name)["arguments"][0]), 0)


def read(name, content=None):
    reader = read_benchmark if document(name)["tool"] == "benchmark_model" else read_differences
    return reader(text(name) if content is None else content, provider(name) or "EXTERNAL")


def test_every_document_is_in_a_table():
    found = {os.path.basename(path)[:-5] for path in glob.glob(os.path.join(FOLDER, "*.json"))}
    assert found == BENCHMARKS.keys() | DIFFERENCES.keys()
    assert len(found) == 47


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_benchmark_model_printed(name):
    found = read(name)
    figures = (found.warm_up.count, found.timed.count, found.timed.average, found.peak) if found.timed else None
    nodes = tuple((each.source, each.nodes, each.total, each.partitions) for each in shares(found.delegation, operators(name)))
    failed = ending(found, document(name)["exit"], provider(name))
    assert (figures, nodes, failed and failed.end, failed.message if failed else "") == BENCHMARKS[name]
    assert failed or not found.problems


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_inference_diff_printed(name):
    found = read(name)
    outputs = found.outputs and tuple((str(each.average), str(each.deviation)) for each in found.outputs)
    failed = ending(found, document(name)["exit"], provider(name))
    assert (found.runs, outputs, failed and failed.end, failed.message if failed else "") == DIFFERENCES[name]


@pytest.mark.parametrize("name", [*BENCHMARKS, *DIFFERENCES])
def test_each_line_is_known_or_the_vendors_own(name):
    for kind, line in lines(text(name)):
        assert (kind is Line.OTHER) == bool(VENDORS.match(line)), (kind, line)


@pytest.mark.parametrize("name", [*BENCHMARKS, *DIFFERENCES])
def test_the_order_of_the_streams_changes_no_figure(name):
    other = read(name, document(name)["stdout"] + document(name)["stderr"])
    figures = ("warm_up", "timed", "init", "peak", "footprint") if name in BENCHMARKS else ("runs", "outputs")
    assert str([getattr(other, each) for each in figures]) == str([getattr(read(name), each) for each in figures])
    assert other.errors.cause == read(name).errors.cause


def test_the_listing_names_each_delegated_node():
    (share,) = shares(read("benchmark-preinvoke-state").delegation, 65)
    assert share.parts == (tuple(range(62)), (63, 64))
    assert share.name == "TfLiteXNNPackDelegate"
    share = shares(read("benchmark-partial-preinvoke-state").delegation, 65)[0]
    assert share.parts[:3] == ((0,), (2, 3), (5, 6))
    assert len(share.parts) == 29


def test_two_sources_that_differ_are_both_kept():
    name = "benchmark-partial-preinvoke-state"
    changed = text(name).replace("36 nodes delegated out of 65 nodes with 29", "60 nodes delegated out of 65 nodes with 29")
    assert [(each.source, each.nodes) for each in shares(read(name, changed).delegation, 65)] == [(LISTING, 36), (OWN, 60)]


def test_a_listing_without_the_kernels_that_the_tool_counted_is_not_believed():
    name = "benchmark-preinvoke-state"
    found = read(name, text(name).replace("w/ 2 delegate kernels", "w/ 1 delegate kernels"))
    assert shares(found.delegation, 65) == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Node   5 Operator Builtin Code   3 CONV_2D (delegated by node 65)", "Node   5 Operator Builtin Code   3 CONV_2D (not delegated)"),
        ("Node   5 Operator Builtin Code   3 CONV_2D (delegated by node 65)", "Node   5 Operator Builtin Code   3 CONV_2D (by node 65)"),
        ("(delegated by node 66)", "(delegated by node 65)"),
        ("which has delegated 62 nodes: [0-61]", "which has delegated 63 nodes: [0-62]"),
        ("which has delegated 62 nodes: [0-61]", "which has delegated 62 nodes: [0-62]"),
        ("which has delegated 62 nodes: [0-61]", "which has delegated 62 nodes: [0-9999999999]"),
        ("which has delegated 62 nodes: [0-61]", "which has delegated all nodes"),
        ("Node 66 is a", "Node 65 is a"),
        ("173 tensors and 67 nodes", "173 tensors and 66 nodes"),
        ("173 tensors and 67 nodes", "173 tensors and some nodes"),
        ("====Printing out TfLite interpreter pre-invoke state ends====", ""),
        ("====Printing out TfLite interpreter pre-invoke state begins====", ""),
    ],
)
def test_a_listing_that_contradicts_itself(old, new):
    name = "benchmark-preinvoke-state"
    assert old in text(name)
    found = read(name, text(name).replace(old, new))
    assert found.problems
    assert shares(found.delegation, 65) == ()


def test_lines_that_repeat_are_named_once():
    found = repeated(text("benchmark-invoke-error"))
    assert found.count("failed to invoke.") == 1
    assert "… the line above 22 times …" in found
    assert repeated("a\n\n\nb\n") == "a\n\n\nb\n"


def test_keys_and_lines_that_are_new_are_passed_over():
    name = "benchmark-external"
    changed = text(name).replace(" p95=", " p99=99999 p95=").replace("INFO: STARTING!", "INFO: STARTING!\nINFO: Something new: 3 of them.")
    assert read(name, changed) == read(name) or (read(name, changed).timed, read(name, changed).problems) == (read(name).timed, ())


def worth(name, found):
    """How good a reading is: whether the figures count, the least share that was delegated, and the figures themselves."""
    counts = ending(found, document(name)["exit"], provider(name)) is None
    if name in DIFFERENCES:
        return counts, -1, found.outputs if counts else None
    nodes = min((each.nodes for each in shares(found.delegation, operators(name))), default=-1)
    return counts, nodes, found.timed if counts else None


def is_no_better(name, changed):
    (counts, nodes, figures), (counts_now, nodes_now, figures_now) = worth(name, read(name)), worth(name, read(name, changed))
    assert counts_now <= counts
    assert not counts_now or str(figures_now) == str(figures)
    # without the line of one source, the next one is left, which said no less
    assert nodes_now <= max(nodes, *(each.nodes for each in shares(read(name).delegation, operators(name))), -1)


NAMES = st.sampled_from([*BENCHMARKS, *DIFFERENCES])


@settings(max_examples=300, deadline=None)
@given(NAMES, st.data())
def test_a_line_that_is_missing_or_doubled_makes_nothing_better(name, data):
    parts = text(name).split("\n")
    index = data.draw(st.integers(0, len(parts) - 1))
    double = data.draw(st.booleans())
    place = data.draw(st.integers(0, len(parts) - 1)) if double else 0
    is_no_better(name, "\n".join([*parts[:place], parts[index], *parts[place:]] if double else [*parts[:index], *parts[index + 1 :]]))


@settings(max_examples=300, deadline=None)
@given(NAMES, st.data())
def test_a_line_that_is_contradicted_makes_nothing_better(name, data):
    """The same line once more, anywhere, with one of its numbers changed."""
    parts = text(name).split("\n")
    numbered = [line for line in parts if re.search(r"\d", line)]
    line = data.draw(st.sampled_from(numbered))
    match = data.draw(st.sampled_from(list(re.finditer(r"\d+", line))))
    number = data.draw(st.integers(0, 10 ** len(match[0])).filter(lambda value: value != int(match[0])))
    changed = f"{line[: match.start()]}{number}{line[match.end() :]}"
    place = data.draw(st.integers(0, len(parts)))
    is_no_better(name, "\n".join([*parts[:place], changed, *parts[place:]]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([name for name in BENCHMARKS if "avg=" in text(name)]), st.data())
def test_a_figure_that_two_lines_have_cannot_be_changed_in_one(name, data):
    found = read(name)
    mark = data.draw(st.sampled_from(["First inference: ", "Warmup (avg): ", "Inference (avg): ", "Init: "]))
    content = text(name)
    match = re.search(rf"{re.escape(mark)}([\d.e+]+)", content)
    if match is None:
        return
    other = data.draw(st.floats(0, 1e9).filter(lambda value: not math.isclose(value, float(match[1]), rel_tol=2e-3, abs_tol=2.0)))
    changed = read(name, f"{content[: match.start(1)]}{other:g}{content[match.end(1) :]}")
    assert changed.problems
    assert changed.timed is None or (mark == "Init: " and changed.init is None and changed.timed == found.timed)
