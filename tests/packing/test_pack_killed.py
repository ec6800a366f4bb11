"""kill -9 while tokens, mixtures and packs are written, then the same command again: the same bytes."""

import random

import pytest

from tests.crash_driver import drill, noted
from tests.packing.test_pack_stages import MIX, write

STAGES = ["tokenise.docs", "tokenise.chats", "mix.mixed", "pack.chats", "pack.mixed"]


def packed(folder):
    pack = [
        {"name": "chats", "row_length": 4096, "of": ["chats"], "loss_weights": "sample", "global_batch": 2},
        {"name": "mixed", "row_length": 700, "mix": "mixed", "strategy": "bfd_split"},
    ]
    return write(folder, mix=[MIX], pack=pack)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drill")
    with drill(folder, packed(folder / "recipe")) as found:
        yield found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_while_rows_are_packed(small):
    stages = noted(small.folder / "whole-0", "stage")
    assert stages[-5:] == STAGES
    first = small.operations * 2 // 3  # the last third of the file operations is theirs
    numbers = [first + (small.operations - first) * n // 9 for n in range(9)]
    killed = small.together([small.at_operation(f"operation-{number}", number) for number in numbers])
    killed += small.together([small.at_moments(f"moment-{n}", random.Random(n)) for n in range(2)])
    assert [one for one in killed if one.lost or one.repeated or one.differing] == []
    assert len({stage for one in killed for stage in one.stages} & set(STAGES)) >= 4
