"""Charts as inline SVG. Colours are classes of the page's style, so that they follow light, dark and print."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from pipelines.report.html import fill, join, shown, size

_WIDTH, _TOP, _BOTTOM, _HEIGHT = 320, 14, 114, 132  # of a chart; bars stand between top and bottom
_WIDEST = 44  # a bar
_LABELS = 8  # that fit below a chart
_BAR = '<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
_LABEL = '<text x="{:.1f}" y="{:.1f}">{}</text>'
_PART = '<rect class="{}" x="{:.2f}" width="{:.2f}" height="12"><title>{}</title></rect>'


def bars(title: str, values: Sequence[tuple[str, int]], about: str = "") -> Markup:
    """A bar for each (label, count). `about`: a line below the title."""
    most = max((count for _, count in values), default=0)
    if not most:
        return Markup("")
    step = _WIDTH / len(values)
    every = -(-len(values) // _LABELS)
    pieces = []
    for number, (label, count) in enumerate(values):
        middle, width = (number + 0.5) * step, min(_WIDEST, max(1.0, step - 2))
        top = _BOTTOM - (_BOTTOM - _TOP) * count / most
        place, told = (middle - width / 2, top, width, _BOTTOM - top), f"{label}: {shown(count)}"
        pieces.append(fill(_BAR, *place, told))
        if count and len(values) <= 12:
            pieces.append(fill(_LABEL, middle, top - 3, _short(count)))
        if number % every == 0:
            pieces.append(fill(_LABEL, middle, _HEIGHT - 4, label))
    spoken = f"{title}. " + ", ".join(f"{label}: {shown(count)}" for label, count in values if count)
    return fill(
        '<figure><figcaption>{}<small>{}</small></figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="axis" d="M0 {}H{}"/>{}</svg></figure>',
        *(title, about, _WIDTH, _HEIGHT, spoken, _BOTTOM + 0.5, _WIDTH, join(pieces)),
    )


def lengths(title: str, counts: dict[int, int], about: str = "") -> Markup:
    """Counts by powers of two, without gaps."""
    if not counts:
        return Markup("")
    powers = range(min(counts).bit_length() - 1, max(counts).bit_length())
    return bars(title, [(size(2**power), counts.get(2**power, 0)) for power in powers], about)


def strip(parts: Sequence[tuple[str, int]]) -> Markup:
    """One bar of parts, for a table cell: (class and name, count)."""
    total = sum(count for _, count in parts)
    if not total:
        return Markup("")
    pieces, x = [], 0.0
    for name, count in parts:
        width = 120 * count / total
        if count:
            pieces.append(fill(_PART, name, x, width, f"{name}: {shown(count)}"))
        x += width
    spoken = ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in parts if count)
    return fill('<svg class="strip" viewBox="0 0 120 12" role="img" aria-label="{}">{}</svg>', spoken, join(pieces))


def grid(charts: Iterable[Markup]) -> Markup:
    """Charts beside and below each other, as the page is wide; nothing without any."""
    pieces = join(charts)
    return fill('<div class="grid">{}</div>', pieces) if pieces else pieces


def _short(count: int) -> str:
    for limit, unit in ((10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.{int(count < 10 * limit)}f}{unit}"
    return str(count)
