"""What a fresh reader found: each of these was wrong once."""

import asyncio
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from filters.lengths import required_words
from flows.cli import main
from generators import runner as runner_module
from generators.engines.base import (
    BadRequest,
    ChatRequest,
    Completion,
    EngineDied,
    EngineError,
    EngineInfo,
    Prepared,
    Sampling,
)
from generators.engines.openai import OpenAIClient
from generators.engines.process import ProcessEngine
from generators.engines.scripted import ScriptedEngine
from generators.ledger import request_key
from pipelines import build as build_module
from pipelines import generate, shards
from pipelines.build import build
from pipelines.catalog import query
from pipelines.engine_pool import EnginePool
from pipelines.rows import Candidate, Draw, draw
from pipelines.stages import Silence
from pipelines.workspace import Workspace
from schemas.engines import VllmEngine
from schemas.errors import RunError, UserError
from schemas.loading import load_recipe
from tests.crash_driver import snapshot
from tests.support import answer, recipe, scripted, texts

ROOT = Path(__file__).parent.parent
AGENTWRITE = {"method": "agentwrite", "engine": "writer", "shard_rows": 2}
LONG_QA = {"method": "long_qa", "engine": "writer", "per_document": 3, "document_tokens": {"min": 10}}
HOSTED = {"type": "openai", "model": "m", "base_urls": ["http://localhost:1/v1"], "tokenizer": "scripted"}


