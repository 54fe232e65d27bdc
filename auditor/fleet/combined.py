"""The report of a whole run, in the formats that one device's report has: JUnit, KCIDB, CTRF. And its own: text and JSON.

A device that could not be audited is in them with a requirement of its own, `audit`, which is unknown: no format may take it for success.
"""

from __future__ import annotations

import json
import os
import uuid
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditError
from auditor.fleet.controller import DEVICES, folder_of
from auditor.gather import TOOL
from auditor.model import (
    DeviceSummary,
    Finding,
    Level,
    Outcome,
    Owner,
    Report,
    RequirementResult,
    Verdict,
    ZooUsed,
    visible,
)
from auditor.reporting import load_report
from reports import ctrf, junit, kcidb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from auditor.fleet.controller import Run
    from auditor.fleet.inventory import Inventory, Member
    from auditor.fleet.results import Ended

SCHEMA = "crosml-audit/fleet-summary/1"
_SHOWN = 5
"""Requirements that a device's line in the text names."""


def reports(inventory: Inventory, run: Run, *, synthetic: bool = True) -> Iterator[tuple[str, Report]]:
    """The report of each device, under its name in the inventory; of one that has none, with `synthetic` a report that says why."""
    for member in inventory.members:
        ended = run.ended.get(member.name)
        report = None
        if ended is not None and ended.verdict is not None:
            report = load_report(os.path.join(folder_of(run.folder, member.name), "report.json"))
        if report is not None or synthetic:
            report = report or _not_carried_out(member, ended)
            yield member.name, replace(report, device=replace(report.device, name=member.name))


def _not_carried_out(member: Member, ended: Ended | None) -> Report:
    why = ended.failure.value if ended and ended.failure else "not begun"
    finding = Finding(
        id=f"audit.carried-out@{member.name}",
        check="audit.carried-out",
        subject=member.name,
        outcome=Outcome.UNKNOWN,
        level=Level.MUST,
        observed=ended.message if ended else "the run was interrupted",
        expected="an audit that is carried out to its end",
        reason=f"The device was not audited: {why}.",
        remediation="Make the device reachable over ssh, and run the fleet again.",
        owner=Owner.LAB,
        waiver=None,
        evidence=(),
    )
    result = RequirementResult("audit", "The audit is carried out", Level.MUST, Outcome.UNKNOWN, waived=False, findings=(finding,))
    counts = {**{each.value: 0 for each in Outcome}, "waived": 0, Outcome.UNKNOWN.value: 1}
    device = DeviceSummary("ssh", member.name, "", "")
    asked = member.request.requirements
    return Report(TOOL, asked, ZooUsed(""), device, (), Verdict.INCOMPLETE, counts, (result,))


def text(inventory: Inventory, run: Run) -> str:
    """What the run came to, a line each device that is not compliant."""
    names = [member.name for member in inventory.members]
    words = Counter(_word(run.ended.get(name)) for name in names)
    lines = [f"{run.name}: {len(names)} devices: {', '.join(f'{count} {word}' for word, count in sorted(words.items()))}"]
    width = max(map(len, names))
    for name in names:
        ended = run.ended.get(name)
        if ended is None:
            lines.append(f"{name:<{width}}  not begun")
        elif ended.verdict is not Verdict.COMPLIANT or ended.failure:
            open_ones = [key for key, outcome in ended.outcomes.items() if outcome in {"fail", "error"}]
            more = f", and {len(open_ones) - _SHOWN} more" if len(open_ones) > _SHOWN else ""
            said = ended.message or ", ".join(open_ones[:_SHOWN]) + more
            lines.append(f"{name:<{width}}  {ended.told}{': ' if said else ''}{said}")
    lines.append(f"index: {os.path.join(run.folder, 'index.html')}")
    return "".join(f"{visible(line)}\n" for line in lines)


def _word(ended: Ended | None) -> str:
    if ended is None:
        return "not begun"
    return ended.verdict.value if ended.verdict else "not carried out"


