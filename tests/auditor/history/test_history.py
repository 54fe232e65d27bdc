"""The database of runs and what is read out of it: kept once, told in lines, drawn; and files that are none of ours."""

from __future__ import annotations

import json
import random
import sqlite3
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from auditor import cli
from auditor.engine import counts, verdict
from auditor.engine import outcome as combined
from auditor.errors import AuditError
from auditor.history import page, views
from auditor.history.store import APPLICATION, VERSION, History, entry
from auditor.model import Outcome
from fixtures.report import sample
from reports import json as json_format

MODEL = "selfie_segmentation_landscape_256x256"


def night(number, *, device="board", kernel="6.12.1", factor=1.0, outcome=None, seed=0):
    """A report of one night; `outcome` is that of its first finding."""
    report = sample()
    source = random.Random(1000 * seed + number)
    level = 4000 * source.gauss(1, 0.002) * factor
    runs = tuple(replace(report.model_runs[0], bracket_us=level * source.gauss(1, 0.004)) for _ in range(5))
    about = replace(report.device, name=device, kernel=kernel, collected_at=f"2026-11-{number + 1:02}T01:00:00+00:00")
    results = list(report.requirements)
    if outcome is not None:
        finding = replace(results[0].findings[0], outcome=outcome, waiver=None)
        findings = (finding, *results[0].findings[1:])
        found, waived = combined(findings)
        results[0] = replace(results[0], findings=findings, outcome=found, waived=waived)
    parts = tuple(results)
    return replace(report, device=about, model_runs=runs, requirements=parts, verdict=verdict(parts), counts=counts(parts))


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "history.db")


def kept(path, reports):
    with History(path, create=True) as history:
        return [history.add(each) for each in reports]


