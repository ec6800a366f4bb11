"""Where memory is short: smaller batches, then smaller blocks, then a sample is given up until a later run."""

import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from filters.scorers.attention import NONE, Look, View
from filters.scorers.core import ScorerCore, Tokens
from schemas.states import OUT_OF_MEMORY, Reject, State
from tests.scorers.models import write


class Allocator(TorchDispatchMode):
    """Every tensor that an operation makes must be smaller than `limit` bytes; `refused` are sizes that were not."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.refused = limit, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if torch.is_tensor(one)}
        for one in tree_leaves(result):
            if torch.is_tensor(one) and one.untyped_storage().data_ptr() not in given:
                size = one.untyped_storage().nbytes()
                if size > self.limit:
                    self.refused.append(size)
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
        return result


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("model") / "tiny", initializer_range=0.1)
    return ScorerCore(folder, "float32", "cpu", attention=True)


def sample(prompt, response, seed=0):
    """Random tokens; the response's rows look at two segments of the prompt."""
    dice = random.Random(seed)
    ids = [dice.randrange(258) for _ in range(prompt + response)]
    look = Look([NONE] * prompt + [0] * response, [n % 2 for n in range(prompt)] + [NONE] * response, ((0,), (1,)))
    return Tokens(ids[:prompt], ids[prompt:], look)


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logps, other.logps, atol=1e-5, rtol=0)
        if other.attention is not None:
            torch.testing.assert_close(one.attention, other.attention, atol=1e-6, rtol=0)


def test_a_single_sample_is_read_in_smaller_blocks_of_logits(core):
    """100 rows of 258 logits are 103 kB; nothing else in the pass is larger than 52."""
    given = [sample(1, 100)]
    expected = core.read(given)
    with Allocator(60_000) as memory:
        found = core.read(given)
    assert memory.refused == [100 * 258 * 4]
    same(found, expected)


def test_a_single_sample_is_read_in_smaller_blocks_of_attention_rows(core):
    """100 rows of 4 heads and 101 keys are 162 kB: two halvings."""
    given, view = [sample(1, 100)], View((0, 1), "max")
    expected = core.read(given, view, logps=False)
    with Allocator(60_000) as memory:
        found = core.read(given, view, logps=False)
    assert memory.refused == [100 * 4 * 101 * 4, 50 * 4 * 101 * 4]
    same(found, expected)


def test_a_batch_is_halved_and_its_numbers_are_those_of_an_undisturbed_run(core):
    given, view = [sample(5 + n, 90, n) for n in range(7)], View((1,), "mean")
    expected = core.read(given, view)
    with Allocator(60_000) as memory:
        found = core.read(given, view)
    assert len(memory.refused) > 2
    same(found, expected)


def test_what_cannot_fit_alone_is_over_budget_and_the_rest_is_read(core):
    """The pass itself needs 512 bytes a token in the widest layer, in however small blocks."""
    given = [sample(5, 60), sample(300, 60), sample(10, 90)]
    expected = core.read(given)
    with Allocator(100_000):
        found = core.read(given)
    assert isinstance(found[1], Reject)
    assert (found[1].state, found[1].reason) == (State.OVER_BUDGET, OUT_OF_MEMORY)
    assert found[1].detail == "360 tokens on cpu"
    same([found[0], found[2]], [expected[0], expected[2]])
    same(core.read(given), expected)  # with more memory, and nothing of the attempts left in the model


def test_blocks_have_an_end(core, monkeypatch):
    """Five attempts at a sample that never fits: whole blocks, then halves to sixteenths."""
    tries, real = [], core._read_batch
    monkeypatch.setattr(core, "_read_batch", lambda *asked: tries.append(asked[-1]) or real(*asked))
    with Allocator(1_000):
        core.read([sample(300, 60)])
    assert tries == [0, 1, 2, 3, 4]
