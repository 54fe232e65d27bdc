"""The files that stand for the zoo's models: those given, the device's own, or generated stand-ins."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditor.errors import UsageError
from auditor.model import ZooModelUsed, visible
from auditor.zoo.catalogue import ZooModel
from auditor.zoo.find import FoundImage, FoundModel, find_images, find_models
from auditor.zoo.generate import generate, stand_ins
from auditor.zoo.published import MANIFEST, Golden, Published, read_published

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from auditor.zoo.catalogue import ZooVersion

DEVICE_FOLDERS = ("/usr/local/share/ml-test-assets", "/usr/local/mlbenchmark/data")
"""Where ChromeOS test images keep the zoo (chromeos-base/ml-test-assets; the Tast test's own data)."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that stands for a zoo model. `origin` is `device`, `given` or `stand-in`; `images` and golden `cases` lay beside it.

    `archive` is the sha512 of the archive that it was read from; empty for a file of a folder.
    """

    model: ZooModel
    content: bytes
    sha256: str
    origin: str
    images: tuple[FoundImage, ...] = field(default=(), repr=False)
    cases: tuple[Golden, ...] = field(default=(), repr=False)
    archive: str = ""

    @property
    def used(self) -> ZooModelUsed:
        """What a record keeps of it."""
        return ZooModelUsed(self.model.name, self.sha256, self.origin)


def model_files(zoo: ZooVersion, given: str | None) -> tuple[ModelFile, ...]:
    """The files to run, in the zoo's order: those given (a folder or an archive), else the device's own, else generated stand-ins.

    A model whose graph is not public has no stand-in. Raises UsageError for a folder or an archive that cannot be read, or holds no model.
    """
    found = found_files(zoo, given)
    generated = {} if given is not None else {each.model.name: each for each in stand_in_files(zoo, found)}
    files = (found.get(model.name) or generated.get(model.name) for model in zoo.models)
    return tuple(file for file in files if file)


def found_files(zoo: ZooVersion, given: str | None) -> dict[str, ModelFile]:
    """The files that are there, by model: those given, else this machine's own. Raises UsageError as `model_files` does."""
    places = [(given, "given")] if given is not None else [(folder, "device") for folder in DEVICE_FOLDERS if os.path.isdir(folder)]
    found: dict[str, ModelFile] = {}
    for place, origin in places:
        images, published = find_images(place), _published(place) if origin == "given" else {}
        for name, each in find_models(place, zoo.models).items():
            cases = _cases(each, published)
            found.setdefault(name, ModelFile(each.model, each.content, each.sha256, origin, images, cases, each.archive))
    if given is not None and not found:
        raise UsageError(f"--zoo: {visible(given)}: expected model files of zoo {zoo.version} (`crosml-audit zoo list`), found none")
    return found


def _published(folder: str) -> dict[str, Published]:
    """The models that a folder's own manifest names, by file name; of a folder that has none, or an archive, nothing is known."""
    if not os.path.isfile(os.path.join(folder, MANIFEST)):
        return {}
    return {os.path.basename(each.path): each for each in read_published(folder).values()}


def _cases(found: FoundModel, published: Mapping[str, Published]) -> tuple[Golden, ...]:
    """The golden cases of a model. Raises UsageError for a file that is not the one that was published beside its manifest."""
    known = published.get(found.file)
    if known is None:
        return ()
    if known.sha256 != found.sha256:
        raise UsageError(f"--zoo: {visible(found.path)}: its sha256 is {found.sha256}, expected {known.sha256} ({MANIFEST})")
    return known.golden


def stand_in_files(zoo: ZooVersion, found: Collection[str]) -> tuple[ModelFile, ...]:
    """Generated stand-ins for the models that were not found and whose graph is public."""
    generated = set(stand_ins(zoo.version)).difference(found)
    return tuple(_stand_in(model) for model in zoo.models if model.name in generated)


def _stand_in(model: ZooModel) -> ModelFile:
    content = generate(model.name)
    return ModelFile(model, content, hashlib.sha256(content).hexdigest(), "stand-in")
