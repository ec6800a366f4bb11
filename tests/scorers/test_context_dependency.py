"""The context-dependency score on a tiny random model: numbers checked by hand or against eager attention."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.attention import NONE
from filters.scorers.context_dependency import PARTS, SETS, ContextDependency, in_windows, look, published_layer
from filters.scorers.conversation import Part, encode
from filters.scorers.core import ScorerCore
from schemas.errors import UserError
from tests.scorers.models import write
from tests.scorers.test_conversation import row

OPTIONS = {"layer": 1, "threshold": 0.3, "windows": None}
CHAT = [
    ("system", "Be brief."), ("user", "The fox is red.\nThe owl is grey.\n\nWhat is red?"), ("assistant", "The fox."),
    ("user", "And the owl?"), ("assistant", "It is grey."),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tiny", initializer_range=0.1)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def scorer(folder, tokenizer, batch_tokens=32_768, window=None, **options):
    core = ScorerCore(folder, "float32", "cpu", batch_tokens=batch_tokens, window=window, attention=True)
    return ContextDependency(tokenizer, core, "tiny", {**OPTIONS, **options})


def score(one, *rows):
    """Row id -> its lines, or the reject's state and reason."""
    rows = [{**row, "sample_id": str(number)} for number, row in enumerate(rows)]
    return {
        row_id: found if isinstance(found, list) else (found.state, found.reason) for row_id, found in one.score(rows)
    }


@pytest.mark.parametrize("layer", [0, 1])
def test_numbers_equal_those_from_eager_attention(folder, tokenizer, layer):
    """Specification, test 5, with the sets written out by hand."""
    lines = score(scorer(folder, tokenizer, layer=layer), row(*CHAT))["0"]
    conversation = encode(tokenizer, row(*CHAT))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.inference_mode():
        attention = model(torch.tensor([conversation.ids]), output_attentions=True).attentions[layer][0]

    def mass(turn, wanted):
        keys = [place for place in range(len(conversation.ids)) if wanted(place)]
        return float(attention[:, conversation.places(turn)][:, :, keys].sum(-1).amax(0).mean())

    def of(part):
        return lambda j: conversation.parts[j] is part and j >= 4 and conversation.texts[j].strip()

    def published(j):
        return conversation.parts[j] not in (Part.TEMPLATE, Part.ANSWER) and conversation.texts[j] != "\n"

    for line, turn in zip(lines, (2, 4), strict=True):
        assert line["turn_index"] == turn and line["n_resp_tok"] == len(CHAT[turn][1])
        assert line["cd_score"] == pytest.approx(mass(turn, published), abs=1e-5)
        for name, part in PARTS.items():
            assert line[f"cd_{name}"] == pytest.approx(mass(turn, of(part)), abs=1e-5)
        assert line["cd_flag"] == (line["cd_score"] > 0.3) and line["cd_layer"] == layer and line["cd_heads"] == 4
        assert line["split"] == "last_block"
        assert line["n_doc_tok"] == len("Thefoxisred.Theowlisgrey.") and line["n_system_tok"] == len("Bebrief.")
    assert [line["n_question_tok"] for line in lines] == [len("Whatisred?"), len("Whatisred?Andtheowl?")]
    assert [line["n_own_tok"] for line in lines] == [len("Thefox."), len("Thefox.Itisgrey.")]


def test_uniform_attention_scores_the_baseline_and_has_no_lift(folder, tokenizer):
    """Specification, test 3."""
    one = scorer(folder, tokenizer)
    for layer in one._core._decoder.layers:
        torch.nn.init.zeros_(layer.self_attn.q_proj.weight)
    for line in score(one, row(*CHAT))["0"]:
        assert line["cd_score"] == pytest.approx(line["cd_baseline"], abs=1e-6)
        for name in ("cd_lift", *(f"cd_{part}_lift" for part in PARTS)):
            assert line[name] == pytest.approx(0, abs=1e-6)
    conversation = encode(tokenizer, row(*CHAT[:3]))
    rows, keys = conversation.places(2), look(conversation).keys
    by_hand = sum(sum(keys[j] in SETS[0] for j in range(i + 1)) / (i + 1) for i in rows) / len(rows)
    assert score(one, row(*CHAT[:3]))["0"][0]["cd_baseline"] == pytest.approx(by_hand)


