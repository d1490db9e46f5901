"""What each numbered error means: one page a number, in Markdown, in the folder `protocols/explained`.

A page says what happened, why it is so, and what to do, and ends with a message as it is shown.
"""

from __future__ import annotations

import re
from importlib.resources import files

from ..errors import Misused

_FOLDER = files("interlock.protocols").joinpath("explained")
_PAGE = re.compile(r"E([0-9]{3})\.md")
_NEAR = 3


def numbers() -> list[int]:
    """All numbers that have a page."""
    names = (each.name for each in _FOLDER.iterdir())
    return sorted(int(found[1]) for name in names if (found := _PAGE.fullmatch(name)))


def page(number: int) -> str:
    """The page of one error.

    Raises:
        Misused: E742, no error has this number.
    """
    known = numbers()
    if number not in known:
        near = sorted(sorted(known, key=lambda other: abs(other - number))[:_NEAR])
        raise Misused(
            742,
            f"there is no error E{number}",
            expected=f"a number such as {', '.join(map(str, near))}",
            actual=number,
            todo="Without a number, interlock explain lists them all.",
        )
    return _FOLDER.joinpath(f"E{number}.md").read_text(encoding="utf-8")


def title(number: int) -> str:
    """The page's first line, without the number.

    Raises:
        Misused: E742.
    """
    return page(number).partition("\n")[0].partition(": ")[2]
