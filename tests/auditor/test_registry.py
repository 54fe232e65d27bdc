"""Which checks and formats there are: those built in, and plug-ins, each name once."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from auditor import registry, requirements
from auditor.errors import AuditError
from auditor.model import Check, Format, Level, Outcome, Owner, check


def made(name="plug.in"):
    def body(facts):
        """Decide nothing."""
        yield from ()

    return check(name, expected="x", passes="p", fails="f", remediation="r", owner=Owner.VENDOR)(body)


def module(name, **members):
    found = ModuleType(name)
    vars(found).update(members)
    return found


@pytest.fixture
def plugged(monkeypatch):
    """Install plug-ins: group to what each entry point loads."""

    def install(group, *loaded):
        def load(self):
            each = loaded[int(self.name)]
            if isinstance(each, Exception):
                raise each
            return each

        points = [EntryPoint(str(index), f"plug{index}", group) for index in range(len(loaded))]
        monkeypatch.setattr(EntryPoint, "load", load)
        monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda *, group: points if group == points[0].group else [])

    return install


def test_built_in_checks_are_found_and_complete():
    found = registry.checks(plugins=False)
    assert all(isinstance(each, Check) for each in found)
    assert len({each.id for each in found}) == len(found)
    assert {"security-3.domain", "zoo-latency.baseline"} <= {each.id for each in found}
    for each in found:
        assert re.fullmatch(r"[a-z0-9-]+", each.requirement), each.id
        assert re.fullmatch(r"[a-z0-9-]+", each.word), each.id
        assert set(each.sentences) == set(Outcome), each.id
        assert each.doc.strip(), each.id
        assert each.expected, each.id
        assert each.remediation, each.id


def test_every_built_in_check_answers_a_requirement():
    families = {each.family for name in requirements.names() for each in requirements.load(name).requirements}
    assert {each.requirement for each in registry.checks(plugins=False)} <= families


def test_built_in_formats_are_found():
    found = registry.formats(plugins=False)
    assert {"json", "text"} <= set(found)
    assert all(isinstance(each, Format) and each.name == name and each.suffix.startswith(".") for name, each in found.items())


def test_the_order_is_always_the_same():
    assert registry.checks() == registry.checks()
    modules = [each.judge.__module__ for each in registry.checks(plugins=False)]
    assert list(dict.fromkeys(modules)) == sorted(set(modules))


def test_plug_ins_add_checks(plugged):
    one, two = made("plug.one"), made("plug.two")
    plugged(registry.CHECKS, module("m", two=two, again=two, other=3), one)
    assert registry.checks()[-2:] == (two, one)
    assert registry.checks(plugins=False) == registry.checks()[:-2]


def test_plug_ins_add_formats(plugged):
    mine = Format("mine", "text/plain", ".txt", str)
    plugged(registry.FORMATS, mine)
    assert registry.formats()["mine"] is mine
    assert "mine" not in registry.formats(plugins=False)


def test_a_plug_in_does_not_take_the_place_of_another(plugged):
    plugged(registry.CHECKS, made("security-3.domain"))
    with pytest.raises(AuditError, match=r"duplicate check id: security-3\.domain"):
        registry.checks()
    plugged(registry.FORMATS, Format("json", "text/plain", ".txt", str))
    with pytest.raises(AuditError, match="duplicate format id: json"):
        registry.formats()


@pytest.mark.parametrize("broken", [ImportError("no\nsuch"), AttributeError("x"), ZeroDivisionError()])
def test_a_plug_in_that_does_not_load_is_said_in_one_line(plugged, broken):
    plugged(registry.CHECKS, broken)
    with pytest.raises(AuditError, match="the plug-in 0 = plug0 cannot be loaded") as caught:
        registry.checks()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("wrong", [3, "checks", made, [made()]])
def test_a_plug_in_must_be_a_module_or_a_check(plugged, wrong):
    plugged(registry.CHECKS, wrong)
    with pytest.raises(AuditError, match="the plug-in 0 = plug0: expected a module or a Check"):
        registry.checks()


def test_a_check_keeps_its_metadata():
    each = made("functional-1.in.tree")
    assert (each.requirement, each.word, each.id, each.level) == ("functional-1.in", "tree", "functional-1.in.tree", Level.MUST)
    assert each.sentences[Outcome.PASS] == "p"
    assert list(each.judge(None)) == []
