"""Self-Lengthen, the whole loop: which model is asked when, what is trained on what, and what a kill leaves behind."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from filters.lengths import word_count
from generators.engines.base import ChatRequest
from pipelines.build import PREVIEW, build, choose, make_stages, opened
from pipelines.catalog import query
from pipelines.checking import check_recipe
from pipelines.planning import make_plan
from pipelines.workspace import Workspace
from schemas.errors import RunError, UserError
from schemas.loading import load_recipe
from tests.crash_driver import snapshot
from tests.lengthen_support import SEEDS, TRAINER, lengthen_recipe, make_engine, reply, run, step

ROOT = Path(__file__).parent.parent
KINDS = ("instructions", "answers", "extend", "data")
STAGES = [
    *(f"generate.longer.1.{kind}" for kind in KINDS), "train.longer.1",
    *(f"generate.longer.2.{kind}" for kind in KINDS), "train.longer.2", "generate.longer.length",
]  # fmt: skip


def rows(workspace: Path, sql: str) -> list[Any]:
    return query(Workspace(workspace), sql)[1]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a recipe with the workspace it made, and the engines that were asked."""
    folder = tmp_path_factory.mktemp("lengthen")
    return folder, run(lengthen_recipe(folder), folder / "w")


def models(workspace: Path) -> dict[str, bytes]:
    files = (path for path in (workspace / "models").rglob("*") if path.is_file())
    return {path.relative_to(workspace).as_posix(): path.read_bytes() for path in files}


def test_iteration_1_asks_only_the_base_model_and_iteration_2_what_was_trained_for_each_role(finished):
    folder, engines = finished
    assert set(engines) == {"base", "1/generator", "1/extender"}
    asked = {name: set(map(step, engine.calls)) for name, engine in engines.items()}
    assert asked["1/generator"] == {"answer"} and asked["1/extender"] == {"extend", "complete"}
    found = rows(folder / "w", "SELECT DISTINCT stage, model FROM requests ORDER BY ALL")
    assert found == [
        ("generate.longer.1.answers", "base"), ("generate.longer.1.extend", "base"),
        ("generate.longer.1.instructions", "base"), ("generate.longer.2.answers", "1/generator"),
        ("generate.longer.2.extend", "1/extender"), ("generate.longer.2.instructions", "base"),
        ("generate.longer.length", "base"),
    ]  # fmt: skip


def test_the_median_extended_text_is_longer_than_the_median_initial_one_in_each_iteration(finished):
    folder, _ = finished
    found = rows(
        folder / "w",
        "SELECT details->>'iteration', median((details->>'words')::INT) FILTER (details->>'role' = 'initial'), "
        "median((details->>'words_extended')::INT) FILTER (details->>'role' = 'extended') FROM samples GROUP BY 1",
    )
    assert len(found) == 2 and all(initial < extended for _, initial, extended in found)


def test_what_the_roles_are_trained_on(finished):
    """The generator: the bare request; the extender: an outline of lines of the initial answer, in order."""
    folder, _ = finished
    samples = dict(rows(folder / "w", "SELECT sample_id, messages FROM samples"))
    found = rows(folder / "w", "SELECT role, row_id, messages, details FROM training")
    assert Counter(role for role, *_ in found)["generator"] == len(found) / 2 > 5
    thinner = 0
    for role, row_id, messages, details in found:
        extended, initial = samples[row_id], samples[json.loads(details)["initial_id"]]
        assert messages[1] == extended[1] and [m["role"] for m in messages] == ["user", "assistant"]
        if role == "generator":
            assert messages[0] == extended[0] == initial[0]
            continue
        prompt, lines = messages[0]["content"], initial[1]["content"].split("\n\n")
        outline = prompt.partition("The outline:\n")[2].partition("\n\nYou are a writer")[0]
        kept = outline.split("\n\n") if outline else []
        assert kept == [line for line in lines if line in kept] and initial[0]["content"] in prompt
        thinner += len(kept) < len(lines)
    assert 0 < thinner < len(found) / 2
    written = (folder / "w" / "models" / "longer" / "1" / "generator.jsonl").read_text().splitlines()
    first = rows(folder / "w", "SELECT messages FROM training WHERE role = 'generator' AND iteration = 1")
    assert [json.loads(line)["messages"] for line in written] == [messages for (messages,) in first]


