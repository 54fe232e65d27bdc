"""Manifests that pin the zoo's files by sha256, in sha256sum's format: read, and made from a copy that the user trusts."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from auditor import files
from auditor.errors import UsageError
from auditor.model import visible
from auditor.zoo.catalogue import IdentityKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from auditor.zoo.catalogue import ZooVersion
    from auditor.zoo.find import FoundModel

TOOLS = ("benchmark_model", "inference_diff_eval")
"""TFLite's own tools, which measure a zoo where a device has them."""
MAX_MANIFEST = 1 << 20


def read_manifest(path: str) -> Mapping[str, str]:
    """Read a manifest as sha256sum writes it: base name of each file to its sha256. Raises UsageError with one line for anything else."""
    return parse_manifest(files.read(path, MAX_MANIFEST, path, UsageError), path)


def parse_manifest(data: bytes, path: str) -> Mapping[str, str]:
    """The manifest that came from `path`."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(visible(f"{path}: byte {error.start}: expected UTF-8, a manifest as sha256sum writes it")) from error
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9A-Fa-f]{64}) [ *](.+)", line)
        if match is None:
            raise UsageError(visible(f"{path}: line {number}: expected 64 hexadecimal digits, two spaces and a file name"))
        name, digest = os.path.basename(match[2]), match[1].lower()
        if digests.setdefault(name, digest) != digest:
            raise UsageError(visible(f"{path}: line {number}: {name} has another sha256 above, expected one for each file name"))
    if not digests:
        raise UsageError(visible(f"{path}: expected at least one line: 64 hexadecimal digits, two spaces and a file name"))
    return digests


def remarks(found: Sequence[FoundModel], zoo: ZooVersion) -> Iterator[str]:
    """What somebody who pins these files should know of them: those that are not known to be the zoo's, and models that are missing."""
    published = {each.sha512 for each in zoo.archives}
    for each in found:
        if each.archive not in published and each.identity.kind is not IdentityKind.PINNED:
            yield f"{each.model.name}: pinned as it is: {each.identity.reason}"
    names = {each.model.name for each in found}
    missing = [model.name for model in zoo.models if model.name not in names]
    if names and missing:
        yield f"no file found, and nothing pinned, for {', '.join(missing)}"


def manifest_of(found: Iterable[FoundModel], tools: Mapping[str, str]) -> bytes:
    """The manifest that pins these files, and tools by their names."""
    pairs = (*((each.sha256, each.file) for each in found), *((sha256, name) for name, sha256 in tools.items()))
    return "".join(f"{sha256}  {name}\n" for sha256, name in pairs).encode()
