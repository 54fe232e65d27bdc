"""The database of runs (SQLite, WAL): each audit's verdict, findings, latencies, and what it was an audit of.

One file, `application_id` "crml", `user_version` the version of its tables. A report is in it once, however often it is added. Several
programs may write at a time. A file that is none of ours, newer than this program, or damaged is one line.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.errors import AuditError
from auditor.model import visible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from auditor.model import Report

APPLICATION = 0x63726D6C
VERSION = 1
BUSY_SECONDS = 30.0
"""How long another program that writes is waited for."""

_TABLES = """
CREATE TABLE IF NOT EXISTS run (
    id INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    at TEXT NOT NULL,
    record TEXT NOT NULL,
    requirements TEXT NOT NULL,
    tool TEXT NOT NULL,
    verdict TEXT NOT NULL,
    UNIQUE (device, at, record, requirements, tool)
);
CREATE INDEX IF NOT EXISTS run_of_device ON run (device, at);
CREATE TABLE IF NOT EXISTS finding (run INTEGER NOT NULL REFERENCES run, id TEXT NOT NULL, outcome TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS finding_of_run ON finding (run);
CREATE TABLE IF NOT EXISTS latency (run INTEGER NOT NULL REFERENCES run, model TEXT NOT NULL, means TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS latency_of_run ON latency (run);
CREATE TABLE IF NOT EXISTS trait (run INTEGER NOT NULL REFERENCES run, name TEXT NOT NULL, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS trait_of_run ON trait (run);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One audit of one device. `at` is when its record was made (UTC); the mappings are by finding, model, and name of the trait.

    `latencies` has the means of a model's processes in microseconds, by the auditor's clock. `traits` is what was audited and with what:
    kernel, drivers, digests of firmware, modules and libraries, the program, the requirement set.
    """

    device: str
    at: str
    verdict: str
    requirements: str
    findings: Mapping[str, str]
    latencies: Mapping[str, tuple[float, ...]]
    traits: Mapping[str, str]


def entry(report: Report, device: str | None = None) -> Entry:
    """What is kept of a report; `device` is the name to keep it under, the report's own where it is None."""
    findings = {each.id: each.outcome.value for result in report.requirements for each in result.findings}
    latencies: dict[str, list[float]] = {}
    for run in report.model_runs:
        if run.status == "completed" and run.bracket_us:
            latencies.setdefault(run.model, []).append(run.bracket_us)
    means = {model: tuple(values) for model, values in latencies.items()}
    traits = dict(sorted(_traits(report)))
    name = report.device.name if device is None else device
    return Entry(name, report.device.collected_at, report.verdict.value, report.requirements_set, findings, means, traits)


def _traits(report: Report) -> Iterator[tuple[str, str]]:
    device = report.device
    for name, value in (
        ("kernel", device.kernel),
        ("build", device.build),
        ("system firmware", device.firmware_version),
        ("auditor", f"{report.tool.name} {report.tool.version}"),
        ("requirements", report.requirements_set),
    ):
        if value:
            yield name, value
    for each in report.accelerators:
        yield f"driver of {each.id}", each.driver or "none"
    for image in report.details.firmware:
        if image.sha256:
            yield f"firmware {image.name}", image.sha256
    for model in report.zoo.models:
        yield f"model {model.name}", model.sha256
    for run in report.model_runs:
        yield f"delegate of {run.model}", run.delegate or "none"
        yield f"runtime of {run.model}", f"{run.runner} {run.runtime}"
    for result in report.requirements:
        for finding in result.findings:
            for evidence in finding.evidence:
                if evidence.sha256 and _is_code(evidence.path):
                    yield f"file {evidence.path}", evidence.sha256


def _is_code(path: str) -> bool:
    """Whether a path is that of a kernel module, a library or firmware: what changes between builds, and nothing that a boot changes."""
    name = path.rpartition("/")[2]
    return ".ko" in name or ".so" in name or "/firmware/" in path


class History:
    """A database, open; use as a context manager. Raises AuditError with one line for whatever goes wrong."""

    def __init__(self, path: str, *, create: bool = False) -> None:
        self._path = path
        self._create = create
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Open it, and make its tables where it is new."""
        with self._lines():
            if not self._create:
                with open(self._path, "rb"):
                    pass
            self._connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            with self._lines():
                self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()

    def add(self, report: Report, device: str | None = None) -> bool:
        """Add a report; tells whether it was new."""
        kept = entry(report, device)
        tool = f"{report.tool.name} {report.tool.version}"
        with self._lines(), self._transaction() as connection:
            cursor = connection.execute(
                "INSERT OR IGNORE INTO run (device, at, record, requirements, tool, verdict) VALUES (?, ?, ?, ?, ?, ?)",
                (kept.device, kept.at, report.device.snapshot_sha256, kept.requirements, tool, kept.verdict),
            )
            if not cursor.rowcount:
                return False
            run = cursor.lastrowid
            connection.executemany(
                "INSERT INTO finding VALUES (?, ?, ?)", [(run, name, outcome) for name, outcome in kept.findings.items()]
            )
            connection.executemany(
                "INSERT INTO latency VALUES (?, ?, ?)", [(run, model, json.dumps(means)) for model, means in kept.latencies.items()]
            )
            connection.executemany("INSERT INTO trait VALUES (?, ?, ?)", [(run, name, value) for name, value in kept.traits.items()])
        return True

    def devices(self) -> list[str]:
        """The names of the devices."""
        with self._lines():
            return [name for (name,) in self._open().execute("SELECT DISTINCT device FROM run ORDER BY device")]

    def runs(self, device: str) -> list[Entry]:
        """The audits of a device, the first first."""
        with self._lines():
            connection = self._open()
            rows = connection.execute(
                "SELECT id, at, verdict, requirements FROM run WHERE device = ? ORDER BY at, id", (device,)
            ).fetchall()
            return [self._entry(connection, device, *row) for row in rows]

    def _entry(self, connection: sqlite3.Connection, device: str, run: int, at: str, verdict: str, requirements: str) -> Entry:
        findings = connection.execute("SELECT id, outcome FROM finding WHERE run = ?", (run,))
        traits = connection.execute("SELECT name, value FROM trait WHERE run = ?", (run,))
        means = {}
        for model, text in connection.execute("SELECT model, means FROM latency WHERE run = ?", (run,)):
            means[model] = tuple(float(value) for value in json.loads(text))
        return Entry(device, at, verdict, requirements, dict(findings.fetchall()), means, dict(traits.fetchall()))

    def _check(self) -> None:
        connection = self._open()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION and (tables or application or not self._create):
            raise AuditError(visible(f"{self._path}: expected a history that crosml-audit made"))
        if version > VERSION:
            raise AuditError(visible(f"{self._path}: has version {version}, expected at most {VERSION}: a newer crosml-audit made it"))
        if not tables:
            connection.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement)

    def _open(self) -> sqlite3.Connection:
        assert self._connection is not None, "used outside its context"
        return self._connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        connection = self._open()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _lines(self) -> Iterator[None]:
        """Whatever goes wrong with the file as one line."""
        try:
            yield
        except sqlite3.Error as error:
            raise AuditError(visible(f"{self._path}: {_reason(error)}")) from None
        except OSError as error:
            raise AuditError(visible(f"{self._path}: {error.strerror}")) from None
        except (ValueError, TypeError):  # text where a number was written
            raise AuditError(visible(f"{self._path}: damaged: a value is not what was written")) from None


_REASONS: tuple[tuple[str, str], ...] = (
    ("full", "no space left on the disk"),
    ("not a database", "expected a history that crosml-audit made"),
    ("malformed", "damaged"),
    ("disk I/O error", "damaged, or the disk cannot be read"),
    ("no such table", "damaged: a table is missing"),
    ("readonly", "permission denied"),
    ("unable to open", "cannot be opened"),
    ("locked", f"another program has written to it for more than {BUSY_SECONDS:.0f} s"),
)
"""What SQLite's messages mean, in our words."""


def _reason(error: sqlite3.Error) -> str:
    said = str(error)
    return next((words for part, words in _REASONS if part in said), f"damaged ({said})")
