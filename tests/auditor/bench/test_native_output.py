from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditor.bench.native_output import MAX_TEXT, Applied, Difference, Loop, Taken, read_benchmark, read_differences

APPLIED = "INFO: Explicitly applied EXTERNAL delegate, and the model graph will be completely executed by the delegate.\n"
WARM = "INFO: count=9 first=81913 curr=55502 min=55502 max=81913 avg=58984.7 std=8115\n"
TIMED = "INFO: count=1061 first=56576 curr=56299 min=54669 max=60236 avg=56265.8 std=982\n"
TIMINGS = "INFO: Inference timings in us: Init: 3337, First inference: 81913, Warmup (avg): 58984.7, Inference (avg): 56265.8\n"
PEAK = "INFO: Overall peak memory footprint (MB) via periodic monitoring: 93.2383\n"
GOOD = f"INFO: EXTERNAL delegate created.\n{APPLIED}{WARM}\n{TIMED}\n{TIMINGS}{PEAK}"
DIFFERENCES = """INFO: EXTERNAL delegate is created.
Num evaluation runs: 50
Reference run latency: avg=84364.2(us), std_dev=12525(us)
Test run latency: avg=4364.2(us), std_dev=525(us)
OutputDiff[0]: avg_error=1.96277e-05, std_dev=6.95767e-06
"""


def read(text, provider="EXTERNAL"):
    return read_benchmark(text, provider)


def test_the_newest_lines():
    found = read(GOOD + "INFO: Memory footprint delta from the start of the tool (MB): init=224.859 overall=260.609\n")
    assert found.problems == ()
    assert found.delegation.created
    assert found.delegation.applied is Applied.COMPLETELY
    assert (found.init, found.peak, found.footprint) == (3337, 93.2383, (224.859, 260.609))
    assert found.warm_up == Loop(9, 81913, 58984.7, 8115)
    assert found.timed == Loop(1061, 56576, 56265.8, 982)
    assert found.inferences == 1070


@pytest.mark.parametrize(
    ("warm", "timed", "timings", "expected"),
    [
        # no prefix
        (WARM[6:], TIMED[6:], TIMINGS[6:], (1061, 56265.8)),
        # percentiles
        (
            "INFO: count=5 first=125113 curr=112537 min=111758 max=125113 avg=115344 std=4959 p5=111758 median=112912 p95=125113\n",
            "INFO: count=50 first=119614 curr=115889 min=111842 max=119614 avg=115246 std=1329 p5=112107 median=115350 p95=116620\n",
            "INFO: Inference timings in us: Init: 1361236, First inference: 125113, Warmup (avg): 115344, Inference (avg): 115246\n",
            (50, 115246),
        ),
        # one warm-up alone, and its average in scientific notation
        (
            "count=1 curr=11403859\n",
            "count=260 first=3918 curr=3711 min=3700 max=4026 avg=3756.87 std=35\n",
            "Inference timings in us: Init: 13386, First inference: 11403859, Warmup (avg): 1.14039e+07, Inference (avg): 3756.87\n",
            (260, 3756.87),
        ),
        # all the same
        (
            "count=1 curr=70\n",
            "count=5 curr=69(all same)\n",
            "Inference timings in us: Init: 100, First inference: 70, Warmup (avg): 70, Inference (avg): 69\n",
            (5, 69),
        ),
        # seconds
        (
            "INFO: count=1 curr=1132430\n",
            "INFO: count=50 first=1032430 curr=1032431 min=1032400 max=1032501 avg=1.03243e+06 std=30\n",
            "INFO: Inference timings in us: Init: 1, First inference: 1132430, Warmup (avg): 1.13243e+06, Inference (avg): 1.03243e+06\n",
            (50, 1032430),
        ),
        # without the first, and with the current value before the count
        (
            "curr=70 count=2 min=70 max=72 avg=71 std=1\n",
            "count=5 curr=69 min=68 max=72 avg=70.2 std=1\n",
            "Inference timings in us: Init: 100, First inference: 70, Warmup (avg): 71, Inference (avg): 70.2\n",
            (5, 70.2),
        ),
    ],
)
def test_every_vintage_of_the_times(warm, timed, timings, expected):
    found = read(f"{APPLIED}{warm}\n{timed}\n{timings}")
    assert found.problems == ()
    assert (found.timed.count, found.timed.average) == expected