def test_length_controlled_samples_and_every_row_is_accounted_for(finished):
    folder, _ = finished
    which = "FROM samples WHERE details->>'role' = 'length_control'"
    demands = rows(folder / "w", f"SELECT messages, details->'length_constraint' {which}")
    assert len(demands) > 10
    for messages, constraint in demands:
        found, words = json.loads(constraint), word_count(messages[1]["content"])
        low, high = found["lo"] or 0, found["hi"] or 10**9
        assert 0.8 * low <= words <= 1.2 * low if found["type"] == "about" else low <= words <= high
    kept = rows(folder / "w", "SELECT count(*) FROM samples WHERE details->>'role' <> 'length_control'")[0][0]
    length = rows(folder / "w", "SELECT count(*) FROM row_states WHERE stage = 'generate.longer.length'")[0][0]
    assert length == kept


def test_near_duplicates_of_seeds_earlier_iterations_and_each_other_are_filtered(tmp_path):
    told = Counter[str]()

    def said(request: ChatRequest) -> str:
        if step(request) != "propose":
            return reply(request)
        told["propose"] += 1
        # The seeds that are not shown, told once more with another ending.
        hidden = [seed for seed in SEEDS if seed not in request.messages[1].content]
        return " " + hidden[0].rstrip(".") + "!"

    path = lengthen_recipe(tmp_path, iterations=1, train=None, length_control=None)
    run(path, tmp_path / "w", said)
    found = rows(tmp_path / "w", "SELECT DISTINCT state, reason FROM row_states WHERE stage LIKE '%.instructions'")
    assert found == [("filtered", "near_duplicate")] and told["propose"] == 6
    same = " Write a long report about one and the same village library."
    run(path, tmp_path / "v", lambda r: same if step(r) == "propose" else reply(r))
    states = rows(tmp_path / "v", "SELECT row_id, state, reason FROM row_states WHERE stage LIKE '%.instructions'")
    assert [state[1:] for state in states] == [("ok", "")] + [("filtered", "near_duplicate")] * 5
    new = rows(tmp_path / "v", "SELECT text, language FROM instructions WHERE source = 'longer'")
    assert new == [(same.strip(), "en")]


def test_again_asks_and_trains_nothing_and_a_lost_model_is_made_anew(finished):
    folder, _ = finished
    before, trained = snapshot(folder / "w"), models(folder / "w")
    log = folder / "w" / "logs" / "train.longer.1-extender.log"
    log.unlink()
    engines = run(folder / "recipe.yaml", folder / "w")
    assert not any(engine.calls for engine in engines.values()) and not log.exists()
    (folder / "w" / "models" / "longer" / "1" / "extender" / "adapter_config.json").unlink()
    engines = run(folder / "recipe.yaml", folder / "w")
    assert not any(engine.calls for engine in engines.values()) and log.exists()
    assert (snapshot(folder / "w"), models(folder / "w")) == (before, trained)


def test_another_training_changes_the_second_iteration_alone(finished, tmp_path):
    folder, _ = finished
    path = lengthen_recipe(tmp_path)
    run(path, tmp_path / "w")
    (tmp_path / "trainer.py").write_text(TRAINER.replace('f"{role} {iteration}"', 'f"{role}, better"'))
    engines = run(path, tmp_path / "w")
    assert engines["base"].calls == []
    assert engines["1/generator"].calls and engines["1/extender"].calls
    first = [name for name in snapshot(folder / "w") if "longer.1." in name and "row_states" not in name]
    before, after = snapshot(folder / "w"), snapshot(tmp_path / "w")
    requests = [name for name in first if "requests" in name]
    assert requests and [before[name] for name in requests] == [after[name] for name in requests]


