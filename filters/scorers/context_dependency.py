"""Context dependency (Wang et al., arXiv 2411.02688): how much an answer's tokens attend to what the user gave.

Published form: attention to all that is no answer, no template and no special token, at one layer, of the best head for
each token, mean over the tokens of the answer. Long-context form: the same for parts (document, question, system,
own earlier output), without sink positions and white space, and its lift over uniform attention.
"""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from filters.scorers.attention import NONE, Look, View
from filters.scorers.conversation import Conversation, Part, encode
from filters.scorers.core import ScorerCore, Tokens
from schemas.states import Reject, State

_DEPTH = 15 / 22  # the paper's layer 15 of a model with 22
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


class ContextDependency:
    """`options`: layer (None: the paper's, by depth), threshold."""

    columns: ClassVar[list[str]] = ["sample_id", "messages", "document_ids", "details"]
    attention: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, core: ScorerCore, model: str, options: dict[str, Any]) -> None:
        self._tokenizer, self._core, self._model = tokenizer, core, model
        self._layer = published_layer(core.layers) if options["layer"] is None else core.check_layer(options["layer"])
        self._threshold = options["threshold"]

    def score(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]] | Reject]]:
        """A line for each of a sample's answers."""
        known: dict[str, Conversation] = {}
        for row in rows:
            try:
                conversation = encode(self._tokenizer, row)
                if not conversation.answers():
                    raise Reject(State.INVALID_OUTPUT, "no_response", "no assistant message with tokens")
                known[row["sample_id"]] = conversation
            except Reject as reject:
                yield row["sample_id"], reject
        tokens = [Tokens(one.ids, [], look(one)) for one in known.values()]
        readings = self._core.read(tokens, View((self._layer,), "max"), logps=False)
        for row_id, sample, reading in zip(known, tokens, readings, strict=True):
            if isinstance(reading, Reject):
                yield row_id, reading
            else:
                assert sample.look is not None
                yield row_id, self._lines(known[row_id], sample.look, reading.attention[0].tolist())

    def _lines(self, conversation: Conversation, look: Look, found: list[list[float]]) -> list[dict[str, Any]]:
        lines = []
        for number, (turn, masses) in enumerate(zip(conversation.answers(), found, strict=True)):
            rows = [place for place, group in enumerate(look.rows) if group == number]
            uniform = uniform_baseline(rows, look)
            line: dict[str, Any] = {
                "turn_index": turn, "cd_score": masses[0], "cd_baseline": uniform[0], "cd_lift": masses[0] - uniform[0],
                "cd_layer": self._layer, "cd_probe": self._model, "cd_heads": self._core.heads,
                "n_user_tok": _seen(look, SETS[0], rows[0]), "n_resp_tok": len(rows), "truncated": False,
                "cd_flag": masses[0] > self._threshold, "threshold": self._threshold, "split": conversation.split,
            }  # fmt: skip
            for place, name in enumerate(PARTS, 1):
                count = _seen(look, SETS[place], rows[-1])
                line[f"n_{name}_tok"] = count
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


def _seen(look: Look, members: tuple[int, ...], last: int) -> int:
    return sum(segment in members for segment in look.keys[: last + 1])
