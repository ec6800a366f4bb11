"""FineWeb's rules on lines (Penedo et al. 2406.17557), as datatrove has them.

What a line ends in is its last character that is not white space (datatrove: its very last, so that lines which end in
carriage returns or blanks end in nothing). As with Gopher's rules, a line of white space only is none, and words are
tokens.
"""

import numpy as np

from filters.curation.batch import Batch, Windows
from filters.curation.family import Family, Measure, share
from filters.curation.groups import copies
from filters.curation.tokens import terminal
from schemas.curation.quality import FineWebConfig


class FineWeb(Family[FineWebConfig]):
    name = "fineweb"

    def measures(self, batch: Batch, windows: Windows) -> list[Measure]:
        config, tokens, lines = self.config, windows.tokens, windows.lines
        count, breaks = lines.counts(), windows.count("\n")
        ends = terminal(tokens.points[tokens.ends[lines.first[1:] - 1] - 1])
        ended = np.add.reduceat(ends, lines.cuts, dtype=np.int64)
        short = np.add.reduceat(lines.sizes <= config.short_line, lines.cuts, dtype=np.int64)
        copied = copies(lines.keys, lines.windows(), windows).sums(lines.sizes, windows.sizes - breaks)
        return [
            share(windows, "line_punct_frac", ended, count, least=config.min_lines_with_end),
            share(windows, "short_line_frac", short, count, most=config.max_short_lines),
            Measure("dup_line_char_frac", *copied, most=config.max_duplicate_line_characters),
            share(windows, "break_ratio", breaks, windows.token_counts(), most=config.max_breaks),
        ]
