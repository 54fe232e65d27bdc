"""The examples in CONTRIBUTING.md work, and the pages in docs/checks are those of the checks."""

from __future__ import annotations

import re
from pathlib import Path

from auditor import manual, registry
from auditor.facts.collect import collect
from auditor.facts.reading import Device
from auditor.families import Table, table
from auditor.model import Check, Format, Outcome, Status
from auditor.sources import base
from auditor.sources.recording import Replay
from fixtures.devices import DENIED, answered, recorded, text
from fixtures.report import sample

REPOSITORY = Path(__file__).parents[1]
IMPORTS = "from __future__ import annotations\nfrom auditor.model import Answer, Level, Outcome, Owner, check\n"
"""What the module that a check is added to has already."""


def _blocks():
    """The blocks of code, by the file that each is for."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return dict(blocks)


BLOCKS = _blocks()


def run(file):
    """Run a block as the module that it is for; a check's sees what its module has already."""
    namespace = {"__name__": file.removesuffix(".py").replace("/", ".")}
    exec((IMPORTS if file.startswith("checks/") else "") + BLOCKS[file], namespace)
    return namespace


def test_every_block_of_code_is_run_here():
    assert list(BLOCKS) == ["checks/security_3.py", "auditor/facts/random_source.py", "auditor/families/table.py", "reports/tally.py"]
    assert (REPOSITORY / "CONTRIBUTING.md").read_text().count("```") == 2 * len(BLOCKS)


def test_the_example_is_a_check_that_works():
    (check,) = [each for each in run("checks/security_3.py").values() if isinstance(each, Check)]
    (answer,) = check.judge(collect(Replay(recorded())))
    assert (check.id, answer.outcome, answer.observed) == ("security-3.two-units", Outcome.FAIL, "dmar0")


def test_the_example_of_a_fact_is_read_or_missing():
    path = "/sys/class/misc/hw_random/rng_current"
    read = run("auditor/facts/random_source.py")["read_random_source"]
    assert read(Device(Replay(text(recorded(), path, "tpm-rng-0\n")))).open() == "tpm-rng-0"
    assert read(Device(Replay(text(recorded(), path, "\n")))).status is Status.FAILED
    assert read(Device(Replay(answered(recorded(), {base.read(path): DENIED})))).status is Status.DENIED


def test_the_example_of_a_family_goes_into_the_table():
    family = eval(BLOCKS["auditor/families/table.py"], vars(table).copy())
    assert Table((*table.FAMILIES.families, family)).by_pci("1ED5:0001") is family


def test_the_example_of_a_format_is_one_line_whatever_a_device_says():
    form = run("reports/tally.py")["FORMAT"]
    assert isinstance(form, Format)
    assert re.fullmatch(r"[a-z0-9, -]+\n", form.render(sample()))


def test_the_pages_are_those_of_the_checks(tmp_path):
    manual.write_pages(str(tmp_path), registry.checks(plugins=False))
    fresh = {page.name: page.read_text() for page in tmp_path.iterdir()}
    kept = {page.name: page.read_text() for page in (REPOSITORY / "docs" / "checks").iterdir()}
    assert kept == fresh, "run `make docs`"
