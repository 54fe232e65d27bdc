"""Requirement sets: those that ship, those of a person's own, and what is wrong with them in one line."""

from __future__ import annotations

import os

import pytest

from auditor import requirements
from auditor.errors import UsageError
from auditor.model import Level

CLAUSES = '[[requirements]]\nid = "r-1"\ntitle = "T"\ntext = "X"\nsource = "S"\nlevel = "must"\n'
ZOO = 'version = "9"\nsource = "here"\n[[models]]\nname = "m"\nuse_case = "U"\nfiles = ["m.tflite"]\n[models.baseline]\nlatency_ms = 6\n'
SET = 'name = "mine"\nclauses = "clauses.toml"\nzoo = "zoo.toml"\n'


@pytest.fixture
def mine(tmp_path):
    """Write a set of one's own; gives its path."""

    def write(own=SET, clauses=CLAUSES, zoo=ZOO):
        for name, text in (("set.toml", own), ("clauses.toml", clauses), ("zoo.toml", zoo)):
            (tmp_path / name).write_text(text)
        return str(tmp_path / "set.toml")

    return write


@pytest.mark.parametrize("name", requirements.names())
def test_every_set_that_ships_loads(name):
    loaded = requirements.load(name)
    ids = [each.id for each in loaded.requirements]
    assert len(set(ids)) == len(ids)
    clauses = {"functional-1", "functional-2", "security-1", "security-2", "security-3", "misc-1", "misc-2"}
    assert clauses <= set(ids)
    should = {each.id for each in loaded.requirements if each.level is Level.SHOULD}
    assert should == {"misc-2", *(each for each in ids if each.startswith("service-"))}
    assert {each.family for each in loaded.requirements if each.model} == {"zoo-latency", "zoo-accuracy", "zoo-memory"}
    assert all(each.family == each.id for each in loaded.requirements if not each.model)


def test_the_default_is_the_page_of_the_seeds():
    assert requirements.DEFAULT in requirements.names()
    loaded = requirements.load()
    assert loaded.name == "chromeos-ml-accelerator R113, zoo 0.0.2"
    assert loaded.zoo.version == "0.0.2"
    assert requirements.load("r113-zoo-0.0.6").zoo.version == "0.0.6"


def test_a_model_has_a_cell_for_each_figure_that_the_page_gives(mine):
    full = ZOO + "memory_mb = 64\navg_error = 1e-4\nstd_dev = 2e-4\n"
    cells = {each.id: each for each in requirements.load(mine(zoo=full)).requirements if each.model}
    assert {name: dict(cell.limits) for name, cell in cells.items()} == {
        "zoo-m-latency": {"latency_ms": 6.0},
        "zoo-m-accuracy": {"avg_error": 1e-4, "std_dev": 2e-4},
        "zoo-m-memory": {"memory_bytes": 64e6, "memory_fail_bytes": 64 * 2**20},
    }
    assert {cell.model for cell in cells.values()} == {"m"}
    assert cells["zoo-m-latency"].source == "here (zoo 9), U"
    assert [each.id for each in requirements.load(mine()).requirements] == ["r-1", "zoo-m-latency"]
    half = ZOO + "avg_error = 1e-4\n"
    assert [each.id for each in requirements.load(mine(zoo=half)).requirements] == ["r-1", "zoo-m-latency"]


def test_a_set_may_name_files_that_ship(mine):
    loaded = requirements.load(mine('name = "mixed"\nclauses = "accelerator-r113"\nzoo = "zoo.toml"\n'))
    assert loaded.name.startswith("mixed (not a shipped set: ")
    assert loaded.requirements[-1].id == "zoo-m-latency"


def test_files_are_sought_beside_the_set(mine, tmp_path, monkeypatch):
    mine()
    monkeypatch.chdir("/")
    assert requirements.load(os.path.relpath(tmp_path / "set.toml")).name.startswith("mine (not a shipped set: ")
    monkeypatch.chdir(tmp_path)
    assert requirements.load("set.toml").name.startswith("mine (not a shipped set: ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"own": SET.replace("clauses.toml", "none.toml")}, "none.toml: No such file or directory"),
        ({"own": SET.replace('"zoo.toml"', '"other"')}, "other: no such requirement set; expected a path ending in .toml, or one of r113-"),
        ({"own": SET + "extra = 1\n"}, "set.toml: extra: unknown, expected one of name, clauses, zoo"),
        ({"own": "name = 3\n"}, "set.toml: name: expected str, got int"),
        (
            {"clauses": "requirements = []", "zoo": 'version = ""\nsource = ""\nmodels = []'},
            "set.toml: requirements: expected at least one",
        ),
        ({"clauses": CLAUSES * 2}, "set.toml: requirements: r-1 is there twice"),
        ({"clauses": CLAUSES.replace("r-1", "zoo-m-latency")}, "set.toml: requirements: zoo-m-latency is there twice"),
        ({"clauses": CLAUSES.replace('"must"', '"can"')}, "clauses.toml: requirements[0].level: expected must or should, got 'can'"),
        ({"zoo": ZOO.replace("= 6", "= nan")}, "zoo.toml: models[0].baseline.latency_ms: expected a finite number, got nan"),
        ({"zoo": ZOO.replace('"m.tflite"', "1")}, "zoo.toml: models[0].files[0]: expected str, got int"),
        ({"clauses": "# " + "x" * requirements.SIZE_LIMIT}, f"expected at most {requirements.SIZE_LIMIT} bytes"),
    ],
)
def test_what_is_wrong_with_a_set_is_said_in_one_line(mine, given, message):
    with pytest.raises(UsageError) as caught:
        requirements.load(mine(**given))
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["", "none", "r113\n", "../r113-zoo-0.0.2x", "no/such.toml", "a\0.toml", "a\n\x1b.toml", "\0", "/"])
def test_a_name_that_is_none_is_a_usage_error(name):
    with pytest.raises(UsageError) as caught:
        requirements.load(name)
    assert str(caught.value).isprintable()


def test_a_folder_is_no_set(tmp_path):
    (tmp_path / "d.toml").mkdir()
    with pytest.raises(UsageError, match="Is a directory"):
        requirements.load(str(tmp_path / "d.toml"))


def test_what_ships_is_the_same_without_the_codec():
    assert requirements.shipped() == requirements.load().requirements
