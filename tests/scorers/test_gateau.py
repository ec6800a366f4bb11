"""What GATEAU reads from a model: likelihood of answers, attention and perplexity by segment, on tiny random models."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.cam import Cam, attention_per_token, chosen_segments, importance, watched
from filters.scorers.core import ScorerCore
from filters.scorers.pool import cosine
from filters.scorers.response_nll import Question, ResponseNll
from tests.scorers.models import naive, write
from tests.scorers.test_context_dependency import score
from tests.scorers.test_conversation import row

TEXT = "".join(f"Line {n} of the text says {n * n}.\n" for n in range(5))
SAMPLE = row(("user", f"{TEXT}\n\nWhat does it say?"), ("assistant", "It says sixteen things."))
HEAD, QUESTION, ANSWER = (
    "<|im_start|>user\n",
    "\n\nWhat does it say?<|im_end|>\n<|im_start|>assistant\n",
    SAMPLE["messages"][1]["content"],
)
NLL = {"window": None, "min_response_tokens": 1}
CAM = {
    "segment_tokens": 32, "layers": None, "importance": "softmax_neg_nll", "direction": "one_minus_cosine",
    "cascade": None, "min_response_tokens": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("model") / "tiny", initializer_range=0.1)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def direct(folder, tokenizer):
    """Mean negative log-likelihood of an answer, by an explicit loop over its tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def mean(document, answer=ANSWER):
        prompt, response = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (HEAD + document + QUESTION, answer)
        )
        total = 0.0
        for number in range(len(response)):
            total -= float(naive(model, [*prompt, *response[:number]], response[number : number + 1])[0])
        return total / len(response)

    return mean


def make(kind, folder, tokenizer, options, **settings):
    core = ScorerCore(folder, "float32", "cpu", attention=kind.attention, **settings)
    return kind(tokenizer, core, "tiny", options)


# ---------------------------------------------------------------- likelihood of the answer


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_likelihood_is_that_of_the_answers_own_tokens(folder, tokenizer, direct, batch_tokens):
    """Specification, test 5: the first answer token is predicted by the prompt's last, none of the prompt counts, nor
    does the end of the turn; the batch changes nothing."""
    rows = [SAMPLE, row(("user", "short\n\nWhat does it say?"), ("assistant", "Yes.")), SAMPLE]
    found = score(make(ResponseNll, folder, tokenizer, NLL, batch_tokens=batch_tokens), *rows)
    document = TEXT
    for row_id, text, answer in (("0", document, ANSWER), ("1", "short", "Yes."), ("2", document, ANSWER)):
        (line,) = found[row_id]
        assert line["nll"] == pytest.approx(direct(text, answer), abs=1e-5)
        assert (line["n_ctx"], line["n_read"], line["n_resp"]) == (len(text), len(text), len(answer))
        assert line["truncated"] is False


def test_a_sample_beyond_the_window_loses_the_start_of_its_document_and_says_so(folder, tokenizer, direct):
    """Specification, test 5: the answer and its question stay whole."""
    document = TEXT
    room = 40
    window = len(tokenizer(HEAD + QUESTION + ANSWER).input_ids) + room
    (line,) = score(make(ResponseNll, folder, tokenizer, NLL, window=window), SAMPLE)["0"]
    assert line["truncated"] is True and (line["n_ctx"], line["n_read"]) == (len(document), room)
    assert line["nll"] == pytest.approx(direct(document[-room:]), abs=1e-5)
    assert score(make(ResponseNll, folder, tokenizer, NLL, window=window - room), SAMPLE)["0"] == (
        "over_budget", "longer_than_window",
    )  # fmt: skip