def test_scores_are_between_zero_and_one_and_absent_parts_have_none(folder, tokenizer):
    """Specification, test 2."""
    found = score(scorer(folder, tokenizer), row(("user", "\n"), ("assistant", "Hm.")), row(*CHAT))
    (empty,) = found["0"]
    assert empty["cd_score"] == 0 == empty["cd_baseline"] and empty["n_user_tok"] == 0
    assert [empty[f"cd_{part}"] for part in ("doc", "question", "system")] == [None] * 3 and empty["cd_own"] > 0
    for line in found["1"]:
        assert 0 <= line["cd_score"] <= 1
        assert max(line["cd_doc"], line["cd_question"], line["cd_system"]) <= line["cd_score"] + 1e-9


def test_what_comes_later_changes_nothing(folder, tokenizer):
    """Specification, test 4."""
    one = scorer(folder, tokenizer)
    whole, first = score(one, row(*CHAT))["0"], score(one, row(*CHAT[:3]))["0"]
    assert len(whole) == 2 and len(first) == 1
    for name, value in first[0].items():
        assert whole[0][name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value)


def test_batches_change_no_score_and_every_answer_has_one(folder, tokenizer):
    """Specification, test 6: an empty answer and one that does not fit the window have none, and say why."""
    dice = random.Random(4)
    rows = [
        row(
            ("user", "word " * dice.randrange(1, 30) + "\n\nWhy?"),
            ("assistant", "x" * dice.randrange(1, 20)),
            *CHAT[3:],
        )
        for _ in range(6)
    ]
    rows += [
        row(("user", "q"), ("assistant", "")),
        row(("user", "q"), ("assistant", ""), *CHAT[3:]),
        row(("user", "q")),
    ]
    rows += [row(("user", "x" * 600), ("assistant", "long"))]
    alone = score(scorer(folder, tokenizer, batch_tokens=1, window=512), *rows)
    together = score(scorer(folder, tokenizer, batch_tokens=4096, window=512), *rows)
    assert alone["6"] == alone["8"] == ("invalid_output", "no_response")
    assert alone["9"] == together["9"] == ("over_budget", "longer_than_window")
    assert [len(alone[str(n)]) for n in range(8) if n != 6] == [2] * 6 + [1] and alone["7"][0]["turn_index"] == 3
    for row_id in map(str, (0, 1, 2, 3, 4, 5, 7)):
        for one, other in zip(alone[row_id], together[row_id], strict=True):
            assert {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in one.items()} == other


def test_sinks_and_white_space_count_only_as_published(tokenizer):
    conversation = encode(tokenizer, row(*CHAT))
    keys = look(conversation).keys
    for place, (part, text) in enumerate(zip(conversation.parts, conversation.texts, strict=True)):
        in_parts = any(keys[place] in members for members in SETS[1:])
        if part is Part.TEMPLATE or text == "\n":
            assert keys[place] == NONE
        elif not text.strip() or place < 4:
            assert not in_parts and (keys[place] in SETS[0]) == (part is not Part.ANSWER)
        else:
            assert in_parts
    bare = look(type(conversation)([1] * 6, [Part.DOCUMENT] * 6, [0] * 6, ["a"] * 6, ["user"], "last_block"))
    assert [key in SETS[1] for key in bare.keys] == [False] * 4 + [True] * 2


TEXT = " ".join(f"Thing {number} has the colour {number**3}." for number in range(20))[:299]
LONG = [
    ("system", "Be brief."), ("user", f"{TEXT}\n\nWhat is red?"), ("assistant", "Alpha."), ("user", "And blue?"),
    ("assistant", "Beta is."), ("user", "Thank you."),
]  # fmt: skip