class Notes(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def no_catalog_before_it_is_asked(monkeypatch):
    """A query makes the catalog anew in any case; to make it after every stage takes most of a small run's time."""
    monkeypatch.setattr(build_module, "build_catalog", lambda _: [])


def small(folder: Path, **changes: Any) -> Path:
    """A recipe of two methods without export."""
    return recipe(folder, **{"export": [], **changes})


def run(
    path: Path,
    root: Path,
    engine: ScriptedEngine | None = None,
    make_engine: Any = None,
    progress: Silence | None = None,
) -> ScriptedEngine:
    """A whole run; returns the engine, whose `calls` tell what was asked. A run that hangs fails."""
    one = engine or scripted()
    job = build(path, Workspace(root), progress=progress, make_engine=make_engine or (lambda *_: one))
    asyncio.run(asyncio.wait_for(job, 30))
    return one


def rows(root: Path, sql: str) -> list[tuple[Any, ...]]:
    return query(Workspace(root), sql)[1]


def states(root: Path) -> list[tuple[Any, ...]]:
    """What became of the rows of the generate stages."""
    sql = (
        "SELECT state, reason, count(*) FROM row_states WHERE starts_with(stage, 'generate') GROUP BY ALL ORDER BY ALL"
    )
    return rows(root, sql)


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    value = yaml.safe_load(path.read_text("utf-8"))
    edit(value)
    path.write_text(yaml.safe_dump(value, sort_keys=False), "utf-8")
    return path


def fault(path: Path) -> str:
    """Why the recipe is refused: one sentence."""
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    sentence = str(caught.value).removeprefix(f"{path}: ")
    assert "\n" not in sentence
    return sentence


def prompt(request: ChatRequest) -> str:
    return request.messages[0].content


def is_plan(request: ChatRequest) -> bool:
    return "Write the plan as one line per paragraph" in prompt(request)


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(runner_module, "BACKOFF", (1e-6, 1e-5))


# ---------------------------------------------------------------- engines


class Slow(ScriptedEngine):
    """Its start and its end take a while, as those of real engines do."""

    closed = 0

    async def start(self) -> EngineInfo:
        await asyncio.sleep(0.01)
        return await super().start()

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.closed += 1
        await super().close()


def test_the_second_of_two_local_engines(tmp_path):
    """Two units ask for it at the same time, while the first engine is being closed."""
    model = {"type": "auto", "model": "scripted"}
    engines = {"reader": {**model, "max_model_len": 20_000}, "writer": {**model, "max_model_len": 30_000}}
    path = small(tmp_path, engines=engines, generate=[{**LONG_QA, "engine": "reader", "shard_rows": 4}, AGENTWRITE])
    made: dict[int, Slow] = {}

    def make(config: Any, *_: Any) -> Slow:
        made[config.max_model_len] = Slow(answer)
        return made[config.max_model_len]

    run(path, tmp_path / "w", make_engine=make)
    assert states(tmp_path / "w") == [("ok", "", 15)]
    assert rows(tmp_path / "w", "SELECT count(DISTINCT row_id) FROM samples WHERE method = 'agentwrite'") == [(3,)]
    assert [(len(made[size].calls), made[size].starts, made[size].closed) for size in made] == [(24, 1, 1), (12, 1, 1)]


def test_one_runner_for_all_units(tmp_path):
    """The window of a served model is asked from its server, which takes a while."""
    path = small(tmp_path, engines={"writer": HOSTED})
    engine = Slow(answer)

    async def work() -> None:
        pool = EnginePool(load_recipe(path), tmp_path, tmp_path / "ledger.sqlite", None, lambda *_: engine)
        first, second = await asyncio.gather(pool.runner("writer"), pool.runner("writer"))
        await pool.close()
        assert first is second and first.window == 32_768

    asyncio.run(work())


def test_options_name_no_model(tmp_path):
    engine = {"type": "vllm", "model": "scripted", "options": {"model": "another"}}
    assert fault(small(tmp_path, engines={"writer": engine})) == (
        "engines.writer.options: 'model' belongs to the engine itself, or to the recipe, not into options"
    )


def test_what_a_hosted_model_cannot_be_asked(tmp_path):
    method = {**LONG_QA, "sampling": {"answer": {"repetition_penalty": 1.1}}}
    path = small(tmp_path, engines={"writer": {**HOSTED, "server": "openai"}}, generate=[method])
    assert fault(path) == (
        "generate 'long_qa': sampling.answer asks for top_k or repetition_penalty, which engine 'writer' "
        "(server: openai) cannot do"
    )
    change(path, lambda value: value["engines"]["writer"].update(server="vllm"))
    assert load_recipe(path).generate[0].sampling.answer.repetition_penalty == 1.1


def test_an_engine_that_cannot_continue_an_answer(tmp_path):
    """It is asked for the whole answer."""

    class FromTheStart(ScriptedEngine):
        continues = False

    def whole(request: ChatRequest) -> Any:
        text = answer(request)
        return f"1. {text.strip()}" if "one question per line, numbered" in prompt(request) else text

    engine = run(small(tmp_path, generate=[LONG_QA]), tmp_path / "w", FromTheStart(whole))
    assert states(tmp_path / "w") == [("ok", "", 12)]
    assert len(engine.calls) == 24 and {len(request.messages) for request in engine.calls} == {1}
    asked = rows(tmp_path / "w", "SELECT DISTINCT json_extract_string(prompt, '$.prefix') FROM requests")
    assert asked == [("",)]
    for server, continues in (("openai", False), ("vllm", True)):
        path = small(tmp_path, engines={"writer": {**HOSTED, "server": server}})
        assert OpenAIClient(load_recipe(path).engines["writer"], tmp_path).continues is continues


def test_an_engine_that_answers_nothing_ends_the_run(tmp_path, no_waiting):
    path = small(tmp_path, generate=[LONG_QA])  # all rows in one unit
    with pytest.raises(RunError, match=r"the engine gave errors to 8 requests, 6 tries each: no memory"):
        run(path, tmp_path / "w", ScriptedEngine(lambda request: EngineError("no memory")))
    assert runner_module.FAILURES == 8
    assert states(tmp_path / "w") == [] and list((tmp_path / "w" / "tables").rglob("*generate*")) == []
    assert rows(tmp_path / "w", "SELECT status FROM runs") == [("failed",)]
    run(path, tmp_path / "w")
    assert states(tmp_path / "w") == [("ok", "", 12)]

    # More rows than that without an answer, but others have theirs in between: it is these rows' fault.
    bad = [f"about the number {n} at length" for n in range(0, 40, 2)]

    def moody(request: ChatRequest) -> Any:
        return EngineError("not this") if any(mark in prompt(request) for mark in bad) else answer(request)

    tasks = {"name": "tasks", "type": "inline", "items": [f"Write about the number {n} at length." for n in range(40)]}
    path = small(tmp_path, instructions=[tasks], generate=[AGENTWRITE | {"shard_rows": 40}])
    run(path, tmp_path / "moody", ScriptedEngine(moody, max_batch=1))
    assert states(tmp_path / "moody") == [("failed", "engine_error", 20), ("ok", "", 20)]


class Full(ScriptedEngine):
    """Answers nothing before 301 requests are there, or no more have come for two seconds."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._full, self._came, self.most = asyncio.Event(), 0, 0
        self.asked: list[ChatRequest] = []  # in the order they came

    async def generate(self, prepared: Prepared) -> Completion:
        self.asked.append(prepared.request)
        self._came += 1
        self.most = max(self.most, self._came)
        before = 0
        while self._came <= 300 and self._came != before and not self._full.is_set():
            before = self._came
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), 2)
        self._full.set()
        try:
            return await super().generate(prepared)
        finally:
            self._came -= 1


def test_more_than_256_rows_in_flight_and_units_in_order(tmp_path):
    items = [f"Write about the number {n} at length." for n in range(600)]

    def short(request: ChatRequest) -> str:
        return "\n".join(answer(request).split("\n")[:1])  # plans of one paragraph

    path = recipe(
        tmp_path,
        instructions=[{"name": "tasks", "type": "inline", "items": items}],
        generate=[AGENTWRITE | {"shard_rows": 128}],
    )
    engine = Full(short, max_batch=1000, kv_tokens=10_000_000)
    run(path, tmp_path / "w", engine)
    assert states(tmp_path / "w") == [("ok", "", 600)]
    assert engine.most > 300
    numbers = [
        int(re.search(r"the number (\d+) at", prompt(request))[1]) for request in engine.asked if is_plan(request)
    ]
    units = [number // 128 for number in numbers]
    assert Counter(units) == {0: 128, 1: 128, 2: 128, 3: 128, 4: 88} and units == sorted(units)


# ---------------------------------------------------------------- ledger and fingerprints


def test_a_lone_surrogate_ends_only_its_own_row(tmp_path):
    """SQLite holds no such text; the entries that wait for the same commit are none the worse."""
    seen: list[str] = []

    def reply(request: ChatRequest) -> str:
        if "It means" in (text := answer(request)):
            seen.append(text)
            return "It means \ud83d." if len(seen) == 5 else text
        return text

    path = small(tmp_path, generate=[LONG_QA])
    run(path, tmp_path / "w", ScriptedEngine(reply, latency=0.01))
    assert states(tmp_path / "w") == [("failed", "error_ValueError", 1), ("ok", "", 11)]
    ((detail,),) = rows(tmp_path / "w", "SELECT detail FROM row_states WHERE state = 'failed'")
    assert detail.startswith("the answer cannot be recorded: ") and "surrogates not allowed" in detail
    assert len(run(path, tmp_path / "w").calls) == 1  # the others stand in the ledger
    assert states(tmp_path / "w") == [("ok", "", 12)]


def test_another_language_of_a_source(tmp_path):
    path = small(tmp_path)
    run(path, tmp_path / "w")
    languages = "SELECT DISTINCT method, language FROM samples ORDER BY ALL"
    assert rows(tmp_path / "w", languages) == [("agentwrite", "en"), ("long_qa", "en")]
    change(path, lambda value: [value[kind][0].update(language="sv") for kind in ("documents", "instructions")])
    engine = run(path, tmp_path / "w")
    assert rows(tmp_path / "w", languages) == [("agentwrite", "sv"), ("long_qa", "sv")]
    assert len(engine.calls) == 24  # only the prompts of long_qa name the language


def key(folder: Path, **settings: Any) -> str:
    """The ledger key of one request to the model in `folder`, which is not started."""
    engine = ProcessEngine(VllmEngine(type="vllm", model=str(folder), **settings), folder)
    return request_key(engine.identity, ChatRequest((), Sampling(max_tokens=5)))


@pytest.fixture
def model(tmp_path) -> Path:
    from tests.engines.tiny import write_tokenizer

    folder = write_tokenizer(tmp_path / "tiny")
    (folder / "config.json").write_text('{"max_position_embeddings": 4096}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_settings_that_change_answers_are_part_of_the_ledger_key(model):
    keys = [
        key(model),
        key(model, dtype="float16"),
        key(model, options={"quantization": "fp8"}),
        key(model, options={"quantization": "gptq"}),
        key(model, dtype="float16", options={"quantization": "fp8"}),
    ]
    assert len(set(keys)) == len(keys)
    identity = ProcessEngine(VllmEngine(type="vllm", model=str(model), dtype="float16"), model).identity
    assert identity.settings == '{"dtype":"float16"}'
    # What only steers when and where a request is computed changes nothing.
    assert key(model, max_num_seqs=8, gpu_memory_utilization=0.5, tensor_parallel_size=2) == keys[0]
    for option in ("max_num_seqs", "max_num_batched_tokens", "enable_prefix_caching", "enforce_eager", "block_size"):
        assert key(model, options={option: 8}) == keys[0]
    both = {"quantization": "fp8", "max_num_seqs": 8}
    assert key(model, options=both) == keys[2]


def test_another_engine_setting_is_told_and_asks_again(tmp_path):
    path, notes = small(tmp_path, generate=[LONG_QA]), Notes()
    first = run(path, tmp_path / "w")
    other = scripted(identity=replace(first.identity, settings='{"dtype":"float16"}'))
    run(path, tmp_path / "w", other, progress=notes)
    assert len(first.calls) == len(other.calls) == 24
    assert notes.notes == ['generate.long_qa: engine.settings: null -> "{\\"dtype\\":\\"float16\\"}"']


# ---------------------------------------------------------------- rows that failed


class Dead(ScriptedEngine):
    async def start(self) -> EngineInfo:
        raise EngineDied("no graphics card")


def test_good_rows_stay_while_a_retry_cannot_start(tmp_path, monkeypatch):
    path, root = small(tmp_path, generate=[LONG_QA]), tmp_path / "w"
    refused: list[ChatRequest] = []

    def reply(request: ChatRequest) -> Any:
        if not refused and "one question per line, numbered" not in prompt(request):
            refused.append(request)
            return BadRequest("not today")
        return answer(request)

    def small_parts(folder: Path, table: str, unit: str, given: Any) -> list[shards.Part]:
        with monkeypatch.context() as patch, shards.TableWriter(folder, table, unit, part_bytes=1) as writer:
            patch.setattr(shards, "ROW_GROUP_BYTES", 1)
            writer.write_all(given)
        return writer.parts

    with monkeypatch.context() as patch:  # the first attempt writes more parts than the next one
        patch.setattr(generate, "write_rows", small_parts)
        run(path, root, ScriptedEngine(reply))
    assert states(root) == [("failed", "bad_request", 1), ("ok", "", 11)]
    assert len(parts(root, "samples")) == 11
    before = rows(root, "SELECT * FROM samples ORDER BY sample_id")
    with pytest.raises(RunError, match="no graphics card"):
        run(path, root, Dead(answer))
    assert rows(root, "SELECT * FROM samples ORDER BY sample_id") == before and len(before) == 11
    assert states(root) == [("failed", "bad_request", 1), ("ok", "", 11)]

    assert len(run(path, root).calls) == 1
    run(path, tmp_path / "fresh")
    assert states(root) == [("ok", "", 12)] and rows(root, "SELECT count(*) FROM samples") == [(12,)]
    assert len(parts(root, "samples")) == 1 and snapshot(root) == snapshot(tmp_path / "fresh")


def parts(root: Path, table: str) -> list[Path]:
    return sorted((root / "tables" / table).glob("part-*.parquet"))


# ---------------------------------------------------------------- which rows


def corpus(count: int) -> list[Candidate]:
    """Documents of 16 to 2000 tokens; the further ones are in their midst."""
    numbers = [*range(500), *range(1000, count), *range(500, 1000)]
    places = (("f", 0) for _ in numbers)
    return [Candidate(f"doc-{n}", "s", "en", 16 + n * 37 % 1985, *place) for n, place in zip(numbers, places)]  # noqa: B905


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("per_row", [1, 2])
def test_a_growing_corpus_keeps_its_draws(flat, per_row):
    def drawn(documents: int, count: int = 100, seed: int = 7) -> list[Draw]:
        return draw(corpus(documents), per_row, count, flat, seed)

    before = drawn(1000)
    assert before == drawn(1000) and len({one.row_id for one in before}) == 100
    for documents in range(1001, 1011):
        after = drawn(documents)
        assert len(after) == 100
        kept = {one.row_id for one in before} & {one.row_id for one in after}
        assert len(kept) >= 98
        before = after
    assert len({one.row_id for one in before} & {one.row_id for one in drawn(1010, seed=8)}) < 50


@pytest.mark.parametrize("count", [100, 999, 1500])
def test_every_document_is_used_once_before_any_twice(count):
    documents = corpus(1000)
    uses = Counter(one.candidate.row_id for one in draw(documents, 2, count, False, 7))
    assert sorted(uses.values()) == [1] * min(count, 2000 - count) + [2] * max(0, count - 1000)
    # With flat lengths: every document of a length class.
    flat = Counter(one.candidate.row_id for one in draw(documents, 2, count, True, 7))
    classes: dict[int, list[int]] = {}
    for one in documents:
        classes.setdefault(one.tokens.bit_length(), []).append(flat[one.row_id])
    assert flat.total() == count and all(max(used) - min(used) <= 1 for used in classes.values())


def test_no_document_is_long_enough(tmp_path):
    method = {**LONG_QA, "name": "reading", "count": 2, "document_tokens": {"min": 5000}}
    path = small(tmp_path, generate=[method])
    engine = scripted()
    with pytest.raises(UserError) as caught:
        run(path, tmp_path / "w", engine)
    assert str(caught.value) == (
        "generate 'reading': none of 4 documents has the 5000 tokens that document_tokens.min asks for"
    )
    assert engine.calls == [] and engine.starts == 0


def test_full_width_digits_are_a_length():
    assert required_words("写一篇３０００字的文章") == 3000
    assert required_words("写一篇３千字的文章") == 3000


# ---------------------------------------------------------------- what is left in a workspace


def test_a_renamed_stage_takes_its_old_rows_along(tmp_path):
    path, root = small(tmp_path), tmp_path / "w"
    run(path, root)
    change(path, lambda value: value["generate"][0].update(name="reading"))
    engine = run(path, root)
    assert engine.calls == [] and engine.starts == 0
    count = "SELECT stage, count(*) FROM samples GROUP BY ALL ORDER BY ALL"
    assert rows(root, count) == [("generate.agentwrite", 3), ("generate.reading", 12)]
    assert [file for file in root.rglob("*") if "generate.long_qa" in file.name] == []
    parted = {file.name for file in (root / "tables").rglob("*generate*")}
    assert parted and {name.split("-")[1] for name in parted} == {"generate.agentwrite", "generate.reading"}


def test_a_part_that_no_manifest_names_goes_and_other_files_stay(tmp_path):
    path, root = small(tmp_path), tmp_path / "w"
    run(path, root)
    before = snapshot(root)
    orphan = root / "tables" / "samples" / "part-generate.long_qa-00009-00000.parquet"
    orphan.write_bytes(parts(root, "samples")[0].read_bytes())
    run(path, root)
    assert snapshot(root) == before
    runs = rows(root, "SELECT count(*) FROM runs")
    assert runs == [(2,)] and len(parts(root, "runs")) == 2  # no stage made these: they stay


def test_the_hidden_files_of_others_survive(tmp_path):
    path, root = small(tmp_path), tmp_path / "w"
    names = [".notes.tmp", "mine/.draft.tmp", "exports/out/.scratch.tmp", "tables/.list.tmp"]
    run(path, root)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("of another program")
    ours = [root / "manifests" / ".ingest.json.1.tmp", root / ".catalog.duckdb.1.tmp.wal"]
    ours.append(root / "tables" / "samples" / ".part-generate.long_qa-00000-00000.parquet.1.tmp")
    for file in ours:
        file.write_text("half")
    run(path, root)
    assert [name for name in names if (root / name).exists()] == names
    assert [file for file in ours if file.exists()] == []


# ---------------------------------------------------------------- the card


def card(root: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of the export's card."""
    text = (root / "exports" / "out" / "README.md").read_text("utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_another_description_exports_again_and_generates_nothing(tmp_path):
    path, root = recipe(tmp_path, description="The first text."), tmp_path / "w"
    run(path, root)
    assert "The first text" in card(root)[1]
    generated = {file: file.stat().st_mtime_ns for file in root.rglob("part-generate*.parquet")}
    change(path, lambda value: value.update(description="Another text."))
    engine = run(path, root)
    assert "Another text" in card(root)[1] and "The first text" not in card(root)[1]
    assert engine.calls == [] and engine.starts == 0
    assert generated == {file: file.stat().st_mtime_ns for file in root.rglob("part-generate*.parquet")}


def test_a_licence_is_named_only_where_all_sources_state_it(tmp_path):
    def licence(name: str, documents: list[str | None], instructions: str | None) -> str:
        def source(kind: str, items: list[str], stated: str | None) -> dict[str, Any]:
            return {"name": kind, "type": "inline", "items": items} | ({"licence": stated} if stated else {})

        path = recipe(
            tmp_path / name,
            documents=[source(f"text{n}", [text], one) for n, (text, one) in enumerate(zip(texts(2), documents))],  # noqa: B905
            instructions=[source("tasks", ["Write about the sea at length."], instructions)],
            generate=[],
        )
        run(path, tmp_path / name / "w")
        return str(card(tmp_path / name / "w")[0]["license"])

    cc0 = "CC0-1.0"
    assert licence("all", [cc0, cc0], cc0) == "cc0-1.0"
    assert licence("tasks", [cc0, cc0], None) == "other"
    assert licence("text", [cc0, None], cc0) == "other"
    assert licence("two", [cc0, cc0], "MIT") == "other"


# ---------------------------------------------------------------- commands


def dry_make(folder: Path, device: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-n", "install", f"GPU_DEVICE={device}", f"VENV={folder / 'venv'}"]
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=True).stdout


def test_make_installs_vllm_where_there_is_a_gpu(tmp_path):
    assert "-e '.[gpu,vllm]'" in dry_make(tmp_path, Path("/dev/null"))
    assert "-e '.[cpu]'" in dry_make(tmp_path, tmp_path / "missing")


def sentence(capsys: Any, *arguments: object) -> str:
    """The one sentence of a command that refuses its input."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("longloom: ") and err.count("\n") == 1
    return err.removeprefix("longloom: ").rstrip("\n")


def test_two_columns_of_one_name_are_no_json(built, capsys):
    both = ["sql", "SELECT 1 AS a, 2 AS a", "--workspace", built.root, "--format"]
    assert sentence(capsys, *both, "json") == (
        "two columns have the same name, and a JSON object holds one: rename them with AS"
    )
    assert main([str(one) for one in (*both, "csv")]) == 0
    assert capsys.readouterr().out.splitlines() == ["a,a", "1,2"]
    renamed = ["sql", "SELECT 1 AS a, 2 AS b", "--workspace", str(built.root), "--format", "json"]
    assert main(renamed) == 0 and json.loads(capsys.readouterr().out) == [{"a": 1, "b": 2}]


def test_the_export_of_another_recipe(built, tmp_path, capsys):
    other = change(recipe(tmp_path), lambda value: value.update(name="other"))
    for name in ("other/out", f"{other}/out", str(other)):
        found = sentence(capsys, "export", name, "--to", tmp_path / "to", "--workspace", built.root)
        assert found == f"{built.root}: holds recipe 'small', not 'other'"
        assert not (tmp_path / "to").exists()
    own = ["export", "small/out", "--to", str(tmp_path / "to"), "--workspace", str(built.root)]
    assert main(own) == 0 and (tmp_path / "to" / "README.md").is_file()