def test_the_surrogate_sees_the_last_tokens_of_the_document(folder, tokenizer, direct):
    surrogate = make(ResponseNll, folder, tokenizer, {**NLL, "window": 50})
    found = score(surrogate, SAMPLE, row(("user", "No document?"), ("assistant", "None.")))
    (line,) = found["0"]
    assert line["nll"] == pytest.approx(direct(TEXT[-50:]), abs=1e-5)
    assert line["n_read"] == 50 and line["truncated"] is False  # it is what was asked for
    assert found["1"] == ("filtered", "no_document")
    wide = make(ResponseNll, folder, tokenizer, {**NLL, "window": 5000})
    assert score(wide, SAMPLE)["0"][0]["nll"] == pytest.approx(direct(TEXT), abs=1e-5)


def test_rows_without_a_usable_answer_say_why(folder, tokenizer):
    rows = [row(("user", "q")), row(("user", "q"), ("assistant", "short")), row(("user", "q"), ("assistant", "x" * 9))]
    found = score(make(ResponseNll, folder, tokenizer, {**NLL, "min_response_tokens": 9}), *rows)
    assert found["0"] == ("invalid_output", "no_response") and found["1"] == ("filtered", "response_too_short")
    assert found["2"][0]["n_resp"] == 9


# ---------------------------------------------------------------- segments


def test_attention_and_perplexity_by_segment_are_the_naive_ones(folder, tokenizer, direct):
    """Specification, tests 4 and 5: the last segment is shorter and kept."""
    (line,) = score(make(Cam, folder, tokenizer, CAM), SAMPLE)["0"]
    document = TEXT
    segments = [document[start : start + 32] for start in range(0, len(document), 32)]
    assert line["n_seg"] == len(segments) == line["n_scored"] and 0 < len(segments[-1]) < 32
    assert line["seg_nll"] == pytest.approx([direct(segment) for segment in segments], abs=1e-5)

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    ids = tokenizer(HEAD + document + QUESTION + ANSWER, add_special_tokens=False).input_ids
    with torch.inference_mode():
        attention = torch.stack(model(torch.tensor([ids]), output_attentions=True).attentions)[:, 0]
    rows = attention[:, :, -len(ANSWER) :].mean((0, 1, 2))
    start = len(tokenizer(HEAD).input_ids)
    expected = [float(one.mean()) for one in rows[start : start + len(document)].split(32)]
    assert line["seg_attn"] == pytest.approx(expected, abs=1e-6)
    weights = torch.softmax(-torch.tensor(line["seg_nll"]), 0).tolist()
    assert line["cas"] == pytest.approx(cosine(weights, expected), abs=1e-5) and line["cam"] == 1 - line["cas"]
    assert line["layers"] == [0, 1] and line["n_ctx"] == len(document)


def test_importance_and_direction(folder, tokenizer):
    """A sample whose attention misses its useful segments is the harder one, whichever importance is used."""
    useful_first = [1.0, 3.0, 3.0]
    hit, miss = [0.5, 0.1, 0.1], [0.1, 0.5, 0.5]
    for kind, sign in (("raw_ppl", 1), ("nll", 1), ("softmax_neg_nll", -1)):
        weights = importance(useful_first, kind)
        assert sign * cosine(weights, miss) > sign * cosine(weights, hit)
    assert importance([math.log(p) for p in (2, 4, 8, 8)], "raw_ppl") == pytest.approx([1, 2, 4, 4])
    assert all(math.isfinite(one) for one in importance([900.0, 2.0], "raw_ppl"))
    lines = {
        kind: score(make(Cam, folder, tokenizer, {**CAM, "importance": kind, "direction": "cosine"}), SAMPLE)["0"][0]
        for kind in ("raw_ppl", "nll")
    }
    assert all(line["cam"] == line["cas"] and line["importance"] == kind for kind, line in lines.items())
    attention, nll = lines["nll"]["seg_attn"], lines["nll"]["seg_nll"]
    assert lines["nll"]["cas"] == pytest.approx(cosine(nll, attention))
    assert lines["raw_ppl"]["cas"] == pytest.approx(cosine([math.exp(one) for one in nll], attention))


