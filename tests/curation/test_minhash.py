"""Signatures: the chance to agree is the Jaccard similarity, whatever the lengths; bands; which texts have keys."""

import math

import datasketch
import numpy as np
import pytest

from filters.curation.minhash import SAMPLE, band_keys, banding, collision, shingles, sign, signature
from filters.curation.text import Text
from filters.curation.words import mixed
from schemas.curation.duplicates import Duplicates

CONFIG = Duplicates(rule="duplicates")
BANDS, ROWS = banding(0.8)


def pair_of_sets(seed, one, other, both):
    """Hashes of two sets of these sizes that have `both` members together."""
    values = mixed(np.arange(one + other - both, dtype=np.uint64) + np.uint64(seed << 32))
    return values[:one], values[one - both :]


def agreement(one, other, both, trials, places=BANDS * ROWS):
    pairs = (pair_of_sets(seed, one, other, both) for seed in range(1, trials + 1))
    return np.array([signature(a, places) == signature(b, places) for a, b in pairs])


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(2, 2, 1), (9, 5, 5), (40, 40, 30), (90, 300, 80), (228, 228, 190), (1500, 1500, 1200), (20_000, 400, 400)],
)
def test_places_agree_with_the_chance_of_the_jaccard_similarity_short_or_long(one, other, both):
    trials = 200
    found = agreement(one, other, both, trials).mean(axis=1)
    jaccard = both / (one + other - both)
    sigma = max(found.std(ddof=1), 0.01) / math.sqrt(trials)
    assert abs(found.mean() - jaccard) < 3 * sigma, (found.mean(), jaccard)


@pytest.mark.parametrize("bands, rows", [(BANDS, ROWS), (14, 8)])
@pytest.mark.parametrize("similarity, both", [(0.5, 400), (0.7, 494), (0.8, 533), (0.9, 568)])
def test_collision_curve_is_within_3_sigma(similarity, both, bands, rows):
    size, trials = 600, 1500
    jaccard = both / (2 * size - both)
    assert jaccard == pytest.approx(similarity, abs=0.002)
    hits = 0
    for seed in range(1, trials + 1):
        a, b = (signature(runs, bands * rows) for runs in pair_of_sets(seed, size, size, both))
        hits += bool((band_keys(a, bands, rows) == band_keys(b, bands, rows)).any())
    chance = collision(jaccard, bands, rows)
    assert abs(hits / trials - chance) <= 3 * math.sqrt(chance * (1 - chance) / trials) + 1 / trials, (
        hits / trials,
        chance,
    )


def test_stated_values_of_the_curve():
    assert collision(0.5, 14, 8) == pytest.approx(0.0533, abs=5e-5)
    assert [round(collision(s, 14, 8), 4) for s in (0.7, 0.8, 0.9)] == [0.5645, 0.9235, 0.9996]
    assert (BANDS, ROWS) == (38, 6)
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        assert collision(threshold, *banding(threshold)) >= 1 - 1e-5
        assert collision(threshold - 0.1, *banding(threshold)) >= 0.99


def test_agrees_with_datasketch():
    ours, theirs = [], []
    for seed, share in enumerate(np.linspace(0.05, 0.95, 30), 1):
        a, b = pair_of_sets(seed, 1000, 1000, int(1000 * share))
        ours.append((signature(a, 1024) == signature(b, 1024)).mean())
        sketches = []
        for runs in (a, b):
            one = datasketch.MinHash(num_perm=1024)
            one.update_batch([run.tobytes() for run in runs])
            sketches.append(one)
        theirs.append(sketches[0].jaccard(sketches[1]))
    difference = np.array(ours) - np.array(theirs)
    assert abs(difference.mean()) < 3 * math.sqrt(2 * 0.25 / 1024 / 30) and abs(difference).max() < 0.09


def test_bands_find_as_many_pairs_as_datasketch_s_index():
    bands, rows, size, both, trials = 14, 8, 500, 412, 200
    ours = theirs = 0
    for seed in range(1, trials + 1):
        sets = pair_of_sets(seed, size, size, both)
        one, other = (band_keys(signature(runs, bands * rows), bands, rows) for runs in sets)
        ours += bool((one == other).any())
        index = datasketch.MinHashLSH(num_perm=bands * rows, params=(bands, rows))
        sketches = [datasketch.MinHash(num_perm=bands * rows) for _ in sets]
        for sketch, runs in zip(sketches, sets, strict=True):
            sketch.update_batch([run.tobytes() for run in runs])
        index.insert("one", sketches[0])
        theirs += bool(index.query(sketches[1]))
    chance = collision(both / (2 * size - both), bands, rows)
    assert 0.5 < chance < 0.7
    assert abs(ours - theirs) <= 3 * math.sqrt(2 * trials * chance * (1 - chance))


def test_shortcut_for_long_texts_changes_nothing():
    runs = mixed(np.arange(50_000, dtype=np.uint64))
    places = ((runs & np.uint64(0xFFFFFFFF)) * np.uint64(100)) >> np.uint64(32)
    assert signature(runs, 100).tolist() == [runs[places == place].min() for place in range(100)]
    assert (
        signature(np.tile(runs[:700], 90), 100).tolist() == signature(runs[:700], 100).tolist()
    )  # few, often repeated
    assert signature(runs[::-1], 100).tolist() == signature(runs, 100).tolist()


def test_short_texts_are_compared_as_wholes():
    texts = ["", "?!", "one two three four", "One, two; THREE four.", "one two three five", "a b c d e"]
    columns = sign([Text(text) for text in texts], 10, CONFIG)
    assert np.bincount(columns.keys[0] - 10, minlength=6).tolist() == [0, 0, 1, 1, 1, 1 + BANDS]
    keys = columns.keys[1][:3].tolist()
    assert keys[0] == keys[1] != keys[2]
    assert columns.documents.tolist() == [10, 11, 12, 13, 14, 15] and columns.runs.tolist() == [0, 0, 1, 1, 1, 1]
    assert [len(shingles(Text(text).words, 5)) for text in texts] == [0, 0, 1, 1, 1, 1]


def test_batches_put_together_are_one_batch():
    texts = [Text(" ".join(str(number * seed % 997) for number in range(3000))) for seed in range(1, 6)]
    whole, parts = sign(texts, 0, CONFIG), [sign(texts[:2], 0, CONFIG), sign(texts[2:], 2, CONFIG)]
    for name in ("keys", "samples"):
        for column in (0, 1):
            together = np.concatenate([getattr(part, name)[column] for part in parts])
            assert together.tolist() == getattr(whole, name)[column].tolist()
    assert whole.sampled.tolist() == np.bincount(whole.samples[0], minlength=5).tolist()
    assert sign([], 0, CONFIG).keys[1].dtype == np.uint64


def test_sample_is_a_sixty_fourth():
    text = Text(" ".join(map(str, range(100_000))))
    assert abs(sign([text], 0, CONFIG).sampled[0] - 99_996 / SAMPLE) < 4 * math.sqrt(100_000 / SAMPLE)


def test_scope_source_parts_the_sources():
    text, apart = "one two three four five six " * 100, Duplicates(rule="duplicates", scope="source")
    keys = [set(sign([Text(text, source)], 0, apart).keys[1].tolist()) for source in ("a", "b", "a")]
    assert keys[0] == keys[2] and not keys[0] & keys[1]


@pytest.mark.parametrize(
    "text", ["x" * 3_000_000, "\0" * 100, "\u200b" * 50, "שלום עולם " * 9, ",.\n" * 1000, "𠀀" * 500]
)
def test_any_text_is_signed(text):
    sign([Text(text)], 0, CONFIG)
