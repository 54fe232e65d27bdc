"""The recipes of docs/lab.md: their files by GitLab's and GitHub's own schemas, their commands on the recorded device."""

from __future__ import annotations

import fnmatch
import importlib.resources
import json
import re
import shlex
import sys
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from auditor import cli

LAB = (Path(__file__).parents[1] / "docs" / "lab.md").read_text()
DEMO = str(importlib.resources.files("auditor.data") / "demo.snapshot")
RECIPES = {name: text for _kind, name, text in re.findall(r"```(yaml|groovy)\n(?:#|//) (\S+)\n(.*?)```", LAB, re.DOTALL)}
SCHEMAS = {".gitlab-ci.yml": "gitlab-ci.json", ".github/workflows/audit.yml": "github-workflows.json"}


def _strings(value):
    """Every text in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list):
        yield from (text for each in value for text in _strings(each))


def _document(name):
    return YAML(typ="safe", pure=True).load(RECIPES[name])


def _texts(name):
    """The texts of a recipe: those of its YAML, or what is in quotes in a Jenkinsfile."""
    return list(_strings(_document(name))) if name in SCHEMAS else re.findall(r"'([^']*)'", RECIPES[name])


def test_there_is_one_for_each():
    assert set(RECIPES) == {*SCHEMAS, "Jenkinsfile"}


@pytest.mark.parametrize(("name", "schema"), SCHEMAS.items())
def test_it_fits_the_schema(name, schema):
    file = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / schema
    found = json.loads(file.read_text())
    jsonschema.validators.validator_for(found)(found).validate(_document(name))


def test_braces_of_the_jenkinsfile_close():
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", RECIPES["Jenkinsfile"])
    depth = [bare[:at].count("{") - bare[:at].count("}") for at in range(len(bare) + 1)]
    assert min(depth) == depth[-1] == 0


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_its_commands_run_and_write_what_it_keeps(name, tmp_path, monkeypatch, capfd):
    """On the recorded device in the board's place; twice, as on a runner that keeps its folder."""
    monkeypatch.chdir(tmp_path)
    (command,) = [text for text in _texts(name) if text.startswith("crosml-audit ")]
    words = shlex.split(command)
    assert words[:4] == ["crosml-audit", "device", "--host", "root@board"]
    for _time in range(2):
        monkeypatch.setattr(sys, "argv", [*words[:2], "--snapshot", DEMO, *words[4:]])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert (ended.value.code, capfd.readouterr().err) == (1, "")
    written = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*")]
    kept = re.findall(r"audit/[^\s\"']*", " ".join(_texts(name)))
    assert kept
    for each in kept:
        assert fnmatch.filter(written, each.rstrip("/")), each