def test_a_command_that_fails_or_leaves_nothing_is_named_with_its_log(tmp_path):
    for name, code, told in (
        ("fails", "print('no memory left'); raise SystemExit(3)", r"ended with code 3\n.*no memory left"),
        ("nothing", "pass", "has left neither adapter_config.json nor config.json"),
    ):
        command = [sys.executable, "-c", code, "{data}", "{out}"]
        path = lengthen_recipe(tmp_path / name, train={"command": command})
        with pytest.raises(RunError, match=rf"train\.longer\.1-generator\.log: the (training )?command .*{told}"):
            run(path, tmp_path / name / "w")
        left = {path.name for path in (tmp_path / name / "w" / "models" / "longer" / "1").iterdir()}
        assert left <= {"generator.jsonl", "extender.jsonl"}


def test_a_whole_model_takes_the_place_of_the_base_model(tmp_path):
    code = (
        "import pathlib, shutil, sys; _, data, out, model = sys.argv; shutil.copy(model + '/tokenizer.json', out); "
        "pathlib.Path(out, 'config.json').write_text('{\"max_position_embeddings\": 32768}')"
    )
    path = lengthen_recipe(tmp_path, train={"command": [sys.executable, "-c", code, "{data}", "{out}", "{model}"]})
    asked: list[Any] = []

    def make(config: Any, *rest: Any) -> Any:
        asked.append(config)
        return make_engine({})(config, *rest)

    asyncio.run(build(path, Workspace(tmp_path / "w"), make_engine=make))
    folders = {config.model.removeprefix(f"{tmp_path}/") for config in asked if config.model != "scripted"}
    assert folders == {"w/models/longer/1/generator", "w/models/longer/1/extender"}
    assert all(config.adapter is None for config in asked)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": None}, "without 'train' every iteration would ask the same model"),
        ({"train": {"command": ["python", "{dta}", "{out}"]}}, r"unknown placeholder \{dta\}, did you mean 'data'"),
        ({"train": {"command": ["python", "{data}"]}}, r"must hold \{out\}"),
        ({"count": 3}, "count"),
        ({"length_control": {"words": [150, 900], "step": 100}}, "rising multiples of the step 100"),
    ],
)
def test_recipes_that_cannot_work_are_refused(tmp_path, changes, told):
    path = lengthen_recipe(tmp_path, **changes)
    with pytest.raises(UserError, match=told):
        load_recipe(path)


def test_a_server_cannot_be_trained(tmp_path):
    path = lengthen_recipe(tmp_path)
    value = yaml.safe_load(path.read_text())
    value["engines"]["writer"] = {"type": "openai", "model": "m", "base_urls": ["http://localhost:1"]}
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(UserError, match="trains its model, which must be an engine of this machine"):
        load_recipe(path)


def test_plan_and_check_work_before_and_after_a_run(finished, tmp_path):
    folder, _ = finished

    async def look(workspace: Path) -> tuple[list[Any], list[str]]:
        options = {"make_engine": make_engine({})}
        async with opened(folder / "recipe.yaml", Workspace(workspace), **options) as (context, engines):
            plans = await make_plan(context, engines)
            return plans, [line async for line in check_recipe(context, engines)]

    plans, lines = asyncio.run(look(tmp_path / "new"))
    assert [plan.name for plan in plans] == ["ingest", *STAGES, "export.out"]
    costs = {plan.name: plan.estimate.cost.requests for plan in plans if plan.estimate is not None}
    assert costs == {
        **{f"generate.longer.{t}.instructions": 6 * 2 for t in (1, 2)},
        **{f"generate.longer.{t}.answers": 6 * 2 for t in (1, 2)},
        **{f"generate.longer.{t}.extend": 7 * 2 * 3 * 2 for t in (1, 2)},  # 7 of 12 are kept
        "generate.longer.length": 2 * (12 + 14),
    }
    assert any("answers of up to 2048 tokens fit the window" in line for line in lines)
    plans, _ = asyncio.run(look(folder / "w"))
    assert not any(plan.todo for plan in plans)


def test_generate_means_the_trainings_too_and_a_preview_stops_before_them(finished):
    folder, _ = finished

    async def look() -> tuple[list[str], list[str]]:
        async with opened(folder / "recipe.yaml", Workspace(folder / "w"), make_engine=make_engine({})) as (c, engines):
            stages = make_stages(c.recipe, engines)
            return [s.name for s in choose(stages, "generate")], [s.name for s in choose(stages, PREVIEW)]

    every, first = asyncio.run(look())
    assert every == STAGES and first == STAGES[:4]


