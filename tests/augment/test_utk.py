"""Untie-the-Knots: everything that is added can be taken away again, and is learnt or not as the paper says."""

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.augment.parts import Part, restore
from pipelines.augment.utk import KnotTokens, knot_tokens, overhead, reserved_token, untie
from schemas.errors import UserError
from tests.augment.rows import BACKTRACE, D_END, DOCUMENTS, PARTS, S_END, S_MID, D, S, array, encode, same, utk

SEEDS = st.integers(0, 2**31 - 1)
KNOTS = range(900, 1000)


def tokens_of(config):
    return knot_tokens(config, lambda name: None)


def knot(documents, config, seed=0, row=0, row_length=10**6, encode=encode):
    return untie(documents, config, tokens_of(config), encode, row_length=row_length, seed=seed, row=row)


def read(input_ids):
    """A row by its tokens alone, as a list of ("name", ids), ("knot", id), ("text", ids) and ("trace", [ids, ...])."""
    found, ids = [], [int(one) for one in input_ids]
    while ids:
        if ids[0] == D:
            end = ids.index(D_END)
            found.append(("name", ids[1:end]))
        elif ids[0] == S:
            end = ids.index(S_END)
            names = [[]]
            for one in ids[1:end]:
                names.append([]) if one == S_MID else names[-1].append(one)
            found.append(("trace", names))
        elif ids[0] in KNOTS:
            end = 0
            found.append(("knot", ids[0]))
        else:
            end = next((n for n, one in enumerate(ids) if one >= 900), len(ids)) - 1
            found.append(("text", ids[: end + 1]))
        ids = ids[end + 1 :]
    return found


@given(DOCUMENTS, PARTS, st.booleans(), SEEDS)
def test_without_what_was_added_the_row_is_the_documents_parts(documents, parts, backtrace, seed):
    made = knot(documents, utk(parts=parts, backtrace=backtrace), seed)
    text = [token for kind, piece in read(made.input_ids) if kind == "text" for token in piece]
    assert text == [int(one) for part in made.parts for one in made.input_ids[part.start : part.end]]
    assert same(restore(made.input_ids, made.parts), documents)
    assert sorted(Counter(text).items()) == sorted(Counter(int(t) for one in documents for t in one).items())


@given(DOCUMENTS, PARTS, st.booleans(), SEEDS)
def test_parts_keep_their_order_and_the_last_of_the_last_document_stays_last(documents, parts, backtrace, seed):
    made = knot(documents, utk(parts=parts, backtrace=backtrace), seed)
    for doc in range(len(documents)):
        numbers = [one.part for one in made.parts if one.doc == doc]
        assert numbers == list(range(len(numbers)))
    assert made.parts[-1].doc == len(documents) - 1


@given(DOCUMENTS, st.integers(1, 5), SEEDS)
def test_n_parts_have_2n_minus_2_knots_and_n_ids(documents, n, seed):
    made = knot(documents, utk(parts=[0] * (n - 1) + [1]), seed)
    for doc, document in enumerate(documents):
        mine = [one for one in made.parts if one.doc == doc]
        assert len(mine) == (n if len(document) >= n else 1)
        around = [int(made.input_ids[one.start - 1]) for one in mine[1:]]
        around += [int(made.input_ids[one.end]) for one in mine[:-1]]
        assert sorted(around) == list(range(900, 900 + 2 * len(mine) - 2))
        assert len({one.id for one in mine if one.id}) == (len(mine) if len(mine) > 1 else 0)
    cut = sum(len(document) >= n > 1 for document in documents)
    kinds = Counter(kind for kind, _ in read(made.input_ids))
    assert (kinds["knot"], kinds["name"], kinds["trace"]) == (cut * (2 * n - 2), cut * n, cut)


@given(DOCUMENTS, PARTS, SEEDS)
def test_a_backtrace_stands_behind_its_documents_last_part_the_last_document_like_any_other(documents, parts, seed):
    made = knot(documents, utk(parts=parts), seed)
    ids = made.input_ids.tolist()
    for doc in range(len(documents)):
        mine = [one for one in made.parts if one.doc == doc]
        names = [encode(one.id) for one in mine]
        after = ids[mine[-1].end :]
        if len(mine) == 1:
            assert names == [[]] and after[:1] != [S]
            continue
        wanted = [S, *[token for name in names for token in (S_MID, *name)][1:], S_END]
        assert after[: len(wanted)] == wanted
        for one, name in zip(mine, names, strict=True):
            prefix = [D, *name, D_END, *([900 + 2 * one.part - 1] if one.part else [])]
            assert ids[one.start - len(prefix) : one.start] == prefix


