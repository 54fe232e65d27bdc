"""Completion in the shells themselves: commands, options, and the values that only the program knows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

CASES = {
    "crosml-audit dev": {"device"},
    "crosml-audit device --snap": {"--snapshot"},
    "crosml-audit device --format js": {"json"},
    "crosml-audit explain security-3.dom": {"security-3.domain"},
    "crosml-audit device --only zoo-lat": {"zoo-latency"},
    "crosml-audit device --only security-3,functional-1.driv": {"security-3,functional-1.driver"},
    "crosml-audit device --unknown-as on": {"once"},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A PATH with the program on it, as it is installed."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "crosml-audit"
    program.write_text(f"#!{sys.executable}\nfrom auditor.cli import main\nmain()\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": os.getcwd()}


def _run(shell, script, environment):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here (apt-get install {shell})")
    command = {"bash": ["bash", "--norc", "-c"], "zsh": ["zsh", "-f", "-c"], "fish": ["fish", "--no-config", "-c"]}[shell]
    done = subprocess.run([*command, script], check=False, capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "wanted"), CASES.items())
def test_bash(line, wanted, environment):
    words = " ".join(f"'{word}'" for word in line.split())
    script = (
        'eval "$(_CROSML_AUDIT_COMPLETE=source_bash crosml-audit)"\n'
        f"COMP_WORDS=({words}); COMP_CWORD={len(line.split()) - 1}\n"
        '_crosml_audit_completion crosml-audit; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert wanted <= set(_run("bash", script, environment).split())


@pytest.mark.parametrize(("line", "wanted"), CASES.items())
def test_zsh(line, wanted, environment):
    """Without a terminal zsh completes nothing: its function runs with what would show the words replaced by what prints them."""
    words = " ".join(f"'{word}'" for word in line.split())
    script = (
        "compdef() { : }; _files() { : }; _arguments() { print -r -- $* }\n"
        "_describe() { print -rl -- ${(P)2} }; compadd() { print -rl -- $* }\n"
        'eval "$(_CROSML_AUDIT_COMPLETE=source_zsh crosml-audit)"\n'
        f"words=({words}); CURRENT={len(line.split())}; _crosml_audit_completion"
    )
    assert all(each in _run("zsh", script, environment).replace("\\", "") for each in wanted)


@pytest.mark.parametrize(("line", "wanted"), CASES.items())
def test_fish(line, wanted, environment):
    script = f"_CROSML_AUDIT_COMPLETE=source_fish crosml-audit | source; complete --do-complete '{line}'"
    assert all(each in _run("fish", script, environment) for each in wanted)
