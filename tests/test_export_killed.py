"""kill -9 while exports are replaced: the old dataset stands until the new one does, and the next run finishes."""

import random
import shutil
import signal

import pytest

from tests.crash_driver import Driver, noted
from tests.support import texts
from tests.test_export import documents_only, snapshot

SEED = 3
EXPORTS = [
    {"name": "parquet", "configs": ["documents"], "shard_size": "1B"},
    {"name": "jsonl", "configs": ["documents"], "format": "jsonl", "shard_size": "1B"},
    {"name": "mds", "configs": ["documents"], "format": "mds", "shard_size": "2KB"},
]
NAMES = sorted(one["name"] for one in EXPORTS)


@pytest.fixture(scope="module")
def driver():
    one = Driver(save_seconds=0.0)
    yield one
    one.close()


def exports(workspace):
    return {name: snapshot(workspace / "exports" / name) for name in NAMES}


@pytest.mark.slow
def test_killed_while_a_new_export_takes_the_place_of_an_old_one(driver, tmp_path):
    recipes = {}
    for version, count in (("old", 2), ("new", 6)):
        sources = [{"name": f"s{n}", "type": "inline", "items": [text]} for n, text in enumerate(texts(count))]
        (tmp_path / version).mkdir()
        recipes[version] = documents_only(tmp_path / version, documents=sources, export=EXPORTS)
    assert driver.run(recipes["old"], tmp_path / "before") == 0
    before = exports(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    assert driver.run(recipes["new"], tmp_path / "after") == 0
    after = exports(tmp_path / "after")
    assert all(before[name] != after[name] and len(after[name]) > 3 for name in NAMES)

    operations = int(noted(tmp_path / "after", "operations")[0])
    rng = random.Random(SEED)
    ways = [{"die_at": operations * n // 8} for n in range(3, 8)]
    ways += [{"kill_after": rng.uniform(0.02, 0.6)} for _ in range(3)]
    killed, halfway = [], 0
    for number, way in enumerate(ways):
        workspace = tmp_path / f"w{number}"
        shutil.copytree(tmp_path / "before", workspace)
        if driver.run(recipes["new"], workspace, **way) == -signal.SIGKILL:
            killed.append(noted(workspace, "stage")[-1:])
        found = exports(workspace)
        assert all(found[name] in (before[name], after[name]) for name in NAMES), way
        halfway += any((workspace / "exports").glob(".*"))
        assert driver.run(recipes["new"], workspace) == 0
        assert exports(workspace) == after, way
        assert sorted(path.name for path in (workspace / "exports").iterdir()) == NAMES
        shutil.rmtree(workspace)
    assert len(killed) >= 5 and halfway >= 1, (killed, halfway)
    assert sum(stage[:1] != [] and stage[0].startswith("export") for stage in killed) >= 3, killed
