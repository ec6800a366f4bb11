"""The recipe section `mix`: what it accepts, its presets, and one clear sentence for each fault."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from schemas.loading import explain
from schemas.mix import LengthWeights, Mix

A = {"name": "a", "sources": ["a"], "share": 0.5}
B = {"name": "b", "methods": ["long_qa"], "share": 0.5}
LONG = ("code", "books")
ROLES_64K = (*LONG, "fineweb_edu", "fineweb", "stackexchange", "wikipedia", "arxiv", "openwebmath", "tulu", "textbooks")
SLIMPAJAMA = ("commoncrawl", "c4", "github", "wikipedia", "books", "arxiv", "stackexchange")


def roles(names):
    return {name: [f"{name}_files"] for name in names}


def fault(**values):
    with pytest.raises(ValidationError) as refused:
        Mix.model_validate({"name": "m", "total_tokens": 100, **values})
    return explain(refused.value)


@pytest.mark.parametrize("given, tokens", [("20B", 20 * 10**9), ("500M", 500_000_000), ("1.5k", 1500), (77, 77)])
def test_token_counts_may_have_a_unit(given, tokens):
    assert Mix(name="m", total_tokens=given, sources=[A, B]).total_tokens == tokens


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"sources": [A]}, "the shares of the sources sum to 0.5, not 1"),
        ({"sources": [A, {**B, "share": 0.6}]}, "the shares of the sources sum to 1.1, not 1"),
        ({}, "needs either 'sources' or a 'preset' with 'roles'"),
        ({"sources": [A, B], "preset": "prolong_64k"}, "needs either 'sources' or a 'preset' with 'roles'"),
        ({"sources": [A, B], "roles": roles(LONG)}, "'roles' and 'spread_missing' are for a 'preset'"),
        ({"sources": [A, {**B, "name": "a"}]}, "the source name 'a' is used twice"),
        ({"sources": [A, {**A, "name": "c"}]},
         "'a' and 'c' both take rows of 'a' of the same lengths; a row may belong to one of them only"),
        ({"sources": [{"name": "a", "share": 1}]},
         "sources[0]: name the rows by 'sources' (of documents) or 'methods' (of samples)"),
        ({"sources": [{**A, "min_length": 9, "max_length": 8}, B]},
         "sources[0]: max_length 8 is smaller than min_length 9"),
        ({"sources": [A, B], "total_tokens": "20 GB"},
         "total_tokens: '20 GB' is not a number of tokens like 500M or 20B"),
        ({"sources": [A, B], "length_weights": {"targets": [0.3, 0.6]}},
         "length_weights: the targets sum to 0.9, not 1"),
        ({"sources": [A, B], "length_weights": {"edges": [9, 9], "targets": [0.3, 0.3, 0.4]}},
         "length_weights: the edges must rise, not [9, 9]"),
        ({"sources": [A, B], "length_weights": {"edges": [5, 9]}},
         "length_weights: 2 edges make 3 groups of lengths, not 2 targets"),
        ({"preset": "prolong_64k", "roles": roles(["book"])},
         "preset 'prolong_64k' has no role 'book', did you mean 'books'?"),
        ({"preset": "per_source_70", "roles": roles(SLIMPAJAMA[:-2])},
         "preset 'per_source_70': 'roles' has no source for arxiv, stackexchange; name one for each, or set "
         "spread_missing: true to give their shares to the others"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence(values, sentence):
    assert fault(**values) == sentence


def test_the_same_source_may_appear_twice_with_lengths_that_do_not_overlap():
    short = {**A, "max_length": 99}
    mix = Mix(name="m", total_tokens=1, sources=[short, {**A, "name": "long", "min_length": 100}])
    assert [source.name for source in mix.plan] == ["a", "long"]
    assert "both take rows of 'a'" in fault(sources=[short, {**A, "name": "long", "min_length": 99}])


def test_documents_go_by_their_source_and_samples_by_their_method():
    documents, samples = Mix(name="m", total_tokens=1, sources=[A, B]).plan
    assert documents.takes("a", None) and not documents.takes("b", None)
    assert samples.takes("a", "long_qa") and not documents.takes("a", "long_qa") and not samples.takes("a", None)


@pytest.mark.parametrize("preset, names", [("prolong_64k", ROLES_64K), ("prolong_512k", ROLES_64K),
                                           ("per_source_70", SLIMPAJAMA)])  # fmt: skip
def test_presets_sum_to_one(preset, names):
    plan = Mix(name="m", preset=preset, roles=roles(names), total_tokens="20B").plan
    assert sum(source.share for source in plan) == pytest.approx(1, abs=1e-9)
    assert {source.sources for source in plan} == {(f"{name}_files",) for name in names}


def test_prolong_512k_has_code_and_books_at_both_lengths_and_no_document_in_both():
    plan = Mix(name="m", preset="prolong_512k", roles=roles(ROLES_64K), total_tokens="20B").plan
    long = [(s.name, round(s.share, 9), s.min_length, s.max_length, s.row_length) for s in plan[:4]]
    assert long == [
        ("code_524288", 0.15, 524_288, None, 524_288),
        ("code_65536", 0.15, 65_536, 524_287, 65_536),
        ("books_524288", 0.05, 524_288, None, 524_288),
        ("books_65536", 0.25, 65_536, 524_287, 65_536),
    ]
    assert all((s.min_length, s.max_length, s.row_length) == (1, None, 65_536) for s in plan[4:])


def test_shares_of_missing_roles_are_spread_in_proportion():
    mix = Mix(name="m", preset="prolong_64k", roles=roles(["books", "fineweb"]), spread_missing=True, total_tokens=9)
    assert {source.name: source.share for source in mix.plan} == {
        "books": pytest.approx(0.75),
        "fineweb": pytest.approx(0.25),
    }


def test_length_weights_and_epochs_come_from_the_source_then_the_mixture_then_the_preset():
    own = LengthWeights(edges=(8,), targets=(0, 1))
    mix = Mix(
        name="m",
        total_tokens=9,
        sources=[{**A, "length_weights": own, "max_epochs": 1}, B],
        length_weights={},
        max_epochs=2,
    )
    assert [(source.length_weights, source.max_epochs) for source in mix.plan] == [(own, 1), (LengthWeights(), 2)]
    preset = {"name": "m", "preset": "per_source_70", "roles": roles(SLIMPAJAMA), "total_tokens": 9}
    assert {source.length_weights for source in Mix(**preset).plan} == {
        LengthWeights(edges=(4096,), targets=(0.3, 0.7))
    }
    assert {source.length_weights for source in Mix(**preset, length_weights=own).plan} == {own}
    assert {source.length_weights for source in Mix(name="m", total_tokens=9, sources=[A, B]).plan} == {None}


def test_the_examples_of_the_documentation_are_valid():
    text = (Path(__file__).parents[2] / "docs" / "mixing.md").read_text("utf-8")
    mixes = [Mix.model_validate(mix) for mix in yaml.safe_load(text.split("```yaml")[1].split("```")[0])["mix"]]
    assert [mix.name for mix in mixes] == ["long", "prolong"]
