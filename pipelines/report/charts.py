"""Charts as inline SVG. Colours are classes of the page's style, so that they follow light, dark and print."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from pipelines.report.html import shown, size, visible

_WIDTH, _TOP, _BOTTOM, _HEIGHT = 320, 14, 114, 132  # of a chart; bars stand between top and bottom
_WIDEST = 44  # a bar
_LABELS = 8  # that fit below a chart


def bars(title: str, values: Sequence[tuple[str, int]], about: str = "") -> Markup:
    """A bar for each (label, count). `about`: a line below the title."""
    most = max((count for _, count in values), default=0)
    if not most:
        return Markup("")
    step = _WIDTH / len(values)
    every = -(-len(values) // _LABELS)
    pieces = []
    for number, (label, count) in enumerate(values):
        height, x = (_BOTTOM - _TOP) * count / most, number * step
        y, width, middle = _BOTTOM - height, min(_WIDEST, max(1.0, step - 2)), x + step / 2
        pieces.append(
            Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
            .format(middle - width / 2, y, width, height, visible(f"{label}: {shown(count)}"))
        )  # fmt: skip
        if count and len(values) <= 12:
            pieces.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(middle, y - 3, _short(count)))
        if number % every == 0:
            pieces.append(Markup('<text x="{:.1f}" y="{:.1f}">{}</text>').format(middle, _HEIGHT - 4, visible(label)))
    spoken = visible(f"{title}. " + ", ".join(f"{label}: {shown(count)}" for label, count in values if count))
    return Markup(
        '<figure><figcaption>{}<small>{}</small></figcaption><svg viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<path class="axis" d="M0 {}H{}"/>{}</svg></figure>'
    ).format(visible(title), visible(about), _WIDTH, _HEIGHT, spoken, _BOTTOM + 0.5, _WIDTH, Markup("").join(pieces))


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
            pieces.append(
                Markup('<rect class="{}" x="{:.2f}" width="{:.2f}" height="12"><title>{}</title></rect>')
                .format(name, x, width, f"{name}: {shown(count)}")
            )  # fmt: skip
        x += width
    spoken = ", ".join(f"{name} {100 * count / total:.0f}%" for name, count in parts if count)
    return Markup('<svg class="strip" viewBox="0 0 120 12" role="img" aria-label="{}">{}</svg>').format(
        spoken, Markup("").join(pieces)
    )


def grid(charts: Iterable[Markup]) -> Markup:
    """Charts beside and below each other, as the page is wide; nothing without any."""
    pieces = Markup("").join(charts)
    return Markup('<div class="grid">{}</div>').format(pieces) if pieces else pieces


def _short(count: int) -> str:
    for limit, unit in ((10**6, "M"), (10**3, "k")):
        if count >= 10 * limit:
            return f"{count / limit:.0f}{unit}"
    return f"{count:,}"
