"""Inventories: what is merged, what is refused and how it is told."""

from __future__ import annotations

import datetime

import pytest

from auditor.errors import UsageError
from auditor.fleet import inventory
from auditor.fleet.inventory import load

TODAY = datetime.date(2026, 12, 1)
HOST = '[[hosts]]\nname = "a"\n'


@pytest.fixture
def loaded(tmp_path):
    def load_text(text):
        path = tmp_path / "lab.toml"
        path.write_text(text)
        return load(str(path), TODAY)

    return load_text


def test_a_hosts_options_replace_its_groups_and_these_those_of_all(loaded, tmp_path):
    found = loaded("""
parallel = 7
[options]
bench-time = "quick"
delegate = "/all.so"
only = ["security"]
[groups.rack]
parallel = 2
options = { delegate = "/rack.so", zoo = "local:zoo" }
[groups.late]
options = { bench-time = "page", no-probes = true }
[[hosts]]
name = "a"
address = "root@10.0.0.1"
groups = ["rack", "late"]
options = { delegate = "/own.so", delegate-option = { log = "1" }, accelerator = ["pci:0000:00:04.0"], waivers = "w.toml" }
[[hosts]]
name = "b"
""")
    first, second = found.members
    request = first.request
    assert (request.host, request.delegate, request.bench_time, request.probes) == ("root@10.0.0.1", "/own.so", "page", False)
    assert (request.delegate_options, request.accelerators) == ((("log", "1"),), ("pci:0000:00:04.0",))
    assert (request.waivers, request.zoo) == (str(tmp_path / "w.toml"), f"local:{tmp_path / 'zoo'}")
    assert request.selection.only == ("security",)
    assert (first.groups, found.groups, found.parallel) == (("rack",), {"rack": 2}, 7)
    assert (second.request.host, second.request.delegate, second.request.probes) == ("b", "/all.so", True)


def test_a_value_may_be_a_reference(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_KEY", "/keys/lab")
    (tmp_path / "license").write_text("s3cret\n")
    found = loaded(
        HOST + 'options = { identity = { env = "LAB_KEY" }, delegate = "/d.so", delegate-option = { license = { file = "license" } } }'
    )
    request = found.members[0].request
    assert request.ssh_options == ("-i", "/keys/lab", "-o", "IdentitiesOnly=yes")
    assert request.delegate_options == (("license", "s3cret"),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "hosts: missing"),
        ("hosts = []", "hosts: 0 devices, expected 1 to 10000"),
        ("[[hosts]", "line 1, column 8: expected TOML"),
        ("[[hosts]]\nnam = 'a'", "hosts[0].name: missing"),
        (HOST + "adress = 'x'", "hosts[0].adress: unknown, expected one of name, address, groups, options"),
        (HOST + HOST, "hosts[1].name: a is also the name of hosts[0]"),
        ("[[hosts]]\nname = '../a'", "hosts[0].name: expected a name of at most 64 letters, digits, '.', '_' and '-', got '../a'"),
        ("[[hosts]]\nname = '.'", "hosts[0].name: expected a name of at most 64 letters, digits, '.', '_' and '-', got '.'"),
        (HOST + "address = '-oProxyCommand=x'", "hosts[0].address: expected [USER@]HOST, got '-oProxyCommand=x'"),
        ("[groups.rack]\n" + HOST + "groups = ['rak']", "hosts[0].groups: rak is not in [groups]; did you mean rack?"),
        ("[groups.r]\n" + HOST + "groups = ['r', 'r']", "hosts[0].groups: r is named 2 times, expected once"),
        ("[groups.r]\nparallel = 0\n" + HOST, "groups.r.parallel: expected 1 to 1024, got 0"),
        ("parallel = 0\n" + HOST, "parallel: expected 1 to 1024, got 0"),
        ("attempts = '3'\n" + HOST, "attempts: expected int, got str"),
        ("deadline = inf\n" + HOST, "deadline: expected a finite number, got inf"),
        (
            HOST + "options = { bench-tiem = 'quick' }",
            "hosts[0] (a).options.bench-tiem: unknown option of `crosml-audit device --host`; did you mean bench-time?",
        ),
        (HOST + "options = { bench-time = 'fast' }", "hosts[0] (a).options.bench-time: expected page or adaptive or quick, got 'fast'"),
        (HOST + "options = { root = '/x' }", "hosts[0] (a).options.root: unknown option of `crosml-audit device --host`"),
        (HOST + "options = { no-zoo = 1 }", "hosts[0] (a).options.no-zoo: expected true or false"),
        (HOST + "options = { only = 'x' }", "hosts[0] (a).options.only: expected an array of strings"),
        (HOST + "options = { delegate = 1 }", 'hosts[0] (a).options.delegate: expected a string, { env = "NAME" } or { file = "PATH" }'),
        (
            HOST + "options = { identity = { env = 'NO_SUCH_VARIABLE' } }",
            "hosts[0] (a).options.identity: the environment variable NO_SUCH_VARIABLE is not set",
        ),
        (HOST + "options = { identity = { vault = 'x' } }", "hosts[0] (a).options.identity: expected env or file, got 'vault'"),
        (HOST + "options = { zoo = { file = 'none' } }", "hosts[0] (a).options.zoo: none: No such file or directory"),
        (HOST + "options = { identity = '-----BEGIN X' }", "hosts[0] (a).options.identity: expected the path of a key, not the key itself"),
        (HOST + "options = { delegate-option = 'k=v' }", 'hosts[0] (a).options.delegate-option: expected a table, { KEY = "VALUE" }'),
        (HOST + "options = { delegate-option = { k = 'v' } }", "hosts[0] (a): --delegate-option: expected a --delegate to give it to"),
    ],
)
def test_what_is_wrong_is_one_line_with_file_and_field(loaded, tmp_path, text, said):
    with pytest.raises(UsageError) as error:
        loaded(text)
    assert str(error.value) == f"{tmp_path / 'lab.toml'}: {said}"


def test_too_many_hosts_are_one_line(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(inventory, "MOST_HOSTS", 100)
    with pytest.raises(UsageError, match=r"lab.toml: hosts: 101 devices, expected 1 to 100$"):
        loaded("".join(f"[[hosts]]\nname='h{number}'\n" for number in range(101)))


def test_a_secret_is_in_no_message(loaded, monkeypatch):
    monkeypatch.setenv("SECRET", "-----BEGIN OPENSSH PRIVATE KEY")
    with pytest.raises(UsageError) as error:
        loaded(HOST + "options = { identity = { env = 'SECRET' } }")
    assert "BEGIN" not in str(error.value)
