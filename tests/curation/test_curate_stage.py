"""Curation from the recipe to what is made from the documents that stay."""

import json
import random
import shutil

import pyarrow.parquet as pq
import pytest
import yaml

import filters.curation.gopher
from pipelines import curate_shard
from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from tests.conftest import run
from tests.crash_driver import drill
from tests.scorers.models import write
from tests.support import recipe
from tests.test_queries import CURATION, QUERIES

LINES = 60


def page(number: int, lines: int = LINES) -> str:
    """Prose of its own: hardly any run of five words is in two pages."""
    rng = random.Random(number)
    words = ["the", "of", "and", "river", "stone", "garden", "letter", "winter", "captain", "morning", "to", "with"]
    words += [f"{a}{b}" for a in ("bel", "cor", "dan", "mil", "ter", "vol") for b in ("an", "est", "ion", "ow", "ur")]
    return "\n".join(" ".join(rng.choice(words) for _ in range(12)) + "." for _ in range(lines))


BOOK = page(1, 600)
NEAR = page(2).rsplit("\n", 2)[0].replace("captain", "sailor", 3)  # fewer different runs of words: it goes
DOCUMENTS = {
    "short": "Too short to be of any use.",
    "book": BOOK,
    "chapter": "\n".join(BOOK.split("\n")[100:250]),
    "whole": page(2),
    "near": NEAR,
    "marked": page(3) + "\nA sentence with a mark of a citation.[1]",
    "plain": page(4),
}
RULES = [
    {"rule": "gopher_quality", "max_words": None},
    {"rule": "c4_lines", "min_line_words": 1},
    {"rule": "duplicates"},
]


def curated(folder, rules=RULES, documents=DOCUMENTS, others=None, **changes):
    section = {"rules": rules, "executor": {"type": "embedded", "processes": 1}, **changes}
    items = list(documents.values())
    parts = {"texts": items[:4], "more": items[4:]} if documents is DOCUMENTS else {"texts": items}  # two shards
    common = {"type": "inline", "licence": "CC0-1.0", "language": "en"}
    sources = [{"name": name, **common, "items": part} for name, part in parts.items()]
    made = {
        "generate": [{"method": "long_qa", "engine": "writer", "document_tokens": {"min": 10}}],
        "export": [{"name": "out", "configs": ["sft", "documents"]}],
    }
    return recipe(folder, documents=sources, curate=section, instructions=[], **{**made, **(others or {})})


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curated")
    run(curated(folder), folder / "ws")
    return Workspace(folder / "ws")


def rows(workspace, sql):
    return query(workspace, sql)[1]


def names(workspace):
    """Document id -> its name here."""
    known = {text: name for name, text in DOCUMENTS.items()}
    return {row: known.get(text, "cleaned") for row, text in rows(workspace, "SELECT document_id, text FROM documents")}


def test_each_document_goes_for_its_first_reason_or_stays(built):
    found = rows(built, "SELECT row_id, stage, state, reason FROM row_states WHERE starts_with(stage, 'curate')")
    named = names(built)
    states = sorted((stage, named[row], state, reason) for row, stage, state, reason in found)
    assert states == [
        ("curate.corpus", "book", "ok", ""),
        ("curate.corpus", "chapter", "filtered", "contained"),
        ("curate.corpus", "marked", "ok", ""),
        ("curate.corpus", "near", "filtered", "near_duplicate"),
        ("curate.corpus", "plain", "ok", ""),
        ("curate.corpus", "whole", "ok", ""),
        *(("curate.rules", name, "ok", "") for name in ("book", "chapter", "marked", "near", "plain")),
        ("curate.rules", "short", "filtered", "gopher.n_words"),
        ("curate.rules", "whole", "ok", ""),
    ]


def test_judgements_are_there_also_where_a_document_stays(built):
    named = names(built)
    found = rows(
        built, "SELECT document_id, value, keep, reason FROM document_judgements WHERE rule = 'gopher.n_words'"
    )
    assert {named[row] for row, *_ in found} == set(DOCUMENTS)
    assert [(value, reason) for row, value, keep, reason in found if not keep] == [(7.0, "n_words")]


def test_duplicates_name_their_kept_copy(built):
    named = names(built)
    found = rows(built, "SELECT document_id, kept_copy_id, cluster_size, jaccard, known_share FROM duplicates")
    told = {named[one]: (named[kept], size, jaccard >= 0.8, known >= 0.8) for one, kept, size, jaccard, known in found}
    assert told["chapter"] == ("book", 2, False, True) and told["near"] == ("whole", 2, True, True)


