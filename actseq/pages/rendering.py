"""Pages from the templates of this package. A page holds its style and its script: it loads nothing from elsewhere."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from actseq.pages.sounds import colours

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def asset(name: str) -> str:
    """Text of `style.css` or `player.js`."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def environment(*packages: str) -> Environment:
    """Templates of this package, and of other packages that have a folder `templates`.

    All values are escaped, and a name that a template does not know is an error.

    Args:
        packages: names of the other packages; their templates are found first.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = [PackageLoader(package) for package in (*packages, "actseq.pages")]
    made = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals |= {"asset": asset, "colours": colours}
    made.filters["breakable"] = breakable
    return made


def breakable(text: str) -> Markup:
    """A text, escaped, whose long names may be broken behind `_` and `-`."""
    from markupsafe import Markup

    return Markup("<wbr>").join(re.split(r"(?<=[-_])(?=\w)", text))


def render(template: str, *packages: str, **values: Any) -> str:
    """The page that a template makes of some values.

    Args:
        template: name of the template.
        packages: as for `environment`.
        values: what the template shows. Bytes of a file name that are not UTF-8 become replacement characters.
    """
    page = environment(*packages).get_template(template).render(values)
    return readable(page)


def readable(text: str) -> str:
    """A text with replacement characters for bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
