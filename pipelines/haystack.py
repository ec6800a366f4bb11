"""Long text from the recipe's documents, to hide things in: seeded windows of whole lines, in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from generators.base import Tokenizer
from generators.tasks.borders import TokenMap
from pipelines.rows import Candidate
from pipelines.shards import open_part

POOL_CHARS = 64_000_000  # of documents held at once
_LINE = 4000  # characters; a line that goes on for longer is cut inside
_SURPLUS = 1.01  # tokens counted block by block may be a few more than those of the whole

Place = tuple[str, int]  # file and row group


class DocumentPool:
    """Some documents, held in memory. Each is counted when it is first used, and never again."""

    def __init__(self, documents: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> None:
        self.documents, self._tokenizer = documents, tokenizer
        self._maps: dict[int, TokenMap] = {}

    def map(self, number: int) -> TokenMap:
        if number not in self._maps:
            self._maps[number] = TokenMap(self.documents[number][1].strip("\n"), self._tokenizer)
        return self._maps[number]


class PoolHaystack:
    """A pool as one row sees it. `document_ids`: what it gave last, in order."""

    def __init__(self, pool: DocumentPool) -> None:
        self.pool = pool
        self.document_ids: list[str] = []

    def text(self, rng: Random, tokens: int) -> str:
        """Documents in random order, whole but for the last one, of which a run of lines is taken; none twice. Less
        than `tokens` tokens only where the pool holds no more."""
        pieces, missing = list[str](), tokens * _SURPLUS + 16
        self.document_ids = []  # of several tries only the last text is used
        for number in _shuffled(rng, len(self.pool.documents)):
            if missing <= 0:
                break
            document = self.pool.map(number)
            if not document.text.strip():
                continue
            start, end = _window(document, missing, rng)
            pieces.append(document.text[start:end])
            missing -= document.tokens_at(end) - document.tokens_at(start)
            self.document_ids.append(self.pool.documents[number][0])
        return "\n\n".join(pieces)

    def passage(self, rng: Random, tokens: int) -> str:
        """A run of lines of one document, at least `tokens` tokens of them. ValueError: none is that long."""
        for number in _shuffled(rng, len(self.pool.documents)):
            if len(self.pool.documents[number][1]) < tokens:  # hardly any token is shorter than a character
                continue
            document = self.pool.map(number)
            if document.text.strip() and document.tokens_at(len(document.text)) >= tokens:
                start, end = _window(document, tokens, rng)
                self.document_ids = [self.pool.documents[number][0]]
                return document.text[start:end]
        raise ValueError(f"no document has {tokens} tokens")


def _shuffled(rng: Random, count: int) -> Iterator[int]:
    """The numbers below `count` in random order, at the cost of those that are taken."""
    moved: dict[int, int] = {}
    for n in range(count):
        drawn = rng.randrange(n, count)
        yield moved.get(drawn, drawn)
        moved[drawn] = moved.get(n, n)


def _window(document: TokenMap, tokens: float, rng: Random) -> tuple[int, int]:
    """Characters [start, end) of a random run of whole lines of at least that many tokens; all of a shorter text."""
    text = document.text
    total = document.tokens_at(len(text))
    if total <= tokens:
        return 0, len(text)
    start = document.place(rng.random() * (total - tokens))
    start = max(text.rfind("\n", max(0, start - _LINE), start) + 1, 0) or (start if start > _LINE else 0)
    end = document.place(document.tokens_at(start) + tokens)
    line_end = text.find("\n", end, end + _LINE)
    if line_end < 0:
        line_end = len(text) if len(text) - end <= _LINE else end
    return start, line_end


class Haystacks:
    """Pools for the units of a stage: of a corpus that fits, all of it; of a larger one, for each unit its own seeded
    draw of row groups."""

    def __init__(self, root: Path, found: Sequence[Candidate], tokenizer: Tokenizer) -> None:
        self._root, self._tokenizer = root, tokenizer
        self._wanted: dict[Place, set[str]] = {}
        for candidate in found:
            self._wanted.setdefault((candidate.file, candidate.group), set()).add(candidate.row_id)
        self._all: DocumentPool | None = None  # where the whole corpus fits

    def pool(self, seed: int) -> DocumentPool:
        if self._all is not None:
            return self._all
        places = list(self._wanted)
        Random(seed).shuffle(places)
        documents, held = list[tuple[str, str]](), 0
        for place in places:
            if held >= POOL_CHARS:
                return DocumentPool(documents, self._tokenizer)
            file = open_part(self._root / place[0])
            for row in file.read_row_group(place[1], ["document_id", "text"]).to_pylist():
                if row["document_id"] in self._wanted[place]:
                    documents.append((row["document_id"], row["text"]))
                    held += len(row["text"])
        self._all = DocumentPool(sorted(documents), self._tokenizer)  # the same for every unit
        return self._all