def test_a_cleaned_document_is_a_new_one_that_names_the_old(built):
    ((text, metadata, tokens),) = rows(
        built, "SELECT text, metadata, tokens FROM documents WHERE metadata LIKE '%cleaned_from%'"
    )
    assert text == DOCUMENTS["marked"].replace("[1]", "") and tokens is None
    named = names(built)
    assert named[json.loads(metadata)["cleaned_from"]] == "marked"


def test_only_documents_that_stay_are_used_and_exported(built):
    used = rows(built, "SELECT DISTINCT unnest(document_ids) FROM samples")
    exported = pq.read_table(built.exports / "out" / "documents").column("id").to_pylist()
    (stays,) = zip(*rows(built, "SELECT document_id FROM curated"), strict=True)
    assert {row for (row,) in used} == set(stays) == set(exported)
    named = names(built)
    assert sorted(named[row] for row in exported) == ["book", "cleaned", "plain", "whole"]


@pytest.mark.parametrize("name", [name for name in CURATION if name != "benchmark-leaks"])
def test_the_named_queries_have_answers(built, name):
    assert rows(built, QUERIES[name])


QUESTION = "How many lanterns did the keeper of the old bridge light before the storm came over the hills that night?"


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """A corpus with a benchmark's question, an address and a text in German."""
    folder = tmp_path_factory.mktemp("leaking")
    (folder / "exam.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "Seven."}) + "\n", "utf-8")
    documents = {
        "leak": page(5) + "\n" + QUESTION.upper().replace(" THE ", "\nTHE, ") + "\n" + page(6),
        "address": page(7) + "\nWrite to jo@harbour-post.net or Jo@harbour-post.net about 8.8.8.8.\n",
        "german": "Der Hafen lag still, und niemand wusste, wann das Schiff endlich kommen sollte. " * 60,
        "plain": page(8),
    }
    rules = [
        {"rule": "language", "keep": ["en"]},
        {"rule": "contamination", "benchmarks": [{"name": "exam", "path": "exam.jsonl", "fields": ["question"]}]},
        {"rule": "pii"},
    ]
    path = curated(folder, rules, documents)
    value = yaml.safe_load(path.read_text("utf-8"))
    value["curate"]["executor"] = {"type": "embedded", "processes": 2}
    path.write_text(yaml.safe_dump(value), "utf-8")
    run(path, folder / "ws")
    return documents, Workspace(folder / "ws")


def test_leaks_languages_and_addresses(leaking):
    documents, workspace = leaking
    named = {text: name for name, text in documents.items()}
    found = rows(workspace, "SELECT text, state, reason FROM row_states JOIN documents ON document_id = row_id "
                 "WHERE stage = 'curate.rules'")  # fmt: skip
    assert {named[text]: (state, reason.partition(".")[0]) for text, state, reason in found} == {
        "leak": ("filtered", "contamination"),
        "address": ("ok", ""),
        "german": ("filtered", "language"),
        "plain": ("ok", ""),
    }
    ((benchmark, item, field, count, run_, *_),) = rows(workspace, QUERIES["benchmark-leaks"])
    assert (benchmark, item, field, count, run_) == ("exam", "exam.jsonl:1", "question", 1, len(QUESTION.split()))
    ((text,),) = rows(workspace, "SELECT text FROM documents WHERE metadata LIKE '%cleaned_from%'")
    assert text.endswith("\nWrite to [EMAIL_1] or [EMAIL_1] about [IP_1].\n")
    assert len(rows(workspace, "SELECT * FROM curated")) == 2
    card = (workspace.exports / "out" / "README.md").read_text("utf-8")
    assert "| decontamination | contamination of exam (13-grams) |" in card


def test_a_changed_benchmark_judges_again_and_a_missing_one_is_named(leaking, tmp_path):
    _, workspace = leaking
    folder = workspace.root.parent
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = {one.stage: one.run_id for one in run(tmp_path / "recipe.yaml", tmp_path / "ws")}
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": "Why is the sky blue over there, my friend?"}) + "\n")
    after = {one.stage: one for one in run(tmp_path / "recipe.yaml", tmp_path / "ws")}
    assert after["curate.rules"].run_id != before["curate.rules"]
    assert after["curate.rules"].states == {"filtered": 1, "ok": 3}
    (tmp_path / "exam.jsonl").unlink()
    with pytest.raises(UserError, match=r"benchmark 'exam': there is no file or folder 'exam.jsonl'"):
        run(tmp_path / "recipe.yaml", tmp_path / "ws")
    (tmp_path / "exam.jsonl").write_text('{"question": \n')
    with pytest.raises(UserError, match=r"exam.jsonl:1: malformed_json"):
        run(tmp_path / "recipe.yaml", tmp_path / "ws")


def tables(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "tables").glob("*/part-curate*.parquet"))
    }