def command(capsys, *arguments):
    """Exit code, stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["crosml-audit", "history", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_report_is_kept_once_and_read_back(path):
    report = night(3)
    assert kept(path, [report, report, night(1)]) == [True, False, True]
    with History(path) as history:
        assert history.devices() == ["board"]
        first, second = history.runs("board")
    assert (first, second) == (entry(night(1)), entry(report))
    assert second.latencies[MODEL] == tuple(run.bracket_us for run in report.model_runs)
    assert second.traits["kernel"] == "6.12.1"


def test_two_programs_write_at_a_time(path):
    with History(path, create=True) as one, History(path, create=True) as other:
        assert one.add(night(1))
        assert other.add(night(2))
        assert not one.add(night(2))
        assert len(other.runs("board")) == 2


def test_a_regression_is_named_with_the_kernel_that_came_with_it(path, capsys, tmp_path):
    nights = [night(number, kernel="6.12.2" if number >= 20 else "6.12.1", factor=1.03 if number >= 20 else 1.0) for number in range(30)]
    kept(path, nights)
    code, out, _ = command(capsys, "trend", path, "--html", str(tmp_path / "trend.html"))
    assert code == 0
    assert "30 runs, last " in out
    assert "2026-11-21T01:00:00+00:00: regression: 3." in out
    drawn = (tmp_path / "trend.html").read_text()
    assert "1 with a regression" in drawn
    assert drawn.count("<svg") == 1
    _, out, _ = command(capsys, "blame", path)
    assert out.splitlines()[0] == "kernel: 6.12.1, now 6.12.2 (1 device)"
    assert f"    board  2026-11-21T01:00:00+00:00  {MODEL}: regression" in out
    _, out, _ = command(capsys, "list", path)
    assert len(out.splitlines()) == 30
    assert "kernel: 6.12.1, now 6.12.2" in out.splitlines()[20]


def test_noise_names_nothing(path, capsys):
    kept(path, [night(number, seed=5) for number in range(30)])
    assert "regression" not in command(capsys, "trend", path)[1]
    assert not command(capsys, "blame", path)[1]


def test_a_finding_that_flaps_is_told_from_one_that_a_change_turned(path, capsys):
    flap, steady = (Outcome.PASS, Outcome.FAIL), (Outcome.PASS,)
    reports = [night(number, outcome=flap[number % 2]) for number in range(6)]
    reports += [night(number, device="other", outcome=steady[0]) for number in range(3)]
    reports += [night(number, device="other", outcome=Outcome.FAIL, kernel="6.13") for number in range(3, 6)]
    kept(path, reports)
    code, out, _ = command(capsys, "flaky", path)
    assert code == 0
    (line,) = out.splitlines()
    name = reports[0].requirements[0].findings[0].id
    assert line == f"board  {name}  changed 5 times in 6 runs: 3 fail, 3 pass"
    _, out, _ = command(capsys, "blame", path, "--device", "other")
    assert out.splitlines()[0] == "kernel: 6.12.1, now 6.13 (1 device)"
    assert f"{name}: pass, now fail" in out
    _, out, _ = command(capsys, "blame", path)
    assert "without a change that is known (1 device)" in out


def test_a_change_that_came_to_more_devices_is_first():
    turn = views.Turn("a", "2", "1", "verdict: compliant, now non-compliant", (("kernel", "1", "2"),))
    other = views.Turn("b", "2", "1", "x", (("build", "1", "2"), ("kernel", "1", "2")))
    assert [(name, len(group)) for name, group in views.blame([turn, other])] == [("kernel: 1, now 2", 2), ("build: 1, now 2", 1)]


def test_reports_are_added_from_files(path, capsys, tmp_path):
    (tmp_path / "a.json").write_text(json_format.render(night(1)))
    assert command(capsys, "add", path, str(tmp_path / "a.json"), "--device", "rack-1")[:2] == (0, "1 new, 0 known\n")
    assert command(capsys, "add", path, str(tmp_path / "a.json"), "--device", "rack-1")[1] == "0 new, 1 known\n"
    assert "rack-1" in command(capsys, "list", path)[1]
    code, _, err = command(capsys, "list", path, "--device", "rack-2")
    assert (code, err) == (2, "crosml-audit: --device rack-2: expected a device of the history\n")


def test_hostile_names_are_escaped(path, capsys, tmp_path):
    report = night(1, device="<script>\x1b[2J", kernel="<b>\n")
    kept(path, [report])
    out = command(capsys, "trend", path, "--html", str(tmp_path / "t.html"))[1]
    assert "\x1b" not in out
    drawn = (tmp_path / "t.html").read_text()
    assert "<script>" not in drawn
    assert "\x1b" not in drawn


def test_the_trend_page_of_500_devices_is_below_a_megabyte():
    entries = [entry(night(number)) for number in range(30)]
    (one,) = views.trends(entries)
    many = [replace(one, device=f"board-{number:03}", model=f"{MODEL}-{model}") for number in range(500) for model in range(3)]
    drawn = page.render(many)
    assert len(drawn.encode()) < 1_000_000
    assert "more are not on this page" in drawn
    svg = drawn[drawn.index("<svg") : drawn.index("</svg>") + 6]
    assert ET.fromstring(svg).get("role") == "img"


def make_newer(path):
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()


def make_foreign(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 1")
    connection.close()


def cut_short(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) // 3)


def overwrite(path):
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 60000)


def write_text(path):
    with open(path, "w", encoding="utf-8") as file:
        file.write("not a database, but long enough to be read as one " * 100)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (make_newer, f"has version {VERSION + 1}, expected at most {VERSION}: a newer crosml-audit made it"),
        (make_foreign, "expected a history that crosml-audit made"),
        (cut_short, "damaged"),
        (overwrite, "damaged"),
        (write_text, "expected a history that crosml-audit made"),
    ],
)
@pytest.mark.parametrize("write", [False, True])
def test_a_file_that_is_no_history_of_ours_is_one_line(path, capsys, tmp_path, damage, said, write):
    kept(path, [night(number) for number in range(10)])
    damage(path)
    (tmp_path / "a.json").write_text(json_format.render(night(11)))
    code, _, err = command(capsys, "add", path, str(tmp_path / "a.json")) if write else command(capsys, "blame", path)
    assert (code, err) == (4, f"crosml-audit: {path}: {said}\n")


def test_a_value_that_was_changed_is_one_line(path):
    kept(path, [night(1)])
    for value in ('["x"]', "[", "1"):
        connection = sqlite3.connect(path)
        connection.execute("UPDATE latency SET means = ?", (value,))
        connection.commit()
        connection.close()
        with pytest.raises(AuditError, match=r"damaged: a value is not what was written$"), History(path) as history:
            history.runs("board")


def test_a_history_that_does_not_exist_is_made_only_to_add(path, capsys):
    assert command(capsys, "list", path) == (4, "", f"crosml-audit: {path}: No such file or directory\n")
    with pytest.raises(AuditError, match="cannot be opened"), History("/no/such/folder/h.db", create=True):
        pass


def test_a_full_disk_is_one_line_and_leaves_what_was_there(path):
    kept(path, [night(1)])
    with History(path, create=True) as history:
        pages = history._connection.execute("PRAGMA page_count").fetchone()[0]
        history._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(AuditError, match=rf"{path}: no space left on the disk$"):
            [history.add(night(number)) for number in range(2, 20)]
    with History(path) as history:
        runs = history.runs("board")
    assert all(each == entry(night(number)) for number, each in enumerate(runs, 1))
    assert 0 < len(runs) < 19


def test_the_tables_are_marked_as_ours(path):
    kept(path, [])
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert json.loads("[]") == connection.execute("SELECT * FROM run").fetchall()
    connection.close()
