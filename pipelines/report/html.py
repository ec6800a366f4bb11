"""Pieces of HTML. All text goes through `fill`, so that none of it becomes markup."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from markupsafe import Markup

# Characters that are not seen and change what is: controls, overrides of the direction, text in invisible tags.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


class Heat(NamedTuple):
    """A table cell with a background: `level` from -1 (full, other colour) over 0 (none) to 1 (full)."""

    text: Any
    level: float


def visible(text: str) -> str:
    """Unseen characters by their numbers: U+202E as `[U+202E]`."""
    return _UNSEEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def fill(template: str, *values: Any) -> Markup:
    """Our own markup with values in its `{}`: text is escaped, with its unseen characters shown."""
    texts = (visible(one) if isinstance(one, str) and not isinstance(one, Markup) else one for one in values)
    return Markup(template).format(*texts)


def join(pieces: Iterable[Markup]) -> Markup:
    return Markup("").join(pieces)


def shown(value: Any) -> str:
    """A value as a reader wants it: 1234567 as 1,234,567; 0.123456 as 0.123; None as a dash."""
    match value:
        case None:
            return "–"
        case Markup():
            return value
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        case _:
            return str(value)


def size(tokens: int | None) -> str:
    """A length bucket: 512, 1k, 128k, 1M."""
    if tokens is None:
        return "not known"
    for limit, unit in ((2**20, "M"), (2**10, "k")):
        if tokens >= limit:
            return f"{tokens // limit}{unit}"
    return str(tokens)


def percent(part: float | None, whole: float | None) -> str:
    return "–" if part is None or not whole else f"{100 * part / whole:.1f}%"


def table(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Markup:
    """A titled table that scrolls in its own box where the page is narrow; nothing where there are no rows. The first
    column names the row."""
    body = [list(row) for row in rows]
    if not body:
        return Markup("")
    numeric = [any(_is_number(row[place]) for row in body) for place in range(len(names))]
    head = join(
        fill('<th scope="col"{}>{}</th>', _N if right else "", shown(name))
        for name, right in zip(names, numeric, strict=True)
    )
    lines = join(fill('<tr><th scope="row">{}</th>{}</tr>', shown(row[0]), join(map(_cell, row[1:]))) for row in body)
    return fill(
        '<div class="titled"><h3>{0}</h3><div class="box" role="region" tabindex="0" aria-label="{0}">'
        '<table aria-label="{0}"><thead><tr>{1}</tr></thead><tbody>{2}</tbody></table></div></div>',
        title,
        head,
        lines,
    )


_N = Markup(' class="n"')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Heat) or (isinstance(value, str) and bool(re.fullmatch(r"[\d.]+%", value)))


def _cell(value: Any) -> Markup:
    if isinstance(value, Heat):
        sign = "h" if value.level >= 0 else "g"
        return fill('<td class="n {}{}">{}</td>', sign, round(abs(value.level) * 10), shown(value.text))
    return fill("<td{}>{}</td>", _N if _is_number(value) or value is None else "", shown(value))


def side(*tables: Markup) -> Markup:
    """Tables beside each other where the page is wide enough."""
    return fill('<div class="side">{}</div>', join(tables))


def note(text: str) -> Markup:
    return fill("<p>{}</p>", text)


def swatch(name: str) -> Markup:
    """A name with the colour that stands for it."""
    return fill(
        '<svg class="swatch" viewBox="0 0 9 9" aria-hidden="true"><rect class="{0}" width="9" height="9"/></svg>{0}',
        name,
    )


def listing(lines: Iterable[Any]) -> Markup:
    items = join(fill("<li>{}</li>", shown(line)) for line in lines)
    return fill("<ul>{}</ul>", items) if items else items
