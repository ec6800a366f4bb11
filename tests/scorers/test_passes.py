"""What score entries ask of models."""

import pytest
from pydantic import TypeAdapter

from filters.scorers.cam import Cam
from pipelines.score_worker import SCORERS
from schemas.scores import ScoreConfig
from schemas.tables import TABLES

ADAPTER = TypeAdapter(ScoreConfig)


def passes(**entry):
    leading = {} if "engines" in entry else {"engine": "long"}
    return ADAPTER.validate_python({**leading, **entry}).passes()


def test_hmg_reads_the_same_tokens_with_two_models_or_one_model_twice():
    pair, surrogate = passes(scorer="hmg", short="before"), passes(scorer="hmg", window=512)
    assert [(one.engine, one.tokenizer or one.engine, one.suffix) for one in pair] == [
        ("before", "long", "short"), ("long", "long", "long")
    ]  # fmt: skip
    assert [one.engine for one in surrogate] == ["long", "long"]
    assert [one.options["window"] for one in (*pair, *surrogate)] == [None, None, 512, None]


def test_loss_drop_reads_with_and_without_the_document_and_wants_one_in_both():
    without, whole = passes(scorer="loss_drop")
    assert (without.options["window"], whole.options["window"]) == (0, None)
    assert without.options["needs_document"] and whole.options["needs_document"]
    assert (without.suffix, whole.suffix) == ("without", "with")


def test_likelihood_reads_with_each_model_by_its_own_tokenizer():
    made = passes(scorer="likelihood", engines=["b", "a"])
    assert [(one.engine, one.tokenizer, one.suffix) for one in made] == [("b", None, "b"), ("a", None, "a")]


@pytest.mark.parametrize(
    ("importance", "direction", "expected"),
    [
        ("softmax_neg_nll", None, "one_minus_cosine"), ("nll", None, "cosine"), ("raw_ppl", None, "cosine"),
        ("raw_ppl", "one_minus_cosine", "one_minus_cosine"),
    ],
)  # fmt: skip
def test_high_cam_means_hard_unless_the_recipe_says_otherwise(importance, direction, expected):
    (one,) = passes(scorer="cam", importance=importance, direction=direction)
    assert one.options["direction"] == expected


def test_options_of_cam_are_those_that_change_its_numbers():
    (one,) = passes(scorer="cam", layers=[3, -1], cascade={"top": 4}, batch_tokens=5)
    assert one.options == {
        "segment_tokens": 128, "layers": [3, -1], "importance": "softmax_neg_nll", "direction": "one_minus_cosine",
        "cascade": {"top": 4, "random": 8}, "min_response_tokens": 16,
    }  # fmt: skip
    assert Cam.attention


def test_every_pass_has_a_scorer_and_a_table():
    entries = [
        {"scorer": "ref_logps"},
        {"scorer": "context_dependency"},
        {"scorer": "hmg", "window": 9},
        {"scorer": "loss_drop"},
        {"scorer": "likelihood", "engines": ["long", "other"]},
        {"scorer": "cam"},
        {"scorer": "long_range"},
        {"scorer": "far_attention"},
        {"scorer": "coherence_gain"},
    ]
    made = [one for entry in entries for one in passes(**entry)]
    assert {one.scorer for one in made} == set(SCORERS)
    assert all(TABLES[one.table].names[:2] == ["row_id", "stage"] for one in made)
