"""One template to one page, in the look of the report."""

from typing import Final

import jinja2

from edgeprune.report import formats

FILTERS: Final = {"count": formats.count, "percent": formats.percent}


def render(template: str, *, page: object) -> str:
    """Fill a template with what it shows, which it calls ``page``."""
    return environment().get_template(template).render(page=page)


def environment() -> jinja2.Environment:
    """Return templates that escape what they print and refuse what they do not know."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("edgeprune.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(FILTERS)
    return found
