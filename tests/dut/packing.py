"""The auditor's own code, to be put on a machine."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def worker_package() -> bytes:
    """All of it as a zip that Python imports from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted((ROOT / "auditor").rglob("*.py")):
            archive.write(path, path.relative_to(ROOT))
    return buffer.getvalue()
