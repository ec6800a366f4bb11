"""CIP: parts take turns, and nothing is lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.augment.cip import interleave
from pipelines.augment.parts import restore
from schemas.augment import Cip
from tests.augment.rows import DOCUMENTS, array, same


def test_cip_2_on_three_documents_gives_a1_b1_c1_a2_b2_c2_and_loses_nothing():
    documents = [array(range(100, 120)), array(range(200, 230)), array(range(300, 340))]
    made = interleave(documents, Cip(augment="cip"), seed=1, row=2)
    assert [(one.doc, one.part) for one in made.parts] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    a, b, c = (one.end - one.start for one in made.parts[:3])
    halves = [
        documents[0][:a],
        documents[1][:b],
        documents[2][:c],
        documents[0][a:],
        documents[1][b:],
        documents[2][c:],
    ]
    assert same([made.input_ids], [np.concatenate(halves)])
    assert all(one.end > one.start for one in made.parts)


@given(DOCUMENTS, st.integers(2, 6), st.integers(0, 2**31 - 1))
def test_documents_come_back_and_the_parts_lie_side_by_side(documents, parts, seed):
    made = interleave(documents, Cip(augment="cip", parts=parts), seed=seed, row=0)
    assert same(restore(made.input_ids, made.parts), documents)
    ends = [0, *(one.end for one in made.parts)]
    assert [one.start for one in made.parts] == ends[:-1] and ends[-1] == len(made.input_ids)
    assert [(one.part, one.doc) for one in made.parts] == sorted((one.part, one.doc) for one in made.parts)
    counts = [sum(one.doc == doc for one in made.parts) for doc in range(len(documents))]
    assert counts == [parts if len(document) >= parts else 1 for document in documents]
    assert made.loss_mask.tolist() == [False] + [True] * (len(made.input_ids) - 1)


def test_cuts_depend_on_seed_and_row_alone():
    documents, config = [array(range(1000))] * 3, Cip(augment="cip", parts=3)
    made = {
        key: tuple(interleave(documents, config, seed=key[0], row=key[1]).parts)
        for key in [(0, 0), (0, 1), (1, 0), (47, 100_000), (48, 0)]
    }
    assert len(set(made.values())) == len(made)
    assert tuple(interleave(documents, config, seed=0, row=1).parts) == made[0, 1]
