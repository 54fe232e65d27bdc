"""crosml-audit: a compliance auditor for ChromeOS ML accelerators."""

__version__ = "0.1.0"
