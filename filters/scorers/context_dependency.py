"""Context dependency (Wang et al., arXiv 2411.02688): how much an answer's tokens attend to what the user gave.

Published form: attention to all that is no answer, no template and no special token, at one layer, of the best head for
each token, mean over the tokens of the answer. Long-context form: the same for parts (document, question, system,
own earlier output), without sink positions and white space, and its lift over uniform attention. A document beyond the
probe's window is read in windows where the recipe says so.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar

from filters.scorers.attention import NONE, Look, View
from filters.scorers.conversation import Conversation, Part, encode
from filters.scorers.core import ScorerCore, Tokens
from schemas.states import Reject, State

_DEPTH = 15 / 22  # the paper's layer 15 of a model with 22
_MOST_BESIDE = 3 / 4  # of the probe's window, for all but the document: else windows are many and hold next to nothing
SINKS = 4  # the first positions: attention rests there whatever they say
PARTS = {"doc": Part.DOCUMENT, "question": Part.QUESTION, "system": Part.SYSTEM, "own": Part.ANSWER}
_PUBLISHED = (Part.SYSTEM, Part.DOCUMENT, Part.QUESTION, Part.OTHER)
# A segment for each part: its tokens that all forms count, and those that only the published form counts.
_CLEAN = {part: 2 * part for part in Part}
_ROUGH = {part: 2 * part + 1 for part in Part}
SETS = (
    tuple(segment for part in _PUBLISHED for segment in (_CLEAN[part], _ROUGH[part])),
    *((_CLEAN[part],) for part in PARTS.values()),
)  # fmt: skip
_NUMBERS = ("cd_score", "cd_baseline", "cd_lift", *(f"cd_{name}{form}" for name in PARTS for form in ("", "_lift")))


class ContextDependency:
    """`options`: layer (None: the paper's, by depth), threshold, windows (None; `max` or `mean`: what of a long
    document's windows is kept)."""

    columns: ClassVar[list[str]] = ["sample_id", "messages", "document_ids", "details"]
    attention: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        self._tokenizer, self._core, self._model = tokenizer, core, model
        self._layer = published_layer(core.layers) if options["layer"] is None else core.check_layer(options["layer"])
        self._threshold, self._windows = options["threshold"], options["windows"]

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        """A line for each of a sample's answers; only for the last where its document is read in windows."""
        known: dict[str, tuple[Conversation, list[Conversation]]] = {}  # a sample, and what is read of it
        for row in rows:
            try:
                conversation = encode(self._tokenizer, row)
                if not conversation.answers():
                    raise Reject(State.INVALID_OUTPUT, "no_response", "no assistant message with tokens")
                known[row["sample_id"]] = conversation, self._parts(conversation)
            except Reject as reject:
                yield row["sample_id"], reject
        tokens = [Tokens(one.ids, [], look(one)) for _, parts in known.values() for one in parts]
        readings = zip(tokens, self._core.read(tokens, View((self._layer,), "max"), logps=False), strict=True)
        for row_id, (conversation, parts) in known.items():
            lines, unread = [], None
            for part in parts:
                sample, reading = next(readings)
                if isinstance(reading, Reject):
                    unread = unread or reading
                else:
                    assert sample.look is not None
                    lines.append(self._lines(part, sample.look, reading.attention[0].tolist()))
            yield row_id, unread or (lines[0] if len(parts) == 1 else [self._joined(conversation, lines)])

    def _parts(self, conversation: Conversation) -> list[Conversation]:
        most = self._core.window
        if self._windows is None or most is None or len(conversation.ids) <= most:
            return [conversation]
        return in_windows(conversation, most)

    def _joined(self, conversation: Conversation, windows: list[list[dict[str, Any]]]) -> dict[str, Any]:
        """One line for the last answer: of each number the largest of all windows', or their mean; counts of tokens are
        those of the whole sample."""
        lines, whole = [lines[-1] for lines in windows], look(conversation)
        line = {**lines[0], **_counts(whole, conversation.places(lines[0]["turn_index"]))}
        for name in _NUMBERS:
            held = [one[name] for one in lines if one[name] is not None]  # a window of blank lines has none
            line[name] = (max(held) if self._windows == "max" else fmean(held)) if held else None
        flag = line["cd_score"] > self._threshold
        return {**line, "cd_flag": flag, "n_windows": len(lines), "windows": self._windows}

    def _lines(self, conversation: Conversation, look: Look, found: list[list[float]]) -> list[dict[str, Any]]:
        lines = []
        for number, (turn, masses) in enumerate(zip(conversation.answers(), found, strict=True)):
            rows = [place for place, group in enumerate(look.rows) if group == number]
            uniform = uniform_baseline(rows, look)
            line: dict[str, Any] = {
                "turn_index": turn, "cd_score": masses[0], "cd_baseline": uniform[0], "cd_lift": masses[0] - uniform[0],
                "cd_layer": self._layer, "cd_probe": self._model, "cd_heads": self._core.heads,
                "truncated": False, "n_windows": 1, "windows": None, "cd_flag": masses[0] > self._threshold,
                "threshold": self._threshold, "split": conversation.split, **_counts(look, rows),
            }  # fmt: skip
            for place, name in enumerate(PARTS, 1):
                count = line[f"n_{name}_tok"]
                # A part that is not there has no number: 0 would read as "ignored".
                line[f"cd_{name}"] = masses[place] if count else None
                line[f"cd_{name}_lift"] = masses[place] - uniform[place] if count else None
            lines.append(line)
        return lines


def published_layer(layers: int) -> int:
    return min(layers - 1, round(_DEPTH * layers))


def look(conversation: Conversation) -> Look:
    """Rows: the tokens of each answer. Keys: by what is written there, never by a tokenizer's ids. Special tokens
    belong to the template; one that a message spells out is text of its author."""
    answers = {turn: number for number, turn in enumerate(conversation.answers())}
    rows = [answers.get(turn, NONE) for turn in conversation.turns]
    keys = []
    for place, (part, text) in enumerate(zip(conversation.parts, conversation.texts, strict=True)):
        if part is Part.TEMPLATE or (text and not text.strip("\r\n")):
            keys.append(NONE)
        else:
            keys.append((_CLEAN if text.strip() and place >= SINKS else _ROUGH)[part])
    return Look(rows, keys, SETS)


def in_windows(conversation: Conversation, most: int) -> list[Conversation]:
    """The conversation up to its last answer, once for each window of its document: what stands before the document,
    the window, what follows the document. As few windows as `most` tokens allow, of equal length, since a longer one
    draws more attention. Raises Reject where no windows would help: no document before the answer, too much beside it.
    """
    start, end = conversation.document()
    answer = conversation.places(conversation.answers()[-1])
    stop = answer[-1] + 1
    beside = start + stop - end
    if not start < end <= answer[0] or beside > _MOST_BESIDE * most:
        detail = f"{len(conversation.ids)} tokens, {beside} of them beside the document, the model's window is {most}"
        raise Reject(State.OVER_BUDGET, "longer_than_window", detail)
    count = -(-(end - start) // (most - beside))
    cuts = [start + (end - start) * number // count for number in range(count + 1)]

    def cut(values: list[Any], first: int, last: int) -> list[Any]:
        return [*values[:start], *values[first:last], *values[end:stop]]

    return [
        replace(
            conversation,
            ids=cut(conversation.ids, *window),
            parts=cut(conversation.parts, *window),
            turns=cut(conversation.turns, *window),
            texts=cut(conversation.texts, *window),
        )
        for window in itertools.pairwise(cuts)
    ]


def uniform_baseline(rows: Sequence[int], look: Look) -> list[float]:
    """What attention that looks at nothing in particular would give: for each set the mean over rows i of
    (its positions up to i) / (i + 1)."""
    totals = [0.0] * len(look.sets)
    seen = [0] * len(look.sets)
    wanted = set(rows)
    for place, segment in enumerate(look.keys):
        for number, members in enumerate(look.sets):
            seen[number] += segment in members
            if place in wanted:
                totals[number] += seen[number] / (place + 1)
    return [total / len(rows) for total in totals]


def _counts(look: Look, rows: Sequence[int]) -> dict[str, int]:
    counts = {f"n_{name}_tok": _seen(look, SETS[place], rows[-1]) for place, name in enumerate(PARTS, 1)}
    return {"n_user_tok": _seen(look, SETS[0], rows[0]), "n_resp_tok": len(rows), **counts}


def _seen(look: Look, members: tuple[int, ...], last: int) -> int:
    return sum(segment in members for segment in look.keys[: last + 1])
