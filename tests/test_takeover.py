"""A delegate that takes over the worker's own Python: no attack gets a verdict that is better than unknown."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace

import pytest

pytest.importorskip("numpy", reason="numpy is not installed")

from auditor.bench.document import Job
from auditor.bench.embedded import measure
from auditor.facts.runs import model_result, read_run
from auditor.facts.types import Listing, Ok, Plan, Settings, ZooModelUsed
from auditor.inference.watch import Limits
from auditor.inference.wire import RUNTIMES
from auditor.model import Evidence, Level, Requirement, Status
from checks import security_1, zoo_accuracy, zoo_latency, zoo_memory
from fixtures.facts import facts as no_facts
from fixtures.takeover import ATTACKS, FIGURES, table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSTALLED = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
QUICK = {"inputs": 4, "min_runs": 8, "min_seconds": 0, "warmup_seconds": 0, "memory_runs": 4}
WORST_FIRST = ("fail", "unknown", "pass")

LATENCY = Requirement("zoo-m-latency", "", "", "", Level.MUST, "zoo-latency", "m", {"latency_ms": 1e6})
ACCURACY = Requirement("zoo-m-accuracy", "", "", "", Level.MUST, "zoo-accuracy", "m", {"avg_error": 1e-4, "std_dev": 1e-5})
MEMORY = Requirement("zoo-m-memory", "", "", "", Level.MUST, "zoo-memory", "m", {"memory_bytes": 1e12, "memory_fail_bytes": 1e12})

pytestmark = pytest.mark.skipif(not INSTALLED, reason="no TFLite runtime is installed")


@pytest.fixture(scope="module")
def takeover():
    """Path of the compiled delegate."""
    spec = importlib.util.spec_from_file_location("build", os.path.join(ROOT, "fixtures", "delegates", "build.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = module.build(os.path.join(ROOT, ".cache", "delegates"), "takeover")
    if path is None:
        pytest.skip("no C compiler (cc) to build the delegate with")
    return path


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("models", os.path.join(ROOT, "tests", "auditor", "conftest.py"))
    module = sys.modules["models"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["models"]
    return module.chain()


def verdicts(document):
    """The outcome of each figure, by limits that everything keeps, of three runs that were all like this one."""
    run = replace(read_run({**document, "macs": _macs(document), "identity": {"kind": "pinned", "reason": ""}}), model="m")
    recorded = Ok(run, (Evidence("run:m", Status.OK),))
    facts = no_facts(
        plan=Plan(delegate="/lib.so", models=(ZooModelUsed("m", run.sha256, "given"),), runs=(("m", 3),)),
        models=Ok((model_result("m", run.sha256, (recorded,) * 3),)),
        accelerators=Ok(Listing(("an accelerator",))),
        settings=Settings(manifest={"m": (run.sha256,)}),
    )
    asked = {
        "latency": zoo_latency.baseline.judge(facts, LATENCY),
        "accuracy": zoo_accuracy.baseline.judge(facts, ACCURACY),
        "memory": zoo_memory.baseline.judge(facts, MEMORY),
        "confined-run": security_1.confined_run.judge(facts),
    }
    return {name: next(iter(answers)).outcome.value for name, answers in asked.items()}


def _macs(document):
    nodes = document["nodes"]
    return {"total": nodes["total"], "delegated": nodes["delegated"]} if nodes else None


@pytest.mark.parametrize("runtime", INSTALLED)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "-").replace(",", ""))
def test_no_attack_is_better_than_unknown(takeover, model, runtime, attack):
    options = (("hold", "1"),) if attack.hold else (("python", attack.code),)
    limits = Limits(request_seconds=2.0 if attack.hold else 30.0)
    document = measure(Job("m", model, delegate=takeover, options=options, runtime=runtime, limits=limits, **QUICK))
    assert "the Python code failed" not in document["status"]["message"], document["worker_output"]
    found = verdicts(document)
    for name, best in zip(FIGURES, attack.outcomes, strict=True):
        assert found[name] == best, (name, found, document["status"], document["worker_output"])


def test_the_worker_really_is_the_delegates(takeover, model):
    """What the attacks are measured against: the claims that the controller reads are those of the delegate's own code."""
    document = measure(Job("m", model, delegate=takeover, options=(("python", ATTACKS[0].code),), runtime=INSTALLED[0], **QUICK))
    assert document["nodes"]["partitions"][0]["name"] == "Forged"
    assert verdicts(
        {**document, "conditions": {**document["conditions"], "accelerator_busy": True, "memory_accelerator_busy": True}}
    ) == dict.fromkeys(FIGURES, "pass"), "only the witness is missing"


def test_the_table_says_so():
    assert all(WORST_FIRST.index(best) <= 1 for attack in ATTACKS for best in attack.outcomes)
    with open(os.path.join(ROOT, "docs", "takeover.md"), encoding="utf-8") as file:
        assert file.read().endswith(f"\n\n{table()}")
