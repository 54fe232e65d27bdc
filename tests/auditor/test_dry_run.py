"""--dry-run says what the probes of this very audit would change, and asks no device; --probe-dma needs one."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from auditor.audit import audit
from auditor.cli import app
from auditor.errors import UsageError
from auditor.gather import would_change
from auditor.probes import would_change as changes
from auditor.request import Request
from auditor.sources.live import Live
from fixtures.devices import recorded

TODAY = datetime.date(2026, 11, 22)


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Live, "ask", lambda *_: pytest.fail("the device was asked"))


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, done.output


def test_every_probe_of_an_audit_is_named_with_all_that_it_changes() -> None:
    asked = [question for question in recorded().answers if question.kind == "probe"]
    assert asked
    expected = {f"{each.path}: {change}" for each in asked for change in changes(each.path, *each.args)}
    assert set(would_change(Request(today=TODAY))) == expected


@pytest.mark.parametrize("command", [("device",), ("snapshot",), ("device", "--host", "nobody@nowhere.invalid")])
def test_a_dry_run_ends_in_0_and_asks_nobody(command: tuple[str, ...]) -> None:
    code, said = run(*command, "--dry-run")
    assert code == 0
    assert "vfio: opens /dev/vfio/vfio" in said
    assert "from where nothing is mapped" not in said
    assert "from where nothing is mapped" in run(*command, "--dry-run", "--probe-dma")[1]


@pytest.mark.parametrize("options", [("--no-probes",), ("--demo",), ("--root", "/"), ("--snapshot", "s")])
def test_where_no_probe_runs_nothing_would_change(options: tuple[str, ...]) -> None:
    assert run("device", "--dry-run", *options) == (0, "nothing: no probe would run\n")
    code, said = run("device", "--dry-run", "--probe-dma", *options)
    assert code == 2
    assert said == "crosml-audit: --probe-dma: expected a device to try it on: this machine or --host, without --no-probes\n"


def test_what_a_run_switches_on_is_named() -> None:
    for options in (("--delegate", "/lib.so"), ("--delegate", "/lib.so", "--no-probes"), ("--stable-delegate", "/s.json")):
        said = run("device", "--dry-run", *options)[1]
        assert "zoo: while a model runs, sets sysfs profiling of a device of panthor to 3, and sets it back" in said
        assert "zoo: while a model runs, makes the trace instance crosml-audit-work in tracefs" in said
    for without in ((), ("--delegate", "/lib.so", "--no-zoo")):
        assert "zoo: " not in run("device", "--dry-run", *without)[1]


@pytest.mark.parametrize("where", [{"root": "/"}, {"snapshot": "s"}, {"demo": True}, {"probes": False}])
def test_what_may_not_be_tried_cannot_be_proven(where: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^--probe-dma: "):
        audit(Request(today=TODAY, probe_dma=True, **where), lambda _text: None)


@pytest.mark.parametrize("where", [{"demo": True}, {}], ids=["of the demonstration", "no absolute path"])
def test_an_image_of_user_space_is_a_file_of_the_audited_device(where: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^--firmware-image: .*expected the absolute path"):
        Request(today=TODAY, firmware_images=("/a.bin" if where else "a.bin",), **where)


def test_an_image_of_user_space_is_not_looked_at_anew_for_a_snapshot() -> None:
    with pytest.raises(UsageError, match="--firmware-image"):
        Request(today=TODAY, snapshot="s", firmware_images=("/a.bin",))