def test_older_memory_lines():
    assert read(GOOD.replace(PEAK, "Peak memory footprint (MB): init=0 overall=12.8672\n")).footprint == (0, 12.8672)
    assert read(GOOD).footprint is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (APPLIED, Applied.COMPLETELY),
        (
            "Explicitly applied EXTERNAL delegate, and the model graph will be partially executed by the delegate w/ 3 delegate kernels.",
            Applied.PARTIALLY,
        ),
        ("INFO: Though EXTERNAL delegate is explicitly applied, the model graph will not be executed by the delegate.", Applied.NOT),
        ("INFO: Though EXTERNAL delegate is explicitly applied, the model will not be executed by the delegate.", Applied.NOT),
        ("INFO: Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.", None),
        ("", None),
    ],
)
def test_who_took_the_graph(line, expected):
    assert read(GOOD.replace(APPLIED, f"{line}\n")).delegation.applied is expected


def test_a_stable_delegate_has_another_name():
    found = read(GOOD.replace("EXTERNAL", "STABLE_DELEGATE"), "STABLE_DELEGATE").delegation
    assert (found.created, found.applied) == (True, Applied.COMPLETELY)
    assert read(GOOD, "STABLE_DELEGATE").delegation.applied is None


def test_how_many_nodes():
    vendor = "VERBOSE: Replacing 30 out of 31 node(s) with delegate (Vendor) node, yielding 2 partitions for the whole graph.\n"
    after = vendor.replace("Vendor", "TfLiteXNNPackDelegate")
    assert read(vendor + GOOD + after).delegation.taken == (Taken("Vendor", 30, 31, None),)
    qnn = "INFO: TfLiteQnnDelegate delegate: 0 nodes delegated out of 31 nodes with 0 partitions.\n"
    assert read(qnn + GOOD).delegation.taken == (Taken("TfLiteQnnDelegate", 0, 31, 0),)


def test_flags_that_the_tool_does_not_know():
    text = "WARN: Unconsumed cmdline flags: --external_delegate_pth=/x.so --output_filepath=out stray\n" + GOOD
    assert read(text).delegation.unconsumed == ("external_delegate_pth", "output_filepath")


def test_a_delegate_that_failed():
    assert read("ERROR: Failed to apply EXTERNAL delegate.\n").delegation.refused


FORGED = [
    TIMINGS,
    TIMINGS.replace("56265.8", "12.5"),
    TIMINGS.replace("INFO: ", "tool: "),
    "Inference timings in us: soon\n",
    TIMED,
    TIMED.replace("1061", "99999999"),
    "count=5 curr=3(all same)\n",
    "count=7 curr=soon\n",
]


@pytest.mark.parametrize("line", FORGED)
@pytest.mark.parametrize("place", ["before", "after", "without end"])
def test_a_forged_line_of_times_makes_them_unknown(line, place):
    text = {"before": line + GOOD, "after": GOOD + line, "without end": line.rstrip("\n") + GOOD}[place]
    found = read(text)
    assert found.problems
    assert found.timed is None
    assert found.inferences is None


def test_a_forged_delegation_makes_it_unknown():
    for line in (
        APPLIED,
        APPLIED.replace("completely", "partially"),
        "Though EXTERNAL delegate is explicitly applied, the model graph will not be executed by the delegate.\n",
    ):
        found = read(GOOD + line)
        assert found.delegation.applied is None
        assert found.problems
    assert read(GOOD + PEAK).peak is None


@pytest.mark.parametrize(
    "changed",
    [
        GOOD.replace("avg=56265.8", "avg=100.5"),  # outside of its own minimum
        GOOD.replace("avg=56265.8 std", "avg=56265.8 avg=56265.8 std"),
        GOOD.replace("Inference (avg): 56265.8", "Inference (avg): 50000"),
        GOOD.replace("First inference: 81913", "First inference: 5"),
        GOOD.replace("count=1061", "count=0"),
        GOOD.replace("count=1061", "count=nan"),
        GOOD.replace("Init: 3337", "Init: -3337"),
        GOOD.replace("Init: 3337", "Init: 1e999"),
        GOOD.replace(TIMINGS, ""),
        GOOD.replace(WARM, ""),
        GOOD.replace("min=54669 max=60236 avg=56265.8 std=982", ""),
        GOOD.replace("min=54669 ", ""),
    ],
)
def test_lines_that_contradict_themselves(changed):
    found = read(changed)
    assert found.timed is None
    assert found.problems


