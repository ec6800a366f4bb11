"""Choosing and loading the rows of a generate stage: which document or instruction, how often, in which order."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.seen import SeenIds
from pipelines.shards import Part, open_part
from schemas.ids import digest

# Only to choose among documents when ingest did not count tokens; the generator then counts exactly.
CHARS_PER_TOKEN = {"zh": 1.5, "ja": 1.5, "ko": 1.5}
CHARS_PER_TOKEN_ELSE = 4.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document or instruction and where it stands. `tokens` is an estimate where ingest did not count."""

    row_id: str
    source: str
    language: str
    tokens: int
    file: str
    group: int  # row group in the file


@dataclass(frozen=True, slots=True)
class Draw:
    """One row of a generate stage: the how-manieth use of a candidate."""

    candidate: Candidate
    number: int

    @property
    def row_id(self) -> str:
        return f"{self.candidate.row_id}#{self.number}"


def candidates(
    root: Path, parts: Iterable[Part], id_column: str, sources: set[str] | None, keep: SeenIds | None = None
) -> list[Candidate]:
    """All rows of the parts, in their order; only ids and lengths are read. `keep`: the ids that count."""
    found = []
    for part in parts:
        file = open_part(root / part.file)
        names = [
            name for name in (id_column, "source", "language", "tokens", "chars") if name in file.schema_arrow.names
        ]
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, names).to_pylist():
                if (sources is None or row["source"] in sources) and (keep is None or row[id_column] in keep):
                    a_token = CHARS_PER_TOKEN.get(row["language"], CHARS_PER_TOKEN_ELSE)
                    tokens = row.get("tokens") or math.ceil((row.get("chars") or 0) / a_token)
                    place = (part.file, group)
                    found.append(Candidate(row[id_column], row["source"], row["language"], tokens, *place))
    return found


def draw(found: list[Candidate], per_row: int, count: int | None, flat: bool, seed: int) -> list[Draw]:
    """Each candidate `per_row` times, or `count` draws among these: at random, or evenly over length classes (powers
    of two of the token count) so that long documents are not rare. The result is in the candidates' order. A corpus
    that grows keeps most of its draws: chance is a hash of seed and row, not of the row's place."""
    every = [Draw(candidate, number) for candidate in found for number in range(per_row)]
    if count is None or count >= len(every):
        return every
    chance = [(one.number, digest([seed, one.row_id])) for one in every]  # every document once, then again
    classes: dict[int, list[int]] = defaultdict(list)
    for index, one in enumerate(every):
        classes[one.candidate.tokens.bit_length() if flat else 0].append(index)
    for members in classes.values():
        members.sort(key=chance.__getitem__, reverse=True)
    chosen: list[int] = []
    queues = [classes[key] for key in sorted(classes, reverse=True)]
    while len(chosen) < count:
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return [every[index] for index in sorted(chosen)]


def shards(draws: list[Draw], rows: int) -> list[list[Draw]]:
    """Runs of about `rows` draws; the draws of one candidate stay in one shard."""
    result: list[list[Draw]] = []
    for one in draws:
        new_candidate = not result or result[-1][-1].candidate.row_id != one.candidate.row_id
        if not result or (len(result[-1]) >= rows and new_candidate):
            result.append([])
        result[-1].append(one)
    return result


def load(root: Path, draws: Iterable[Draw], id_column: str) -> Iterator[tuple[Draw, dict[str, Any]]]:
    """The draws with their rows, text included; one row group is in memory at a time."""
    columns = [id_column, "text", "source", "language", "metadata"]
    place: tuple[str, int] | None = None
    held: dict[str, dict[str, Any]] = {}
    for one in draws:
        if place != (one.candidate.file, one.candidate.group):
            place = (one.candidate.file, one.candidate.group)
            table = open_part(root / place[0]).read_row_group(place[1], columns)
            held = {row[id_column]: row for row in table.to_pylist()}
        row = held[one.candidate.row_id]
        yield one, {**row, "metadata": json.loads(row["metadata"])}
