"""The two ways in which a command ends without a verdict. Each message is one line that names the file and the field."""

from __future__ import annotations

import json


class UsageError(Exception):
    """The command line, or a file it names, is not what it must be. Exit code 2."""


class AuditError(Exception):
    """The audit could not be carried out. Exit code 4."""


def not_json(wrong: ValueError | RecursionError) -> str:
    """What keeps text from being JSON, in our own words: what json says changes with Python's versions."""
    if isinstance(wrong, RecursionError):
        return "nested too deeply"
    if isinstance(wrong, UnicodeDecodeError):
        return f"byte {wrong.start}: expected UTF-8"
    if isinstance(wrong, json.JSONDecodeError):
        return f"line {wrong.lineno}, column {wrong.colno}: expected JSON"
    return "a number has too many digits"  # Python's limit