def test_scorers_of_documents_read_those_that_stay(built, tmp_path):
    engines = {"probe": {"type": "transformers", "model": str(write(tmp_path / "probe"))}}
    score = [{"scorer": "coherence_gain", "engine": "probe", "tail_tokens": 4, "near_tokens": 4, "far_tokens": 8}]
    path = curated(tmp_path, others={"engines": engines, "generate": [], "export": [], "score": score})
    run(path, tmp_path / "ws")
    scored = rows(Workspace(tmp_path / "ws"), "SELECT row_id FROM row_states WHERE stage = 'score.coherence_gain'")
    assert sorted(scored) == sorted(rows(built, "SELECT document_id FROM curated"))


def test_processes_threads_and_beam_write_the_same_bytes(built, tmp_path):
    ways = {
        "processes": {"executor": {"type": "embedded", "processes": 2}},
        "beam": {"executor": {"type": "beam"}},
    }
    for name, changes in ways.items():
        folder = tmp_path / name
        path = curated(folder, **changes)
        run(path, folder / "ws", stage="ingest")
        run(path, folder / "ws", stage="curate")
        assert tables(folder / "ws") == tables(built.root), name
        assert not (folder / "ws" / ".curate").exists() and not (folder / "ws" / ".beam").exists()


def test_nothing_is_done_twice_and_a_changed_threshold_reads_no_rule_again(tmp_path):
    path = curated(tmp_path)
    run(path, tmp_path / "ws")
    before = {one.stage: one for one in run(path, tmp_path / "ws")}
    changed = curated(tmp_path, rules=[*RULES[:2], {"rule": "duplicates", "containment": 0.99}])
    after = {one.stage: one for one in run(changed, tmp_path / "ws")}
    assert after["curate.rules"].run_id == before["curate.rules"].run_id
    assert after["curate.corpus"].run_id != before["curate.corpus"].run_id


def test_a_document_that_breaks_a_rule_fails_alone_and_is_tried_again(tmp_path, monkeypatch):
    judge_all = filters.curation.gopher.Gopher.judge_all

    def breaks(self, batch):
        if DOCUMENTS["plain"] in batch.text:
            raise ZeroDivisionError("such a text")
        return judge_all(self, batch)

    monkeypatch.setattr(filters.curation.gopher.Gopher, "judge_all", breaks)
    path = curated(tmp_path)
    run(path, tmp_path / "ws", stage="ingest")
    (manifest,) = run(path, tmp_path / "ws", stage="curate.rules")
    assert manifest.states == {"failed": 1, "filtered": 1, "ok": 5}
    monkeypatch.undo()
    (manifest,) = run(path, tmp_path / "ws", stage="curate.rules")
    assert manifest.states == {"filtered": 1, "ok": 6}


def test_a_document_beyond_the_limit_is_over_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(curate_shard, "MAX_CHARS", len(BOOK) - 1)
    path = curated(tmp_path)
    run(path, tmp_path / "ws", stage="ingest")
    (manifest,) = run(path, tmp_path / "ws", stage="curate.rules")
    assert manifest.states == {"filtered": 1, "ok": 5, "over_budget": 1}


def test_a_rule_that_takes_most_of_a_source_raises_an_alarm(tmp_path):
    many = {str(n): f"Short text number {n}." for n in range(80)} | {f"p{n}": page(10 + n) for n in range(40)}
    run(curated(tmp_path, documents=many), tmp_path / "ws")
    ((source, rule, documents, of),) = rows(
        Workspace(tmp_path / "ws"), 'SELECT source, rule, documents, "of" FROM curation_alarms'
    )
    assert (source, rule, documents, of) == ("texts", "gopher.n_words", 80, 120)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"rules": []}, "curate.rules"),
        ({"rules": [{"rule": "gopher"}]}, "gopher_quality"),
        ({"rules": [{"rule": "duplicates"}, {"rule": "duplicates"}]}, "'duplicates' may stand once"),
        ({"rules": [{"rule": "c4", "sources": ["text"]}]}, "no source 'text' under 'documents', did you mean 'texts'"),
        ({"rules": [{"rule": "c4", "min_sentence": 3}]}, "min_sentence"),
        ({"rules": [{"rule": "c4"}], "executor": {"type": "spark"}}, "executor"),
    ],
)
def test_wrong_sections_are_named(tmp_path, section, says):
    path = recipe(tmp_path, curate=section)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert says in str(caught.value)


def test_killed_before_file_operations_the_tables_are_the_same(tmp_path):
    with drill(tmp_path, curated(tmp_path / "recipe")) as small:
        numbers = [small.operations * n // 8 for n in range(1, 8)]
        killed = small.together([small.at_operation(f"operation-{number}", number) for number in numbers])
        assert [one for one in killed if one.lost or one.repeated or one.differing] == []
        assert {stage for one in killed for stage in one.stages} >= {"curate.rules", "curate.corpus"}
