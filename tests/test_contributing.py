"""The example in CONTRIBUTING.md is a check that works, and the pages in docs/checks are those of the checks."""

from __future__ import annotations

import re
from pathlib import Path

from auditor import manual, registry
from auditor.facts.collect import collect
from auditor.model import Check, Outcome
from auditor.sources.recording import Replay
from fixtures.devices import recorded

REPOSITORY = Path(__file__).parents[1]
IMPORTS = "from auditor.model import Answer, Level, Outcome, Owner, check\n"


def test_the_example_is_a_check_that_works():
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL)
    namespace: dict[str, object] = {}
    exec("from __future__ import annotations\n" + IMPORTS + code, namespace)
    (check,) = [each for each in namespace.values() if isinstance(each, Check)]
    (answer,) = check.judge(collect(Replay(recorded())))
    assert (check.id, answer.outcome, answer.observed) == ("security-3.two-units", Outcome.FAIL, "dmar0")


def test_the_pages_are_those_of_the_checks(tmp_path):
    manual.write_pages(str(tmp_path), registry.checks(plugins=False))
    fresh = {page.name: page.read_text() for page in tmp_path.iterdir()}
    kept = {page.name: page.read_text() for page in (REPOSITORY / "docs" / "checks").iterdir()}
    assert kept == fresh, "run `make docs`"
