"""The two ways in which a command ends without a verdict. Each message is one line that names the file and the field."""

from __future__ import annotations


class UsageError(Exception):
    """The command line, or a file it names, is not what it must be. Exit code 2."""


class AuditError(Exception):
    """The audit could not be carried out. Exit code 4."""