def test_a_limit_bounds_the_new_instructions(tmp_path):
    path = lengthen_recipe(tmp_path, iterations=1, train=None)
    run(path, tmp_path / "w", limit=2)
    assert rows(tmp_path / "w", "SELECT count(*) FROM row_states WHERE stage LIKE '%.instructions'") == [(2,)]
    run(path, tmp_path / "w")
    run(path, tmp_path / "fresh")
    assert snapshot(tmp_path / "w") == snapshot(tmp_path / "fresh")


def test_the_shipped_recipe_runs(tmp_path):
    """With the scripted engine, and a trainer that only writes files."""
    value = yaml.safe_load((ROOT / "recipes" / "self_lengthen.yaml").read_text())
    assert load_recipe(ROOT / "recipes" / "self_lengthen.yaml").generate[0].method == "self_lengthen"
    assert Path(ROOT / "recipes" / value["generate"][0]["train"]["command"][1]).resolve().is_file()
    path = lengthen_recipe(tmp_path)
    value["engines"]["writer"].update(model="scripted")
    value["generate"][0]["train"] = yaml.safe_load(path.read_text())["generate"][0]["train"]
    path.write_text(yaml.safe_dump(value))
    engines = run(path, tmp_path / "w")
    assert set(engines) == {"base", "1/generator", "1/extender"}
    roles = rows(tmp_path / "w", "SELECT DISTINCT details->>'role' FROM samples ORDER BY 1")
    assert roles == [("extended",), ("initial",), ("length_control",)]


# ---------------------------------------------------------------- kill -9


def start(path: Path, workspace: Path, latency: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.lengthen_support", str(path), str(workspace), str(latency)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def test_killed_at_random_moments_and_run_again_gives_the_same_tables_and_models(finished, tmp_path):
    folder, _ = finished
    latency, rng = 0.02, random.Random(11)
    started = time.monotonic()
    assert start(folder / "recipe.yaml", tmp_path / "whole", latency).wait() == 0
    seconds = time.monotonic() - started
    assert snapshot(tmp_path / "whole") == snapshot(folder / "w")
    where: list[str] = []
    for number in range(3):
        workspace = tmp_path / f"killed-{number}"
        for share in (rng.uniform(0.3, 0.6), rng.uniform(0.6, 0.9)):
            process = start(folder / "recipe.yaml", workspace, latency)
            time.sleep(seconds * share)
            process.send_signal(signal.SIGKILL)
            process.wait()
            where += [path.stem for path in (workspace / "manifests").glob("*.json")][-1:]
        assert start(folder / "recipe.yaml", workspace, 0.0).wait() == 0
        assert snapshot(workspace) == snapshot(folder / "w")
        assert models(workspace) == models(folder / "w")
    assert where


def test_killed_while_it_trains_the_training_dies_too_and_the_next_run_starts_it_anew(finished, tmp_path):
    folder, _ = finished
    path = lengthen_recipe(tmp_path)
    slow = TRAINER.replace("print(", "(out.parent.parent / 'pid').write_text(str(__import__('os').getpid()))\nprint(")
    waits = "\nimport time\n(out / 'half').touch()\ntime.sleep(0 if (out.parents[3] / 'go').exists() else 600)\n"
    (tmp_path / "trainer.py").write_text(slow + waits)
    process = start(path, tmp_path / "w", 0.0)
    pid = tmp_path / "w" / "models" / "longer" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text() and list((tmp_path / "w" / "models").rglob("half")))
    trainer = int(pid.read_text())
    process.kill()
    process.wait()
    wait_until(lambda: not alive(trainer))
    assert not (tmp_path / "w" / "models" / "longer" / "1" / "generator").exists()
    (tmp_path / "w" / "go").touch()
    assert start(path, tmp_path / "w", 0.0).wait() == 0
    assert not list((tmp_path / "w" / "models").rglob("*.tmp"))
    run_again = run(path, tmp_path / "w")
    assert not any(engine.calls for engine in run_again.values())
    assert snapshot(tmp_path / "w") == snapshot(folder / "w")


def wait_until(condition: Any) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
