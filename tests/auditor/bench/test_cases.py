"""Golden cases of stand-ins: recorded by one runtime, met by the other, and told where they are not."""

from __future__ import annotations

import datetime
import hashlib
import importlib.util
from dataclasses import replace

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor import requirements
from auditor.audit import audit
from auditor.bench.cases import NotRecorded, differences, record
from auditor.engine import Selection
from auditor.errors import UsageError
from auditor.inference.executor import Options
from auditor.inference.wire import RUNTIMES
from auditor.model import Outcome
from auditor.request import Request
from auditor.zoo.generate import generate
from auditor.zoo.models import model_files
from auditor.zoo.published import GOLDEN, MANIFEST, Golden, golden_document

INSTALLED = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
NAME = "mobilenet_v2_1.0_224_quant"
ZOO = requirements.load(requirements.DEFAULT).zoo

needs_runtime = pytest.mark.skipif(not INSTALLED, reason="no TFLite runtime is installed")


@pytest.fixture(scope="module")
def content():
    return generate(NAME)


@pytest.fixture(scope="module")
def cases(content):
    return record(content, NAME, Options())


def published(folder, content, cases):
    """A folder as `zoo generate` makes it, of one model."""
    written = {f"{NAME}.tflite": content, f"{NAME}{GOLDEN}": golden_document(cases)}
    for name, data in written.items():
        (folder / name).write_bytes(data)
    manifest = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in written.items())
    (folder / MANIFEST).write_text(manifest)
    return str(folder)


def altered(cases):
    """The same cases with another answer."""
    (case,) = cases
    ((name, output),) = case.outputs.items()
    wrong = replace(output, data=bytes(255 - value for value in output.data))
    return (Golden(case.inputs, {name: wrong}, case.tolerance),)


@needs_runtime
@pytest.mark.parametrize("xnnpack", [True, False])
def test_the_kernels_of_each_runtime_give_what_was_recorded(content, cases, xnnpack):
    for runtime in INSTALLED:
        assert differences(content, NAME, cases, Options(runtime=runtime, xnnpack=xnnpack)) == ()


@needs_runtime
def test_a_runtime_that_gives_something_else_is_told(content, cases):
    (said,) = differences(content, NAME, altered(cases), Options())
    assert said.startswith("case 0: reshape: an element differs by ")
    assert differences(b"no model", NAME, cases, Options())


def test_what_is_no_model_has_no_case():
    with pytest.raises(NotRecorded):
        record(b"no model", NAME, Options())


@needs_runtime
def test_a_model_that_is_not_the_published_one_is_refused(tmp_path, content, cases):
    folder = published(tmp_path, content, cases)
    assert model_files(ZOO, folder)[0].cases == cases
    (tmp_path / f"{NAME}.tflite").write_bytes(content + b"\0")
    with pytest.raises(UsageError, match=rf"--zoo: .*{NAME}.tflite: its sha256 is .*, expected .* \(sha256sums\)"):
        model_files(ZOO, folder)


@needs_runtime
@pytest.mark.parametrize("honest", [True, False])
def test_a_runtime_that_does_not_meet_them_is_no_reference(tmp_path, content, cases, honest):
    folder = published(tmp_path, content, cases if honest else altered(cases))
    only = Selection(only=(f"zoo-{NAME}-accuracy",))
    request = Request(
        delegate=None, demo=True, zoo=folder, bench_time="quick", selection=only, today=datetime.date(2026, 1, 1), allow_unconfined=True
    )
    report = audit(request, lambda _text: None).report
    (run, *_others) = report.model_runs
    assert run.conditions["golden_cases"]["count"] == 1
    assert (run.conditions["golden_cases"]["wrong"] == []) is honest
    finding = next(each for each in report.requirements if each.id == f"zoo-{NAME}-accuracy").findings[0]
    assert finding.outcome is Outcome.UNKNOWN, "there is no delegate"
