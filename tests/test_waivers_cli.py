"""Waivers and comparisons on the command line."""

from __future__ import annotations

import datetime
import json
import sys
from importlib import resources

import pytest

from auditor import cli
from auditor.cli import options
from auditor.waivers import matches

DEMO = str(resources.files("auditor.data") / "demo.snapshot")
DRIVER = "functional-1.driver@pci:0000:00:05.0"


def entry(finding, expires="2027-03-31", **more):
    fields = {"finding": finding, "reason": "known", "author": "lab", **more}
    return "[[waiver]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in fields.items()) + f"expires = {expires}\n"


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """The demonstration's record judged, with everything that fails or is open waived until a day, and without."""
    folder = tmp_path_factory.mktemp("audited")

    def audit(name, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["crosml-audit", "device", "--snapshot", DEMO, *arguments, "--format", f"json={folder / name}"])
            with pytest.raises(SystemExit):
                cli.main()
        return json.loads((folder / name).read_text())

    plain = audit("plain.json")
    found = [finding for each in plain["requirements"] for finding in each["findings"] if finding["outcome"] in {"fail", "unknown"}]
    (folder / "waivers.toml").write_text("".join(entry(each["id"], "2026-11-30", ticket="T1") for each in found))
    audit("waived.json", "--waivers", str(folder / "waivers.toml"), "--today", "2026-11-30")
    return folder


class Clock(datetime.datetime):
    """A clock that stands still."""

    at = "2026-11-30T23:59:59+00:00"

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromisoformat(cls.at).astimezone(tz)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Los_Angeles"])
@pytest.mark.parametrize(
    ("moment", "code"), [("2026-11-30T23:59:59+00:00", 0), ("2026-12-01T00:00:00+00:00", 1), ("2026-11-30T00:00:00+00:00", 0)]
)
def test_a_waiver_ends_at_midnight_utc_after_its_last_day(moment, code, zone, run, audited, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setattr(Clock, "at", moment)
    monkeypatch.setattr(options.datetime, "datetime", Clock)
    ended = run("device", "--snapshot", DEMO, "--waivers", audited / "waivers.toml", "--format", "json")
    assert ended[0] == code
    assert json.loads(ended[1])["verdict"] == ("compliant" if code == 0 else "non-compliant")


def test_no_waivers_shows_what_they_cover(run, audited):
    ended = run(
        "device", "--snapshot", DEMO, "--waivers", audited / "waivers.toml", "--today", "2026-11-30", "--no-waivers", "--format", "json"
    )
    document = json.loads(ended[1])
    assert (ended[0], document["verdict"], document["counts"]["waived"]) == (1, "non-compliant", 0)
    assert "Waivers were not applied." in document["notes"]
    assert "--no-waivers" in document["judged_with"]
    shown = run("report", "convert", audited / "waived.json", "--no-waivers", "--format", "json")
    assert json.loads(shown[1])["requirements"] == document["requirements"]
    assert "WAIVED" in run("report", "show", audited / "waived.json")[1]
    assert "WAIVED" not in run("report", "show", audited / "waived.json", "--no-waivers")[1]


def test_every_format_shows_the_waiver_with_the_outcome_that_it_covers(run, audited):
    from auditor import registry

    for name in sorted(registry.formats()):
        code, text, _ = run("report", "convert", audited / "waived.json", "--format", name)
        assert code == 0
        if name in {"codequality", "github"}:  # lists of what is wrong: a waived finding is not in them
            assert DRIVER not in text
        elif name == "in-toto":
            assert "WARNED" in text
        else:
            assert "fail" in text.lower(), name
            assert "T1" in text, name


def test_a_file_of_waivers_is_looked_over(run, tmp_path, audited):
    file = tmp_path / "w.toml"
    file.write_text(
        entry(DRIVER)
        + entry("misc-1.closure@x", "2026-11-30")
        + entry("misc-*@*")
        + entry("security-2.nothing@*")
        + entry("zoo-*.baseline@*", "2026-12-05", board="corsola")
    )
    code, out, _ = run("waivers", "check", file, "--today", "2026-12-01")
    assert (code, out.splitlines()) == (
        1,
        [
            f"The waiver of {DRIVER} is in force until 2027-03-31.",
            "The waiver of misc-1.closure@x expired on 2026-11-30 and covers nothing.",
            "The waiver of misc-*@* is too broad: expected the word of a check before the @.",
            "The waiver of security-2.nothing@* is in force until 2027-03-31.",
            "The waiver of zoo-*.baseline@* on corsola expires soon: 2026-12-05 is the last day that it is in force.",
        ],
    )
    code, out, _ = run("waivers", "check", file, "--today", "2026-11-01", "--report", audited / "plain.json")
    assert code == 1
    assert "security-2.nothing@* matches no failed or unknown finding." in out
    assert "misc-*@* is too broad: it covers" in out
    assert "zoo-*.baseline@* on corsola covers nothing: " in out
    file.write_text(entry(DRIVER))
    assert run("waivers", "check", file, "--today", "2026-11-01", "--report", audited / "plain.json")[0] == 0


def test_a_draft_covers_what_fails_once_it_is_filled_in(run, tmp_path, audited):
    code, out, _ = run("waivers", "draft", audited / "plain.json", "--today", "2026-11-01")
    assert code == 0
    (tmp_path / "w.toml").write_text(out)
    code, _, err = run("device", "--snapshot", DEMO, "--waivers", tmp_path / "w.toml")
    assert (code, err) == (2, f"crosml-audit: {tmp_path}/w.toml: waiver[0].reason: expected text, got an empty string\n")
    (tmp_path / "w.toml").write_text(out.replace('""', '"filled in"'))
    assert run("device", "--snapshot", DEMO, "--waivers", tmp_path / "w.toml", "--today", "2027-01-30")[0] == 3
    assert run("device", "--snapshot", DEMO, "--waivers", tmp_path / "w.toml", "--today", "2027-01-31")[0] == 1


def test_a_pattern_may_stand_for_several_findings(run, tmp_path):
    (tmp_path / "w.toml").write_text(entry("zoo-*-latency.baseline@*"))
    _, out, _ = run("device", "--snapshot", DEMO, "--waivers", tmp_path / "w.toml", "--today", "2026-11-01", "--format", "json")
    document = json.loads(out)
    for requirement in document["requirements"]:
        for finding in requirement["findings"]:
            assert bool(finding["waiver"]) is (finding["outcome"] == "unknown" and matches("zoo-*-latency.baseline@*", finding["id"]))
    assert any("is too broad" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("old", "new", "options_", "code"),
    [
        ("plain", "plain", ["--fail-on", "regression"], 0),
        ("waived", "plain", [], 0),
        ("waived", "plain", ["--fail-on", "regression"], 1),
        ("plain", "waived", ["--fail-on", "regression"], 0),
    ],
)
def test_a_regression_is_an_exit_code(old, new, options_, code, run, audited):
    ended = run("report", "diff", audited / f"{old}.json", audited / f"{new}.json", *options_)
    assert ended[0] == code
    assert (ended[1] == "no difference\n") is (old == new)
    if old != new:
        assert "    cause: waiver\n" in ended[1]


def test_a_comparison_in_other_formats(run, audited):
    files = audited / "waived.json", audited / "plain.json"
    assert json.loads(run("report", "diff", *files, "--format", "json")[1])["regression"] is True
    assert run("report", "diff", *files, "--format", "html")[1].startswith("<!doctype html>")
    assert run("report", "diff", *files, "--tolerance", "-1")[0] == 2
