"""Token ids of long texts, exactly those of the `tokenizers` library, several times as fast.

The library is slow because it pre-tokenises and merges every word anew. Here a text is cut at places where its
pre-tokeniser always cuts, whatever stands around them, and a table remembers the ids that the library gave for each
piece. So every id comes from the library; only the cuts are ours, and they are proven below.

The cuts: between an ASCII letter or digit and an ASCII character that is neither, nor an apostrophe; and between any
visible ASCII character and a space. `splittable` admits a tokenizer only if its pre-tokeniser is made of `_ATOMS`. None
of them matches across a cut, and none looks at what stands beyond one (`(?!\\S)` only ends a run of blanks, and before
a cut there is no blank). As letters, digits and blanks are always matched by some atom, no gap spans a cut either.
Unicode normalisation changes nothing at a cut: both neighbours are ASCII.
"""

import re
from array import array
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

_LETTERS = (
    r" ?\p{L}+",  # GPT-2
    r"[^\r\n\p{L}\p{N}]?\p{L}+",  # cl100k, Llama 3, Qwen 2
    r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",  # Qwen 3.5
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",  # DeepSeek 3
    # o200k, of two alternatives: each leaves out letters that the other takes
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
_DIGITS = (r" ?\p{N}+", r"\p{N}{1,3}", r"\p{N}", r"\p{N}+")
_SPACES = (r"\s+",)
_OTHERS = (
    "'s", "'t", "'re", "'ve", "'m", "'ll", "'d",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", r" ?[\p{P}\p{S}]+[\r\n]*",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"\s*[\r\n]+", r"\s+(?!\S)",
)  # fmt: skip
_ATOMS = sorted({*_LETTERS, *_DIGITS, *_SPACES, *_OTHERS}, key=len, reverse=True)
_ATOM = re.compile("|".join(re.escape(atom) + r"(?=\||$)" for atom in _ATOMS))
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Spaces, then anything up to and with a word; and on, as long as its end is no cut.
_UNIT = r"(?: *(?:[^A-Za-z0-9 ]+[A-Za-z0-9]*|[A-Za-z0-9]+)| +)"
_PIECE = re.compile(rf"{_UNIT}(?:(?:(?=['\x80-\U0010ffff])|(?<![!-~])(?= )){_UNIT})*")

_TABLE = 64 << 20  # characters of remembered pieces, with what a short entry costs besides
_ENTRY = 150
_BATCH = 2_000_000  # characters taken at once: pieces take ten times their size, what the library makes of them more
_EVERY = 64  # one text of so many is compared with the reference, the first one included,
_STRETCH = 20_000  # by so many characters of its middle


def splittable(spec: dict[str, Any]) -> bool:
    """Whether a tokenizer.json is known to cut at our cuts. `spec`: the parsed file."""
    model, normal = spec["model"], {step["type"] for step in _steps(spec.get("normalizer"), "normalizers")}
    if model.get("type") != "BPE" or model.get("dropout") or normal - {"NFC", "NFD", "NFKC", "NFKD"}:
        return False
    for token in spec.get("added_tokens", []):
        if token["lstrip"] or token["rstrip"] or token["single_word"] or (token["normalized"] and normal):
            return False
    steps = list(_steps(spec.get("pre_tokenizer"), "pretokenizers"))
    if any(step["type"] == "ByteLevel" for step in steps[:-1]):
        return False  # what follows would see bytes in disguise, not letters and spaces
    atoms: set[str] = set()
    for step in steps:
        pattern = _pattern(step)
        found = None if pattern is None else _atoms(pattern)
        if found is None:
            return False
        atoms.update(found)
    return all(atoms & set(kind) for kind in (_LETTERS, _DIGITS, _SPACES))


def _steps(component: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    if component is None:
        return
    if component["type"] != "Sequence":
        yield component
        return
    for step in component[key]:
        yield from _steps(step, key)


def _pattern(step: dict[str, Any]) -> str | None:
    """What a step of a pre-tokeniser matches; empty if nothing, None if unknown."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return _GPT2 if step.get("use_regex", True) else ""
        case {"type": "Digits", "individual_digits": bool(single)}:
            return r"\p{N}" if single else r"\p{N}+"
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return pattern
    return None


def _atoms(pattern: str) -> set[str] | None:
    """The alternatives of a pattern, or None if one is unknown."""
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    found, place = set(), 0
    while place < len(pattern):
        match = _ATOM.match(pattern, place)
        if match is None:
            return None
        found.add(match[0])
        place = match.end() + 1  # the bar
    return found


class PieceTokenizer:
    """Ids by pieces. `fast` False: a text is one piece, which is the plain library.

    `tokens`: texts that become one token wherever they stand, so they are pieces of their own. `rename`: ids that the
    library gives -> ids that go out.
    """

    def __init__(self, backend: Any, fast: bool, tokens: Iterable[str], rename: dict[int, int]) -> None:
        self.backend = backend
        self.fast = fast
        alternatives = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
        self._tokens = re.compile(f"({alternatives})") if alternatives else None
        self._rename = rename
        self._table: dict[str, bytes] = {}
        self._held = 0
        self._seen = 0

    def split(self, text: str) -> list[str]:
        """Pieces that make up the text and can be encoded one by one."""
        if not self.fast:
            return [text] if text else []
        if self._tokens is None:
            return _PIECE.findall(text)
        pieces: list[str] = []
        for place, part in enumerate(self._tokens.split(text)):
            pieces += [part] if place % 2 else _PIECE.findall(part)  # the odd ones are tokens
        return pieces

    def encode(self, texts: list[str]) -> Iterator[tuple[list[str], list[bytes]]]:
        """Of each text its pieces, and the ids of each piece as the bytes of int32."""
        for batch in _batches(texts):
            split = [self.split(text) for text in batch]
            self._learn(split)
            for pieces in split:
                yield pieces, list(map(self._table.__getitem__, pieces))

    def _learn(self, rows: list[list[str]]) -> None:
        if self._held > _TABLE:
            self._table.clear()
            self._held = 0
        # In a fixed order: a set of texts has another one in every process.
        new = [piece for piece in dict.fromkeys(chain.from_iterable(rows)) if piece not in self._table]
        for batch in _batches(new):
            for piece, ids in zip(batch, self.ids(batch), strict=True):
                self._table[piece] = array("i", ids).tobytes()
                self._held += len(piece) + _ENTRY

    def difference(self, texts: list[str]) -> str | None:
        """A stretch of text that comes out otherwise than from the library, if a sample of these texts has one."""
        sample = texts[-self._seen % _EVERY :: _EVERY] if self.fast else []
        self._seen += len(texts)
        middles = [max(0, (len(text) - _STRETCH) // 2) for text in sample]
        stretches = [text[middle : middle + _STRETCH] for text, middle in zip(sample, middles, strict=True)]
        for stretch, (_, ids) in zip(stretches, self.encode(stretches), strict=True):
            if b"".join(ids) != array("i", self.ids([stretch])[0]).tobytes():
                return stretch
        return None

    def ids(self, texts: list[str]) -> list[list[int]]:
        """From the library, each text whole: the reference."""
        rows = [row.ids for row in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [[self._rename.get(i, i) for i in row] for row in rows] if self._rename else rows

    def starts(self, piece: str) -> list[int]:
        """Where in the piece each of its tokens starts, in characters."""
        return [start for start, _ in self.backend.encode(piece, add_special_tokens=False).offsets]


def _batches(texts: list[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > _BATCH:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
