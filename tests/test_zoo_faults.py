"""The zoo with the reference delegate, from the request to the finding: each fault gives its own, and none ends the audit."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import time

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor import audit, requirements
from auditor.bench import document as run
from auditor.engine import Selection
from auditor.errors import UsageError
from auditor.inference import process
from auditor.inference.fdinfo import DeviceUse
from auditor.inference.watch import Limits
from auditor.inference.wire import RUNTIMES
from auditor.inference.worker.confine import landlock_abi
from auditor.model import Level, Outcome
from auditor.request import Request
from auditor.zoo.generate import generate, stand_ins

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSTALLED = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
MODEL = "selfie_segmentation_landscape_256x256"
ZOO = requirements.load(requirements.DEFAULT)
NAMES = stand_ins(ZOO.zoo.version)
FIGURES = ("latency", "accuracy", "memory")
TODAY = datetime.date(2026, 1, 1)

PASS, FAIL, UNKNOWN = Outcome.PASS, Outcome.FAIL, Outcome.UNKNOWN

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no TFLite runtime is installed")


@pytest.fixture(params=INSTALLED)
def runtime(request):
    return request.param


def build(name):
    spec = importlib.util.spec_from_file_location("build", os.path.join(ROOT, "fixtures", "delegates", "build.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = module.build(os.path.join(ROOT, ".cache", "delegates"), name)
    if path is None:
        pytest.skip(f"no C compiler (cc) to build the {name} delegate with")
    return path


@pytest.fixture(scope="module")
def delegate():
    """Path of the compiled reference delegate."""
    return build("reference")


@pytest.fixture(scope="module")
def pinned(tmp_path_factory):
    """A zoo of one model, a stand-in that a manifest pins: what `--zoo` and `--zoo-manifest` take."""
    folder = tmp_path_factory.mktemp("zoo")
    content = generate(MODEL)
    (folder / f"{MODEL}.tflite").write_bytes(content)
    manifest = folder / "sha256sums"
    manifest.write_text(f"{hashlib.sha256(content).hexdigest()}  {MODEL}.tflite\n")
    return {"zoo": str(folder), "manifest": str(manifest)}


@pytest.fixture(autouse=True)
def few_inferences(monkeypatch):
    """Enough to see every fault, and no more."""
    job = functools.partial(run.Job, min_runs=2, memory_runs=2, inputs=2)
    monkeypatch.setattr(run, "Job", job)


@pytest.fixture
def at_work(monkeypatch):
    """A kernel that counts work of the accelerator's for whatever process: what no delegate here has."""

    def use(_pid, _accelerator):
        return DeviceUse(0, {("0000:00:04.0", "1", "compute"): time.perf_counter_ns()})

    monkeypatch.setattr(process, "read_device_use", use)


def ids(name):
    """The requirements about one model."""
    known = {each.id for each in ZOO.requirements}
    return tuple(f"zoo-{name}-{figure}" for figure in FIGURES if f"zoo-{name}-{figure}" in known)


def findings(report):
    """What was asked, by check; the rest was left out."""
    assert report.counts["error"] == 0
    return {each.check: each for result in report.requirements for each in result.findings if each.observed != "left out by --only"}


def judge(names=(MODEL,), **request):
    only = Selection(only=tuple(each for name in names for each in ids(name)))
    told = []
    audited = audit.audit(Request(bench_time="quick", selection=only, today=TODAY, **request), told.append)
    return audited.report, findings(audited.report)


def about(found, figure):
    return found[f"zoo-{MODEL}-{figure}.baseline"]


BROKE = {"latency": FAIL, "accuracy": FAIL, "memory": UNKNOWN}
WRONG = {"accuracy": FAIL, "memory": PASS}
CORRECT = {"accuracy": PASS, "memory": PASS}


@pytest.mark.parametrize(
    ("options", "outcomes", "said"),
    [
        ("fault=eps value=0.001", WRONG, "avg_error 0.001"),
        ("fault=nan", WRONG, "NaN or infinity from the delegate alone"),
        ("fault=zero", WRONG, "avg_error"),
        ("fault=slow value=1000", {**CORRECT, "latency": FAIL}, "limit 6 ms"),
        ("fault=leak value=100", {"accuracy": PASS, "memory": FAIL}, "limit 100 MB"),
        ("fault=flood", CORRECT, ""),
        ("fault=fail at=create", BROKE, "delegate-create-failed: at create"),
        ("fault=no-such-fault", BROKE, "does not know the option fault"),
        ("fault=fail at=prepare", BROKE, "prepare-failed: at prepare"),
        ("fault=fail at=kernel-prepare", BROKE, "prepare-failed: at kernel-prepare"),
        ("fault=fail", BROKE, "invoke-failed: at invoke"),
        ("fault=abort", BROKE, "died: at invoke, signal 6"),
        ("fault=crash at=create", BROKE, "died: at delegate, signal 11"),
        ("fault=exit value=0 after=3", BROKE, "exited: at invoke, exit code 0"),
        ("fault=hang after=3", BROKE, "timed-out: at invoke"),
        ("fault=spin", BROKE, "timed-out: at invoke"),
        ("fault=forge after=3", BROKE, "protocol-error: at invoke"),
        ("fault=crash at=destroy", BROKE, "died: at quit, signal 11"),
        ("max_nodes=20", dict.fromkeys(FIGURES, UNKNOWN), "20 of "),
        ("ops=none", dict.fromkeys(FIGURES, UNKNOWN), "0 of "),
    ],
    ids=lambda value: value.replace(" ", ",") if isinstance(value, str) and "=" in value else "",
)
@pytest.mark.usefixtures("at_work")
def test_each_fault_has_its_own_finding(delegate, pinned, runtime, options, outcomes, said, monkeypatch):
    if said.startswith("timed-out"):  # any other request has as long as a busy machine takes
        monkeypatch.setattr(run, "Job", functools.partial(run.Job, limits=Limits(request_seconds=3)))
    pairs = tuple(tuple(option.split("=")) for option in options.split())
    report, found = judge(delegate=delegate, delegate_options=pairs, tflite=runtime, **pinned)
    assert {figure: about(found, figure).outcome for figure in outcomes} == outcomes, found
    decisive = [about(found, figure) for figure, outcome in outcomes.items() if outcome is not PASS]
    assert all(said in each.observed for each in decisive), decisive
    assert about(found, "accuracy").level is Level.MUST
    assert len(report.model_runs) == (1 if outcomes is BROKE else 3)