def as_json(inventory: Inventory, run: Run) -> str:
    """The run for programs: each device with its verdict, its failure, its requirements, and where its files are."""
    devices = []
    for member in inventory.members:
        ended = run.ended.get(member.name)
        document: dict[str, Any] = {"device": member.name, "verdict": None, "failure": None, "folder": f"{DEVICES}/{member.name}"}
        devices.append(document | (ended.document() if ended else {}))
    return json.dumps({"schema": SCHEMA, "run": run.name, "complete": run.complete, "exit": run.exit, "devices": devices}, indent=1) + "\n"


def as_junit(inventory: Inventory, run: Run) -> str:
    """The suites of all devices; a suite's name begins with its device's."""
    root = ET.Element("testsuites", name=f"{TOOL.name}: {run.name}")
    totals: Counter[str] = Counter()
    for name, report in reports(inventory, run):
        document = ET.fromstring(junit.render(report))  # noqa: S314  # written by ourselves, a line earlier
        for suite in document:
            suite.set("name", f"{name}: {suite.get('name')}")
            for case in suite.iter("testcase"):
                case.set("classname", f"{name}.{case.get('classname')}")
            root.append(suite)
        totals.update({key: int(document.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")})
    for key, count in totals.items():
        root.set(key, str(count))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def as_ctrf(inventory: Inventory, run: Run) -> str:
    """The tests of all devices; each is in the suite of its device."""
    document: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    times: list[int] = []
    for name, report in reports(inventory, run):
        document = json.loads(ctrf.render(report))
        results = document["results"]
        tests += [{**test, "name": f"{name}: {test['name']}", "suite": [name, *test.get("suite", [])]} for test in results["tests"]]
        times += [value for value in (results["summary"]["start"],) if value]
    counted = Counter(test["status"] for test in tests)
    statuses = {each: counted[each] for each in ("passed", "failed", "skipped", "pending", "other")}
    summary = {"tests": len(tests), **statuses, "suites": len(inventory.members)}
    when = {"start": min(times, default=0), "stop": max(times, default=0)}
    document["reportId"] = str(uuid.uuid5(uuid.UUID(document["reportId"]), run.name))
    document["results"] |= {"summary": summary | when, "tests": tests, "environment": {"testEnvironment": run.name}}
    document["extra"] = {"exit": run.exit, "complete": run.complete}
    return json.dumps(document, indent=1) + "\n"


def as_kcidb(inventory: Inventory, run: Run) -> str:
    """The checkouts, builds and tests of all devices. Two devices may have the same record, so their ids have the device in them."""
    version: Any = None
    merged: dict[str, list[dict[str, Any]]] = {"checkouts": [], "builds": [], "tests": []}
    for name, report in reports(inventory, run):
        document = json.loads(kcidb.render(report))
        version = document["version"]
        for kind, items in merged.items():
            items += [_of_device(item, f"{run.name}/{name}") for item in document[kind]]
    return json.dumps({"version": version, **merged}, indent=1) + "\n"


def _of_device(item: dict[str, Any], device: str) -> dict[str, Any]:
    ids = {key: item[key] for key in ("id", "checkout_id", "build_id") if key in item}
    origin = f"{kcidb.ORIGIN}:"
    return item | {key: origin + str(uuid.uuid5(uuid.UUID(value.removeprefix(origin)), device)) for key, value in ids.items()}


FORMATS: dict[str, Callable[[Inventory, Run], str]] = {
    "text": text,
    "json": as_json,
    "junit": as_junit,
    "ctrf": as_ctrf,
    "kcidb": as_kcidb,
}


def render(name: str, inventory: Inventory, run: Run) -> bytes:
    """The run in a format. Raises AuditError for a report that was changed meanwhile."""
    try:
        return FORMATS[name](inventory, run).encode()
    except ET.ParseError as error:
        raise AuditError(f"{run.name}: {name}: {error}") from None