def test_too_much_is_not_read():
    found = read(GOOD + "x" * MAX_TEXT)
    assert (found.timed, found.delegation.applied) == (None, None)
    assert found.problems
    assert read_differences(DIFFERENCES + "x" * MAX_TEXT, "EXTERNAL").outputs is None


def test_differences():
    found = read_differences(DIFFERENCES, "EXTERNAL")
    assert found.problems == ()
    assert found.delegation.created
    assert (found.runs, found.outputs) == (50, (Difference(1.96277e-05, 6.95767e-06),))
    prefixed = "".join(f"INFO: {line}\n" for line in DIFFERENCES.splitlines()[1:])
    two = read_differences(prefixed + "INFO: OutputDiff[1]: avg_error=0, std_dev=0\n", "EXTERNAL")
    assert not two.delegation.created
    assert two.outputs == (Difference(1.96277e-05, 6.95767e-06), Difference(0, 0))


@pytest.mark.parametrize("number", ["nan", "-nan", "inf"])
def test_differences_that_are_no_numbers(number):
    found = read_differences(DIFFERENCES.replace("1.96277e-05", number), "EXTERNAL").outputs
    assert not math.isfinite(found[0].average)


@pytest.mark.parametrize(
    "changed",
    [
        DIFFERENCES + "OutputDiff[0]: avg_error=0, std_dev=0\n",
        DIFFERENCES + "OutputDiff[2]: avg_error=0, std_dev=0\n",
        DIFFERENCES + "OutputDiff[1]: avg_error=soon, std_dev=0\n",
        DIFFERENCES + "Num evaluation runs: 50\n",
        DIFFERENCES + "Test run latency: avg=4364.2(us), std_dev=525(us)\n",
        DIFFERENCES.replace("Num evaluation runs: 50\n", ""),
        DIFFERENCES.replace("Reference run", "Some run"),
        DIFFERENCES.replace("OutputDiff", "Diff"),
        DIFFERENCES.replace("avg_error=1", "avg_error=-1"),
        "".join(f"OutputDiff[{index}]: avg_error=0, std_dev=0\n" for index in range(70)) + DIFFERENCES,
    ],
)
def test_differences_that_are_doubled_or_not_all_there(changed):
    found = read_differences(changed, "EXTERNAL")
    assert found.outputs is None
    assert found.problems


LINES = st.sampled_from([*GOOD.splitlines(keepends=True), *DIFFERENCES.splitlines(keepends=True), *FORGED, "\n", "\0", "=", "count="])


@given(st.lists(st.one_of(LINES, st.text(max_size=80)), max_size=30).map("".join))
def test_no_text_is_too_odd(text):
    found, differences = read(text), read_differences(text, "EXTERNAL")
    if found.timed:
        assert found.timed.count > 0
        assert 0 <= found.timed.average < 1e12
        assert text.count("Inference timings in us:") == 1
    if differences.outputs:
        assert text.count("OutputDiff[") == len(differences.outputs)


@given(st.integers(0, len(GOOD)), st.lists(st.one_of(LINES, st.text("count=firstcurravg(samey)0123456789. :\n", max_size=60)), max_size=3))
def test_what_is_slipped_in_never_changes_a_figure(position, parts):
    """Where a line of the tool's stays whole, no other text gives other figures than its own: they are the same, or not known."""
    found = read(GOOD[:position] + "".join(parts) + GOOD[position:])
    if found.timed is not None and all(line in GOOD[:position] or line in GOOD[position:] for line in (WARM, TIMED, TIMINGS)):
        assert (found.init, found.timed, found.warm_up) == (3337, Loop(1061, 56576, 56265.8, 982), Loop(9, 81913, 58984.7, 8115))