def step_7(input_ids):
    """Which targets carry loss, by a reading of the row as the published loader has it: inputs and targets are the row
    without its last and first token."""
    inputs, targets = input_ids[:-1], input_ids[1:]
    mask = np.ones(len(inputs), bool)
    mask[np.isin(inputs, KNOTS) | np.isin(targets, KNOTS)] = False
    inside = False
    for place, token in enumerate(inputs):
        inside = inside or token == D
        mask[place] &= not inside
        inside = inside and token != D_END
    mask[(targets == D) | (targets == S) | (inputs == S_END)] = False
    return mask


@given(DOCUMENTS, PARTS, st.booleans(), SEEDS)
def test_targets_without_loss_are_exactly_those_of_step_7(documents, parts, backtrace, seed):
    made = knot(documents, utk(parts=parts, backtrace=backtrace), seed)
    assert not made.loss_mask[0]
    assert made.loss_mask[1:].tolist() == step_7(made.input_ids).tolist()


def test_ids_inside_a_backtrace_keep_loss():
    made = knot([array(range(300, 320))], utk())
    start, end = made.input_ids.tolist().index(S), made.input_ids.tolist().index(S_END)
    assert made.loss_mask[start : end + 1].tolist() == [False] + [True] * (3 * 6 + 2 + 1)


@pytest.mark.parametrize("order", [(0, 1, 1), (1, 0, 1)])
def test_a_row_written_out(order):
    """Two documents, the first too short for two parts; in both orders that there are."""
    documents = [array([300]), array([401, 402])]
    rows = (knot(documents, utk(parts=(0, 1)), row=row) for row in range(100))
    made = next(one for one in rows if tuple(part.doc for part in one.parts) == order)
    first, second = (encode(one.id) for one in made.parts if one.id)
    left = [D, *first, D_END, 401, 900], [0] * 10
    right = [D, *second, D_END, 901, 402, S, *first, S_MID, *second, S_END], [0] * 11 + [1] * 14
    whole = [300], [0]  # at the start of the row or behind a knot, nothing is learnt
    ids, mask = zip(*([whole, left, right] if order[0] == 0 else [left, whole, right]), strict=True)
    assert made.input_ids.tolist() == [*chain(*ids)]
    assert made.loss_mask.astype(int).tolist() == [*chain(*mask)]


@given(DOCUMENTS, SEEDS, st.integers(0, 10**7))
def test_p_0_is_the_identity(documents, seed, row):
    made = knot(documents, utk(p=0), seed, row)
    assert same([made.input_ids], [np.concatenate(documents)])
    assert made.loss_mask.tolist() == [False] + [True] * (len(made.input_ids) - 1)
    ends = [0, *np.cumsum([len(one) for one in documents]).tolist()]
    assert made.parts == [Part(doc, 0, start, end) for doc, (start, end) in enumerate(pairwise(ends))]


def test_same_seed_and_index_give_the_same_row_and_no_two_rows_share_their_chances():
    documents = [array(range(200, 600)), array(range(300, 700))]
    rows = [(47, 100_000), (48, 0), (4, 71), (47, 1), *((0, row) for row in range(1000))]
    made = [knot(documents, utk(), *row) for row in rows]
    again = [knot(documents, utk(), *row) for row in rows]
    assert all(
        same([one.input_ids, one.loss_mask], [other.input_ids, other.loss_mask]) and one.parts == other.parts
        for one, other in zip(made, again, strict=True)
    )
    assert len({one.parts[0].id for one in made}) == len(rows)


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_the_dose_is_the_share_of_rows_that_are_cut(p):
    config, documents = utk(p=p, backtrace=False), [array(range(200, 210))] * 2
    cut = sum(len(knot(documents, config, row=row).parts) == 6 for row in range(4000))
    assert abs(cut / 4000 - p) < 0.025