@pytest.mark.parametrize(("kept", "aggregate"), [("max", max), ("mean", lambda values: sum(values) / len(values))])
def test_a_document_beyond_the_window_is_read_in_windows(folder, tokenizer, kept, aggregate):
    """Each number is the largest or the mean of those of prompts that are put together by hand, each read whole."""
    conversation = encode(tokenizer, row(*LONG))
    start, end = conversation.document()
    stop = conversation.places(4)[-1] + 1
    window = start + stop - end + 110  # of 299 tokens of the document
    assert (end - start, stop < len(conversation.ids), window < len(conversation.ids)) == (299, True, True)
    (line,) = score(scorer(folder, tokenizer, window=window, windows=kept), row(*LONG))["0"]
    pieces = [TEXT[:99], TEXT[99:199], TEXT[199:]]
    whole = scorer(folder, tokenizer)
    by_hand = []
    for piece in pieces:
        messages = [LONG[0], ("user", f"{piece}\n\nWhat is red?"), *LONG[2:5]]
        by_hand.append(score(whole, row(*messages))["0"][-1])
    for name, value in line.items():
        if name.startswith("cd_") and isinstance(value, float):
            assert value == pytest.approx(aggregate([one[name] for one in by_hand]), abs=1e-6), name
    assert len({round(one["cd_doc"], 4) for one in by_hand}) == 3
    assert (line["n_windows"], line["windows"], line["turn_index"], line["truncated"]) == (3, kept, 4, False)
    assert line["n_doc_tok"] == sum(one["n_doc_tok"] for one in by_hand) == len(TEXT.replace(" ", ""))
    assert line["n_question_tok"] == by_hand[0]["n_question_tok"] and line["n_resp_tok"] == len("Beta is.")
    assert line["cd_flag"] == (line["cd_score"] > 0.3) and line["cd_system"] is not None


def test_windows_hold_every_token_of_the_document_once_and_fit(tokenizer):
    conversation = encode(tokenizer, row(*LONG))
    start, end = conversation.document()
    stop = conversation.places(4)[-1] + 1
    beside = start + stop - end
    for most in range(-(-beside * 4 // 3), beside + 300, 7):
        parts = in_windows(conversation, most)
        assert all(len(part.ids) <= most and part.split == conversation.split for part in parts)
        lengths = [len(part.ids) - beside for part in parts]
        assert max(lengths) - min(lengths) <= 1 and len(parts) == -(-299 // (most - beside))
        windows = [part.ids[start : start + n] for part, n in zip(parts, lengths, strict=True)]
        assert [one for window in windows for one in window] == conversation.ids[start:end]
        assert all(part.ids[:start] == conversation.ids[:start] for part in parts)
        assert all(part.ids[start + n :] == conversation.ids[end:stop] for part, n in zip(parts, lengths, strict=True))


def test_a_sample_that_fits_is_read_whole_whatever_is_said_about_windows(folder, tokenizer):
    plain, windowed = (
        score(scorer(folder, tokenizer, window=512, windows=one), row(*CHAT))["0"] for one in (None, "max")
    )
    assert plain == windowed and len(plain) == 2
    assert {(line["n_windows"], line["windows"]) for line in plain} == {(1, None)}


def test_windows_do_not_help_without_a_document_or_with_too_much_beside_it(folder, tokenizer):
    bare = row(("user", "x" * 600), ("assistant", "long"))
    question = row(("user", "Some document.\n\n" + "why " * 120), ("assistant", "Hm."))
    after = row(("assistant", "Early."), ("user", "word " * 120 + "\n\nWhy?"))
    found = score(scorer(folder, tokenizer, window=512, windows="max"), bare, question, after)
    assert set(found.values()) == {("over_budget", "longer_than_window")}
    off = score(scorer(folder, tokenizer, window=300), row(*LONG))
    assert off == {"0": ("over_budget", "longer_than_window")}


def test_the_layer_is_the_papers_by_depth_unless_named(folder, tokenizer):
    assert [published_layer(layers) for layers in (22, 32, 16, 1)] == [15, 22, 11, 0]
    assert scorer(folder, tokenizer, layer=None)._layer == 1 and scorer(folder, tokenizer, layer=-2)._layer == 0
    with pytest.raises(UserError, match="layer 2: the model has layers 0 to 1"):
        scorer(folder, tokenizer, layer=2)
