"""The table of exit codes in docs/: it has every command, and each code in it is seen."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib import resources
from pathlib import Path

import pytest
import typer

from auditor import cli
from auditor.submission import keys

DEMO = str(resources.files("auditor.data") / "demo.snapshot")
TABLE = (Path(__file__).parent.parent / "docs" / "exit-codes.md").read_text(encoding="utf-8")
CODES = range(5)
DRIVER = "functional-1.driver@pci:0000:00:05.0"


def table():
    """By command, the codes that it uses."""
    rows = [row.strip("|").split("|") for row in TABLE.splitlines() if row.startswith("| `")]
    return {cells[0].strip(" `"): {code for code in CODES if cells[1 + code].strip() != "-"} for cells in rows}


def commands(app, before=()):
    """The names of all commands of an application."""
    for each in app.registered_commands:
        yield " ".join((*before, each.name or each.callback.__name__.replace("_", "-")))
    for group in app.registered_groups:
        if group.typer_instance.registered_callback and group.typer_instance.registered_callback.invoke_without_command:
            yield " ".join((*before, group.name))
        yield from commands(group.typer_instance, (*before, group.name))


# each command that the table has, with arguments that end in the code; {} is the folder with the files
EXAMPLES = {
    ("device", 0): "device --snapshot DEMO --only security-3",
    ("device", 1): "device --snapshot DEMO",
    ("device", 2): "device --snapshot DEMO --demo",
    ("device", 3): "device --snapshot DEMO --only zoo",
    ("device", 4): "device --snapshot {}/none",
    ("snapshot", 0): "snapshot --root {}/root -o {}/saved --force",
    ("snapshot", 2): "snapshot",
    ("snapshot", 4): "snapshot --host nobody@host.invalid -o {}/saved2",
    ("snapshot show", 0): "snapshot show DEMO",
    ("snapshot show", 2): "snapshot show",
    ("snapshot show", 4): "snapshot show {}/none",
    ("zoo list", 0): "zoo list",
    ("zoo list", 2): "zoo list --requirements none",
    ("zoo generate", 2): "zoo generate {}/none/none --requirements none",
    ("zoo pin", 2): "zoo pin {}/root",
    ("zoo run", 2): "zoo run --zoo {}/none",
    ("service check", 2): "service check {}/none",
    ("service run", 2): "service run {}/none",
    ("service operators", 2): "service operators {}/none",
    ("fleet", 2): "fleet {}/none",
    ("checks", 0): "checks",
    ("checks", 2): "checks --none",
    ("explain", 0): "explain security-3",
    ("explain", 2): "explain none-of-these",
    ("explain", 4): "explain security-3 --report {}/none",
    ("report show", 0): "report show {}/r.json",
    ("report show", 2): "report show",
    ("report show", 4): "report show DEMO",
    ("report convert", 0): "report convert {}/r.json --format csv",
    ("report convert", 2): "report convert {}/r.json --format none",
    ("report convert", 4): "report convert {}/none",
    ("report diff", 0): "report diff {}/waived.json {}/r.json",
    ("report diff", 1): "report diff {}/waived.json {}/r.json --fail-on regression",
    ("report diff", 2): "report diff {}/r.json",
    ("report diff", 4): "report diff {}/r.json {}/none",
    ("report sign", 0): "report sign {}/r.json --key {}/key.pem --force",
    ("report sign", 2): "report sign {}/r.json",
    ("report sign", 4): "report sign {}/r.json --signer false --force",
    ("report verify", 0): "report verify {}/r.json --trust {}/key.pub",
    ("report verify", 2): "report verify {}/r.json",
    ("report verify", 4): "report verify {}/waived.json --signature {}/r.json.dsse.json --trust {}/key.pub",
    ("waivers check", 0): "waivers check {}/w.toml",
    ("waivers check", 1): "waivers check {}/w.toml --today 2099-01-01",
    ("waivers check", 2): "waivers check {}/none",
    ("waivers check", 4): "waivers check {}/w.toml --report {}/none",
    ("waivers draft", 0): "waivers draft {}/r.json",
    ("waivers draft", 2): "waivers draft",
    ("waivers draft", 4): "waivers draft {}/none",
    ("submit", 0): "submit --snapshot DEMO --key {}/key.pem -o {}/x.crosml --force",
    ("submit", 2): "submit --snapshot DEMO -o {}/y.crosml",
    ("submit", 4): "submit --snapshot {}/none --key {}/key.pem -o {}/y.crosml",
    ("review", 0): "review {}/x.crosml --trust {}/key.pub --requirements {}/set.toml",
    ("review", 1): "review {}/x.crosml --trust {}/key.pub",
    ("review", 2): "review {}/x.crosml",
    ("review", 3): "review {}/x.crosml --trust {}/key.pub --waivers {}/w.toml",
    ("review", 4): "review {}/r.json --trust {}/key.pub",
    ("service bench", 2): "service bench {}/none",
    ("service bench", 4): "service bench {}/w.toml",
    ("service serve", 2): "service serve {}/none",
    ("service serve", 4): "service serve {} --listen unix:{}/none/s",
    ("service metrics", 2): "service metrics --connect none",
    ("service metrics", 4): "service metrics --connect unix:{}/none",
}
EXAMPLES |= {
    ("history add", 0): "history add {}/h2.db {}/r.json",
    ("history add", 2): "history add {}/h.db",
    ("history add", 4): "history add {}/h.db DEMO",
    **{(f"history {each}", 0): f"history {each} {{}}/h.db" for each in ("list", "trend", "flaky", "blame")},
    **{(f"history {each}", 2): f"history {each} {{}}/h.db --device none" for each in ("list", "trend", "flaky", "blame")},
    **{(f"history {each}", 4): f"history {each} {{}}/r.json" for each in ("list", "trend", "flaky", "blame")},
}
FULL = {"service run", "zoo list", "zoo generate", "zoo pin", "zoo run", "checks", "explain"}
"""What ends in 4 only where its output cannot be written."""
ELSEWHERE = {
    **dict.fromkeys((("zoo generate", 0), ("zoo run", 0)), "tests/auditor/bench"),
    ("zoo pin", 0): "tests/auditor/zoo",
    **{("service check", code): "tests/auditor/serving" for code in (0, 1, 3, 4)},
    **{("service run", code): "tests/auditor/serving" for code in (0, 1)},
    **{("service operators", code): "tests/auditor/serving" for code in (0, 1, 4)},
    **{(f"service {name}", 0): "tests/auditor/serving" for name in ("bench", "serve", "metrics")},
    **{("fleet", code): "tests/auditor/fleet" for code in (0, 1, 3, 4)},
}
"""Codes that take a device, a runtime or their time: where they are seen."""


def called(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["crosml-audit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return ended.value.code or 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("codes")
    (made / "root").mkdir()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate()
    (made / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (made / "key.pub").write_bytes(keys.PublicKey(key.public_key()).der)
    (made / "w.toml").write_text(f'[[waiver]]\nfinding = {json.dumps(DRIVER)}\nreason = "r"\nauthor = "a"\nexpires = 2098-01-01\n')
    (made / "clauses.toml").write_text('[[requirements]]\nid = "security-3"\ntitle = "t"\ntext = "t"\nsource = "s"\nlevel = "must"\n')
    (made / "zoo.toml").write_text('version = "0"\nsource = "s"\nmodels = []\n')
    (made / "set.toml").write_text('name = "own"\nclauses = "clauses.toml"\nzoo = "zoo.toml"\n')
    (made / "sha256sums").write_text(f"{hashlib.sha256(b'').hexdigest()}  m.tflite\n")
    called("device", "--snapshot", DEMO, "--format", f"json={made / 'r.json'}")
    called("device", "--snapshot", DEMO, "--waivers", str(made / "w.toml"), "--format", f"json={made / 'waived.json'}")
    called("history", "add", str(made / "h.db"), str(made / "r.json"))
    for prepared in (("report sign", 0), ("submit", 0)):  # their output is the input of others
        called(*words(EXAMPLES[prepared], made))
    return made


def words(example, folder):
    return [word.replace("DEMO", DEMO).replace("{}", str(folder)) for word in example.split()]


def test_the_table_has_every_command():
    assert set(table()) == set(commands(cli.app))


def test_each_code_in_the_table_has_an_example():
    wanted = {(command, code) for command, codes in table().items() for code in codes}
    assert wanted == set(EXAMPLES) | set(ELSEWHERE) | {(command, 4) for command in FULL}


@pytest.mark.parametrize(("command", "code"), sorted(EXAMPLES), ids=lambda each: str(each).replace(" ", "-"))
def test_a_command_ends_in_the_code_that_the_table_gives(command, code, folder):
    assert called(*words(EXAMPLES[command, code], folder)) == code


@pytest.mark.parametrize("command", ["checks", "explain", "zoo list"])
def test_output_that_cannot_be_written_is_no_verdict(command, monkeypatch):
    class Full:
        def write(self, _text):
            return 0

        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr("auditor.cli.common.os.dup2", lambda *_: None)
    assert called(*EXAMPLES[command, 0].split()) == 4


def test_the_help_of_a_command_gives_no_other_codes():
    """Where the help of a command lists its exit codes, they are those of the table."""
    for name, codes in table().items():
        context = typer.main.get_command(cli.app)
        for word in name.split():
            context = context.commands[word]
        told = re.search(r"Exit codes: (.*?)\.?$", " ".join((context.help or "").split()))
        if told:
            # a code stands at the beginning, or after a comma, a semicolon, a colon, `or` or `else`
            found = {int(code) for code in re.findall(r"(?:^|[;,:] |or |else )([0-4])\b", told[1])}
            assert found | ({4} if name in FULL else set()) == codes, name
