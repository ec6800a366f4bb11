"""Short rows at long positions: strictly rising, below the target, and evenly spread over it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.augment.positions import place
from schemas.augment import Offset, Pose, Slices
from schemas.errors import UserError
from tests.augment.rows import kolmogorov_smirnov

CRITICAL = 1.63 / 100  # Kolmogorov-Smirnov at 1 % for 10,000 draws


def pose(target, content="contiguous"):
    return Pose(augment="pose", target_length=target, content=content)


SCHEMES = st.one_of(
    st.sampled_from(["contiguous", "later"]).map(lambda content: pose(500, content)),
    st.just(Offset(augment="offset", target_length=500)),
    st.integers(2, 20).map(lambda chunks: Slices(augment="slices", target_length=500, chunks=chunks)),
)
JUMPS = {"pose": 1, "offset": 0}


def jumps(made):
    """Where positions leave a gap, and how wide it is."""
    gaps = np.diff(made.position_ids) - 1
    return np.flatnonzero(gaps) + 1, gaps[gaps != 0]


@given(SCHEMES, st.integers(1, 600), st.integers(1, 500), st.integers(0, 2**31 - 1), st.integers(0, 10**7))
def test_positions_rise_strictly_below_the_target_with_few_jumps(config, length, row_length, seed, row):
    made = place(length, config, row_length=row_length, seed=seed, row=row)
    assert len(made.take) == len(made.position_ids) == min(length, row_length)
    assert made.position_ids[0] >= 0 and made.position_ids[-1] < 500
    assert (np.diff(made.position_ids) > 0).all()
    assert len(jumps(made)[0]) <= (config.chunks - 1 if isinstance(config, Slices) else JUMPS[config.augment])
    assert made.take[0] >= 0 and made.take[-1] < length and (np.diff(made.take) > 0).all()
    again = place(length, config, row_length=row_length, seed=seed, row=row)
    assert np.array_equal(again.take, made.take) and np.array_equal(again.position_ids, made.position_ids)


def test_over_10_000_draws_the_jump_of_pose_covers_its_range_evenly():
    """The gap at the jump is u1 - u0, where u0 is 0: the last position tells u1."""
    row_length, target = 64, 4096
    offsets, firsts = [], []
    for row in range(10_000):
        made = place(64, pose(target), row_length=row_length, seed=3, row=row)
        places, gaps = jumps(made)
        u1 = int(made.position_ids[-1]) - (row_length - 1)
        assert made.position_ids[0] == 0 and gaps.tolist() == ([u1] if u1 else [])
        offsets.append(u1)
        firsts += [int(one) - 1 for one in places]
    assert kolmogorov_smirnov(offsets, target - row_length) < CRITICAL
    assert kolmogorov_smirnov(firsts, 31) < CRITICAL  # the first chunk has 1 to 32 tokens


def test_contiguous_rows_are_the_start_of_the_document():
    made = place(1000, pose(4096), row_length=64, seed=0, row=0)
    assert made.take.tolist() == list(range(64))


def test_later_text_goes_on_at_any_place_up_to_the_documents_end():
    gaps = []
    for row in range(10_000):
        made = place(1000, pose(4096, "later"), row_length=64, seed=1, row=row)
        broken = np.flatnonzero(np.diff(made.take) - 1) + 1
        moved = jumps(made)[0]
        assert made.take[0] == 0 and len(broken) <= 1
        assert not len(broken) or not len(moved) or broken[0] == moved[0]  # text and positions part at one place
        gaps.append(int(made.take[-1]) - 63)
    assert kolmogorov_smirnov(gaps, 1000 - 64) < CRITICAL


def test_an_offset_moves_the_row_as_one_and_covers_its_range_evenly():
    config = Offset(augment="offset", target_length=1064)
    made = [place(64, config, row_length=64, seed=0, row=row) for row in range(10_000)]
    assert all((np.diff(one.position_ids) == 1).all() for one in made)
    assert kolmogorov_smirnov([int(one.position_ids[0]) for one in made], 1000) < CRITICAL


def test_slices_keep_each_chunk_together_and_cover_every_position():
    config = Slices(augment="slices", target_length=256, chunks=4)
    seen = set()
    for row in range(1000):
        made = place(32, config, row_length=32, seed=0, row=row)
        chunks = made.position_ids.reshape(4, 8)
        assert (np.diff(chunks, axis=1) == 1).all()
        assert all(64 * number <= chunk[0] and chunk[-1] < 64 * (number + 1) for number, chunk in enumerate(chunks))
        seen.update(made.position_ids.tolist())
    assert seen == set(range(256))


def test_a_target_below_the_row_and_an_empty_document_are_errors():
    with pytest.raises(UserError, match="pose: target_length 63 is below the 64 tokens of a row"):
        place(100, pose(63), row_length=64, seed=0, row=0)
    assert place(63, pose(63), row_length=64, seed=0, row=0).position_ids.tolist() == list(range(63))
    with pytest.raises(ValueError, match="row 5: a document without tokens"):
        place(0, pose(63), row_length=64, seed=0, row=5)