def test_one_segment_is_parallel_and_padding_of_the_batch_changes_nothing(folder, tokenizer):
    """Specification, test 3."""
    (single,) = score(make(Cam, folder, tokenizer, {**CAM, "segment_tokens": 5000}), SAMPLE)["0"]
    assert single["n_seg"] == 1 and single["cas"] == pytest.approx(1) and single["cam"] == pytest.approx(0)
    longer = row(("user", f"{TEXT * 2}\n\nWhat does it say?"), ("assistant", ANSWER))
    padded = score(make(Cam, folder, tokenizer, CAM), longer, SAMPLE)["1"][0]
    alone = score(make(Cam, folder, tokenizer, CAM, batch_tokens=1), SAMPLE)["0"][0]
    for name in ("cas", "seg_attn", "seg_nll"):
        assert padded[name] == pytest.approx(alone[name], abs=1e-6)


def test_the_cascade_reads_the_top_attended_and_some_others(folder, tokenizer):
    assert chosen_segments([0.1, 0.9, 0.3, 0.9, 0.2], {"top": 2, "random": 0}, 0) == [1, 3]
    draws = {tuple(chosen_segments([0.5, *[0.1] * 9], {"top": 1, "random": 3}, seed)) for seed in range(20)}
    assert len(draws) > 5 and all(one[0] == 0 and len(set(one)) == 4 for one in draws)
    assert chosen_segments([0.2, 0.1], {"top": 8, "random": 8}, 0) == [0, 1]
    whole = score(make(Cam, folder, tokenizer, CAM), SAMPLE)["0"][0]
    (part,) = score(make(Cam, folder, tokenizer, {**CAM, "cascade": {"top": 2, "random": 1}}), SAMPLE)["0"]
    assert part["seg_attn"] == pytest.approx(whole["seg_attn"]) and part["n_scored"] == 3 < part["n_seg"]
    scored = [n for n, nll in enumerate(part["seg_nll"]) if nll is not None]
    assert len(scored) == 3 and set(chosen_segments(whole["seg_attn"], {"top": 2, "random": 0}, 0)) < set(scored)
    assert [part["seg_nll"][n] for n in scored] == pytest.approx([whole["seg_nll"][n] for n in scored], abs=1e-6)
    weights = importance([part["seg_nll"][n] for n in scored], "softmax_neg_nll")
    assert part["cas"] == pytest.approx(cosine(weights, [part["seg_attn"][n] for n in scored]))


def test_chosen_layers_are_those_that_count(folder, tokenizer):
    every = score(make(Cam, folder, tokenizer, CAM), SAMPLE)["0"][0]
    single = [score(make(Cam, folder, tokenizer, {**CAM, "layers": [n]}), SAMPLE)["0"][0] for n in (0, -1)]
    assert [one["layers"] for one in single] == [[0], [1]]
    means = [sum(pair) / 2 for pair in zip(single[0]["seg_attn"], single[1]["seg_attn"], strict=True)]
    assert every["seg_attn"] == pytest.approx(means, abs=1e-7)


def test_sink_positions_are_in_no_segment():
    asked = Question([9, 9], [1] * 10, [8], [7, 7])
    tokens = watched(asked, 4)
    assert list(tokens.look.keys) == [-1] * 4 + [0] * 2 + [1] * 4 + [2] * 2 + [-1] * 3
    assert list(tokens.look.rows) == [-1] * 13 + [0, 0]
    assert attention_per_token([0.2, 0.4, 0.1], asked, 4) == pytest.approx([0.1, 0.1, 0.05])


def test_samples_without_a_document_or_beyond_the_window_have_no_cam(folder, tokenizer):
    rows = [row(("user", "No document?"), ("assistant", "None.")), SAMPLE]
    found = score(make(Cam, folder, tokenizer, CAM, window=100), *rows)
    assert found == {"0": ("filtered", "no_document"), "1": ("over_budget", "longer_than_window")}
