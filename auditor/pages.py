"""The templates of pages that are made beside the reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def template(package: str, name: str) -> jinja2.Template:
    """A page from the folder `templates` of a package. What is put into it is escaped; what it lacks is an error."""
    import jinja2  # noqa: PLC0415  # nothing else needs it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