def test_a_delegate_that_computes_on_the_processor_is_no_accelerator(delegate, pinned, runtime, tmp_path):
    """However fast it is: the limit here is one that it meets."""
    data = os.path.join(ROOT, "auditor", "data", "requirements")
    with open(os.path.join(data, "zoo-0.0.2.toml"), encoding="utf-8") as file:
        (tmp_path / "zoo.toml").write_text(file.read().replace("latency_ms = 6.0", "latency_ms = 6000.0"))
    shutil.copy(os.path.join(data, "accelerator-r113.toml"), tmp_path / "clauses.toml")
    (tmp_path / "set.toml").write_text('name = "test"\nclauses = "clauses.toml"\nzoo = "zoo.toml"\n')
    _report, found = judge(delegate=delegate, tflite=runtime, requirements=str(tmp_path / "set.toml"), **pinned)
    latency = about(found, "latency")
    assert latency.outcome is UNKNOWN
    assert "limit 6000 ms" in latency.observed
    assert re.search(r"nothing shows that the accelerator did the work. The process kept \d\.\d\d processors busy\.$", latency.reason)
    assert (about(found, "accuracy").outcome, about(found, "memory").outcome) == (UNKNOWN, UNKNOWN)
    assert "nothing shows that the accelerator did the work" in about(found, "accuracy").reason


def test_a_library_that_is_not_there(pinned, runtime, tmp_path):
    with pytest.raises(UsageError, match=r"--delegate: .*none\.so: expected a shared library"):
        judge(delegate=str(tmp_path / "none.so"), tflite=runtime, **pinned)


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined")
def test_a_hostile_delegate_gets_nowhere_and_ends_nothing(pinned, runtime, tmp_path):
    """What was opened for it is said; it took no work worth the name, so its figures are nobody's."""
    report, found = judge(delegate=build("hostile"), tflite=runtime, allow_paths=(str(tmp_path),), **pinned)
    assert {about(found, figure).outcome for figure in FIGURES} == {UNKNOWN}
    assert "0.0% of the multiply-accumulates" in about(found, "accuracy").observed
    conditions = report.model_runs[0].conditions
    assert conditions["confinement"]["state"] == "confined"
    assert all(each["refused"] for each in conditions["escapes"])
    assert {"socket", "ptrace", "kill"} <= {each["call"] for each in conditions["refused"]}
    assert f"To the delegate, --allow-path opened: {tmp_path}." in report.notes


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock, so nothing here can be confined")
@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.usefixtures("at_work")
def test_a_kernel_that_cannot_confine(delegate, pinned, runtime, monkeypatch, allowed):
    code = (
        "from auditor.inference.worker import confine\nconfine.landlock_abi = lambda: 0\nfrom auditor.inference.worker.main import main\n"
    )
    real = process.BOOTSTRAP
    assert "from auditor.inference.worker.main import main\n" in real
    changed = real.replace("from auditor.inference.worker.main import main\n", code)
    monkeypatch.setattr(process, "_COMMAND", (*process._COMMAND[:-1], changed))
    report, found = judge(delegate=delegate, tflite=runtime, allow_unconfined=allowed, **pinned)
    assert about(found, "accuracy").outcome is (PASS if allowed else UNKNOWN)
    assert ("--allow-unconfined" in about(found, "accuracy").remediation) is not allowed
    assert ("The zoo was run without a confinement that holds." in report.notes) is allowed


def test_a_path_to_allow_that_is_not_there(delegate, pinned, runtime):
    with pytest.raises(UsageError, match="--allow-path: /no/such/path: expected a file or a folder"):
        judge(delegate=delegate, tflite=runtime, allow_paths=("/no/such/path",), **pinned)


@pytest.mark.usefixtures("at_work")
def test_the_correct_delegate_is_exact_on_every_stand_in(delegate, runtime, monkeypatch):
    """What nobody pinned is shown beside the baseline and never decides it."""
    monkeypatch.setattr("auditor.zoo.models.DEVICE_FOLDERS", ())
    report, found = judge(NAMES, delegate=delegate, tflite=runtime)
    assert len(NAMES) == 5
    assert {run.model for run in report.model_runs} == set(NAMES)
    for name in NAMES:
        shown, baseline = (found[f"zoo-{name}-accuracy.{word}"] for word in ("stand-in", "baseline"))
        assert (shown.outcome, shown.level) == (PASS, Level.SHOULD), shown
        assert (baseline.outcome, baseline.level) == (UNKNOWN, Level.MUST), baseline
    assert report.zoo.models[0].origin == "stand-in"
