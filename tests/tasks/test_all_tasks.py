"""What every registered verifiable task promises (extras.md, sections 5 and 13), over 1,000 seeds each."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.tasks.base import Item, VerifiableTask
from generators.tasks.registry import TASKS, create_task
from tests.tasks.support import bpe, cl100k, room, without_evidence

SEEDS = 1000
NAMES = sorted(TASKS)
SMALL = 600  # tokens of the many tasks below
SMALLEST = {"golden_thread": 3000, "tom_tracking": 1000}  # tasks that cannot be so short, and how short they can be
READS_PROSE = {"ordering"}
NOT_FLAT = {"ordering", "tom_tracking"}  # evidence is all of the context; the start of the story is always needed


def make(name: str, seed: int, tokens: int | None = None, tokenizer=None) -> Item:
    length = tokens or SMALLEST.get(name, SMALL)
    return task(name).make(Random(seed), room(length, tokenizer) if tokenizer else room(length))


@cache
def task(name: str) -> VerifiableTask:
    return create_task(name)


@cache
def items(name: str) -> list[Item]:
    return [make(name, seed) for seed in range(SEEDS)]


every_task = pytest.mark.parametrize("name", NAMES)


@every_task
def test_the_registry_knows_the_task_by_its_own_name(name):
    assert task(name).name == name and task(name).version >= 1


@every_task
def test_the_verifier_accepts_the_answer_and_refuses_the_corrupted_one(name):
    """extras 13, test 1."""
    for seed, item in enumerate(items(name)):
        wrong = task(name).corrupt(item, Random(seed))
        assert task(name).verify(item.check, item.answer), (seed, item.answer)
        assert wrong != item.answer and not task(name).verify(item.check, wrong), (seed, item.answer, wrong)


@every_task
def test_a_solver_that_reads_only_the_prompt_finds_the_answer(name):
    """extras 5: a solver scores 100%."""
    if name in READS_PROSE:
        pytest.skip("no program reads prose well enough; test_ordering.py proves it from the source")
    for seed, item in enumerate(items(name)):
        blind = Item(item.context, item.question, "", {}, (), {})
        assert task(name).verify(item.check, task(name).solve(blind)), seed


@every_task
def test_without_the_evidence_the_answer_cannot_be_found(name):
    """extras 5: deleting a needle makes it unsolvable."""
    for seed, item in enumerate(items(name)):
        if not item.evidence:
            continue
        try:
            found = task(name).solve(without_evidence(item))
        except ValueError:
            continue
        assert not task(name).verify(item.check, found), (seed, item.answer, found)


@every_task
def test_evidence_lies_within_the_context(name):
    for item in items(name):
        assert all(0 <= start < end <= len(item.context) for start, end in item.evidence)


@every_task
def test_evidence_is_spread_evenly_over_the_text(name):
    """extras 5: the depth histogram is flat."""
    if name in NOT_FLAT:
        pytest.skip("evidence has its place")
    tenths = Counter(
        min(9, 10 * start // len(item.context)) for item in items(name) for start, _ in item.evidence if item.context
    )
    total = sum(tenths.values())
    if not total:
        pytest.skip("a task without places")
    assert all(abs(tenths[n] / total - 0.1) <= 0.035 for n in range(10)), sorted(tenths.items())


@every_task
def test_the_same_seed_gives_the_same_bytes(name):
    """extras 5, and in other processes with other hash seeds too."""
    assert all(make(name, seed) == items(name)[seed] for seed in range(0, SEEDS, 20))


def test_tasks_do_not_depend_on_the_hash_seed_of_the_process():
    def digests(seed: str) -> str:
        code = "from tests.tasks import test_all_tasks as t; t.print_digests()"
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert len(digests("1").splitlines()) == len(NAMES)
    assert digests("1") == digests("2")


def print_digests() -> None:
    for name in NAMES:
        made = repr([(make(name, seed), task(name).corrupt(make(name, seed), Random(0))) for seed in range(25)])
        print(name, hashlib.sha256(made.encode()).hexdigest())


@every_task
@pytest.mark.parametrize(("tokens", "seeds"), [(2048, 8), (8192, 3), (32768, 1)])
def test_the_prompt_has_the_length_asked_for(name, tokens, seeds):
    """extras 13, test 2: within 2%, counted whole by words, a BPE tokenizer and cl100k where it is at hand."""
    if tokens < SMALLEST.get(name, 0):
        pytest.skip("it cannot be so short")
    for tokenizer in (None, bpe(), cl100k()):
        for seed in range(seeds):
            item = make(name, seed, tokens, tokenizer)
            count = room(1).tokenizer.count if tokenizer is None else tokenizer.count
            measured = item.prompt if task(name).measures == "prompt" else item.answer
            assert abs(count(measured) - tokens) <= 0.02 * tokens
            # No needle lost on the way to the length.
            assert task(name).verify(item.check, task(name).solve(item))


@every_task
def test_a_task_that_cannot_be_so_short_says_so(name):
    with pytest.raises(ValueError, match="token"):
        make(name, 1, tokens=12)


@settings(max_examples=60)
@given(answer=st.text(alphabet=st.characters(), max_size=200) | st.sampled_from(["", "1" * 5000, "²", "١٢", "\ud800"]))
@pytest.mark.parametrize("name", NAMES)
def test_the_verifier_judges_any_text(name, answer):
    for item in items(name)[:3]:
        assert task(name).verify(item.check, answer) in (True, False)


@every_task
def test_the_verifier_forgives_case_and_spaces_around_an_answer(name):
    for item in items(name)[:50]:
        assert task(name).verify(item.check, f"  {item.answer}\n")


@every_task
def test_the_answer_of_another_seed_is_wrong(name):
    made = items(name)[:50]
    wrong = sum(
        task(name).verify(one.check, other.answer) for one, other in pairwise(made)
        if one.answer != other.answer
    )  # fmt: skip
    assert wrong == 0