def test_documents_draw_their_number_of_parts_and_every_cut_point_is_as_likely():
    config, document = utk(parts=(0.2, 0.3, 0.5), backtrace=False), array(range(200, 211))
    numbers, points = Counter(), Counter()
    for row in range(1000):
        made = knot([document] * 10, config, row=row)
        numbers.update(Counter(one.doc for one in made.parts).values())
        starts = [int(made.input_ids[one.start]) - 200 for one in made.parts if one.part]
        points.update(starts)
    assert [round(numbers[n] / 10_000, 1) for n in (1, 2, 3)] == [0.2, 0.3, 0.5]
    assert set(points) == set(range(1, 11))
    assert max(points.values()) - min(points.values()) < 0.15 * np.mean(list(points.values()))


def test_every_order_that_is_allowed_is_as_likely():
    """Two documents of two parts, the last part fixed: aab, aba, baa."""
    documents, config = [array(range(200, 210))] * 2, utk(parts=(0, 1), backtrace=False)
    orders = Counter(tuple(one.doc for one in knot(documents, config, row=row).parts) for row in range(3000))
    assert set(orders) == {(0, 0, 1, 1), (0, 1, 0, 1), (1, 0, 0, 1)}
    assert all(abs(count - 1000) < 120 for count in orders.values())


@given(DOCUMENTS, PARTS, st.booleans(), SEEDS)
def test_documents_packed_with_their_overhead_never_leave_the_row(documents, parts, backtrace, seed):
    config = utk(parts=parts, backtrace=backtrace)
    room = sum(len(document) + overhead(config) for document in documents)
    assert len(knot(documents, config, seed, row_length=room).input_ids) <= room


@pytest.mark.parametrize("backtrace, tokens", [(True, 4 + 3 * 8 + 3 * 7 + 1), (False, 4)])
def test_overhead_is_what_three_parts_cost_with_the_longest_ids(backtrace, tokens):
    config, document = utk(backtrace=backtrace), array(range(200, 230))
    assert overhead(config) == tokens
    assert len(knot([document], config, row_length=30 + tokens).input_ids) == 30 + tokens
    assert overhead(utk(p=0)) == overhead(utk(parts=(1,))) == 0


def test_a_row_without_the_room_for_its_knots_is_an_error_and_is_not_cut():
    with pytest.raises(ValueError, match="row 7: 80 tokens of 79: the packer must leave overhead"):
        knot([array(range(200, 230))], utk(), row=7, row_length=79)


def test_a_document_that_holds_a_reserved_token_is_refused():
    tokens = tokens_of(utk())
    assert reserved_token(array([300, 301]), tokens) is None
    assert reserved_token(array([300, 902, S_END]), tokens) == 902
    for p in (0, 1):
        with pytest.raises(ValueError, match="row 3: document 1 holds token 1004"):
            knot([array([300]), array([300, S_END])], utk(p=p), row=3)


def test_ids_are_drawn_again_where_they_need_too_many_tokens_or_were_seen():
    def few(text):  # many ids are alike, and those with a digit are too long
        return encode(text[0]) if text.isalpha() else encode(text * 2)

    made = knot([array(range(200, 230))] * 10, utk(), encode=few)
    names = [tuple(piece) for kind, piece in read(made.input_ids) if kind == "name"]
    assert len(set(names)) == 30 and {len(name) for name in names} == {1}
    with pytest.raises(UserError, match="backtrace: the tokenizer has no ids of 6 letters and digits in 6 tokens"):
        knot([array(range(200, 230))], utk(), encode=lambda text: encode(text * 2))


def test_a_row_of_a_thousand_short_documents_has_three_thousand_ids():
    made = knot([array(range(200, 210))] * 1000, utk())
    assert len({one.id for one in made.parts}) == 3000


def test_tokens_are_found_by_name_or_id():
    vocabulary = {"<|reserved_special_token_7|>": 128015, "<a>": 3}
    config = utk(parts=(0, 1)).model_copy(update={"knots": ("<|reserved_special_token_7|>", 5)})
    assert knot_tokens(config, vocabulary.get) == KnotTokens((128015, 5), BACKTRACE)
    for knots, message in (("<b>", 5), "knots: the tokenizer has no token '<b>'"), (("<a>", 3), "have one id"):
        with pytest.raises(UserError, match=message):
            knot_tokens(config.model_copy(update={"knots": knots}), vocabulary.get)
