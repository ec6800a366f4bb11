"""Hostile input through the whole of curation: every row ends in an honest state, or the command in one sentence."""

import json
import random
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.catalog import query
from pipelines.workspace import Workspace
from schemas.errors import UserError
from tests.conftest import run

QUESTION = "How many lanterns did the keeper of the old bridge light before the storm came over the hills?"
BENCHMARKS = [{"name": "exam", "path": "exam.jsonl", "fields": ["question"], "titles": ["exam.jsonl"]}]
RECIPE = Path(__file__).parents[2] / "recipes" / "curate.yaml"
RULES = {
    "rules": [
        *yaml.safe_load(RECIPE.read_text("utf-8"))["curate"]["rules"],
        {"rule": "contamination", "benchmarks": BENCHMARKS},
    ],
    # No rule: all that is judged comes to the cleaners and to the search for duplicates.
    "cleaners": [
        {"rule": "c4_lines", "min_line_words": 1, "max_word_characters": 10_000_000},
        {"rule": "pii"},
        {"rule": "contamination_excise", "benchmarks": BENCHMARKS},
        {"rule": "duplicates"},
    ],
}
UNITS = ["a", "(", "[", "{", "[[]](", "[1", "a@", "a.", "1.", "1-", "+1 ", "'", "\"'", "-- ", "\\", "<a ", "&amp;",
         "\t", "\u0301", "\u200b", "\u202e", "é", "模", "🙂", "ﷺ", "۱۲ ", "isbn ", "8.8.8.8:", "a@b.co,", "…", "# ",
         "* ", "http://a/", "{\\x", "javascript "]  # fmt: skip


def strange():
    """Texts that JSON can hold, by name."""
    kept = {
        "zero-width": "Zero\u200bwidth \u2060and\ufeff joined\u200d letters.\n" * 40,
        "right to left": "\u202eהאותיות הולכות לאחור\u202c and then\u2067 العربية \u2069forth.\n" * 40,
        "controls": "A bell \x07, an escape \x1b[31m, a form feed \x0c, a next line \x85 and \u2028 another.\n" * 40,
        "marks": "Z" + "\u0301\u0327" * 5_000 + " algo speaks.\n",
        "nested": "(" * 50_000 + "middle" + ")" * 50_000 + "\n" + "[[" * 20_000 + "1" + "]]" * 20_000,
        "blank lines": "One.\n" + "\n \n\t\n" * 50_000 + "Two.",
    }
    return kept | {f"only {unit!r}": unit * (300_000 // len(unit)) + " end" for unit in UNITS}


def words(count, seed=1):
    rng = random.Random(seed)
    known = ["the", "of", "and", *(f"{a}{b}{c}" for a in "bcdfgh" for b in ("ela", "ori", "uni") for c in "lmnrst")]
    return " ".join(rng.choices(known, k=count)) + "."


def source(name, path, **more):
    return {"name": name, "type": "jsonl", "path": path, "fields": {"metadata": ["name"]}, **more}


def curated(folder, sources, rules):
    (folder / "exam.jsonl").write_text(json.dumps({"question": QUESTION}) + "\n", "utf-8")
    value = {"name": "hostile", "documents": sources,
             "curate": {"rules": rules, "executor": {"type": "embedded", "processes": 1}}}  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(value), "utf-8")
    return folder / "recipe.yaml"


def put(path, texts):
    path.write_text("".join(json.dumps({"name": name, "text": text}) + "\n" for name, text in texts.items()), "utf-8")


def longloom(path, workspace):
    command = [sys.executable, "-m", "flows", "run", str(path), "--no-prefect", "--workspace", str(workspace)]
    return subprocess.run(command, capture_output=True, text=True)


def counts(workspace):
    """(stage, state, reason) -> rows."""
    rows = query(workspace, "SELECT stage, state, reason, count(*) FROM row_states GROUP BY ALL")[1]
    return {tuple(row[:3]): row[3] for row in rows}


def told(states, stage, state=None):
    return sum(count for (one, other, _), count in states.items() if one == stage and state in (None, other))


@pytest.mark.parametrize("way", RULES)
def test_strange_characters_and_long_runs_are_judged_and_keep_their_text(tmp_path, way):
    texts = strange()
    put(tmp_path / "strange.jsonl", texts)
    run(curated(tmp_path, [source("strange", "strange.jsonl")], RULES[way]), tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    states = counts(workspace)
    assert told(states, "ingest", "ok") == told(states, "curate.rules") == len(texts)
    assert told(states, "curate.rules", "failed") == 0
    assert told(states, "curate.corpus") == told(states, "curate.rules", "ok")
    rows = query(workspace, "SELECT metadata->>'name', text FROM documents WHERE metadata->>'cleaned_from' IS NULL")[1]
    assert dict(rows) == texts
    judged = query(workspace, "SELECT count(DISTINCT document_id) FROM document_judgements")[1]
    assert judged == [(len(texts),)]


def test_invalid_utf8_and_nuls_are_told_and_their_neighbours_kept(tmp_path):
    page = words(300)
    lines = [
        json.dumps({"text": page}).encode(),
        b'{"text": "caf\xe9 \xff\xfe ' + page.encode() + b'"}',
        b'{"text": "an overlong \xc0\xaf slash"}',
        json.dumps({"text": "half a character \ud83d"}).encode(),
        json.dumps({"text": "\0".join(words(300, 2))}).encode(),
        b'{"text": "a raw NUL \0"}',
        json.dumps({"text": "\0\0\0"}).encode(),
        b"\0" * 1000,
    ]
    (tmp_path / "lines.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "latin.txt").write_bytes(page.encode() + b" caf\xe9")
    (tmp_path / "folder" / "nul.txt").write_bytes(b"\0" + page.encode())
    (tmp_path / "folder" / "late.txt").write_bytes(words(2000, 3).encode() + b"\0 " + words(300, 4).encode())
    sources = [source("lines", "lines.jsonl"), {"name": "files", "type": "text", "path": "folder"}]
    run(curated(tmp_path, sources, RULES["cleaners"]), tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    assert counts(workspace) == {
        ("ingest", "ok", ""): 3,
        ("ingest", "failed", "bad_encoding"): 4,
        ("ingest", "failed", "malformed_json"): 2,
        ("ingest", "filtered", "empty_text"): 1,
        ("ingest", "filtered", "binary_file"): 1,
        ("curate.rules", "ok", ""): 3,
        ("curate.corpus", "ok", ""): 3,
    }
    found = [text for (text,) in query(workspace, "SELECT text FROM documents ORDER BY chars")[1]]
    assert found == sorted([page, words(300, 2), words(2000, 3) + " " + words(300, 4)], key=len)


def test_one_line_of_20_mb_is_judged_whole_and_gives_up_what_is_in_it(tmp_path):
    """A prose without a line break, with an address and a benchmark's question in its last part."""
    text = words(3_400_000) + " jo@harbour-post.net " + words(500, 2)
    leak = words(1_000, 3) + " " + QUESTION.upper() + " " + words(1_000, 4)
    assert len(text) > 20_000_000
    put(tmp_path / "long.jsonl", {"long": text, "leak": leak})
    rules = [*(rule for rule in RULES["rules"] if rule["rule"] != "language"), RULES["cleaners"][2]]
    run(curated(tmp_path, [source("long", "long.jsonl", language="en")], rules), tmp_path / "ws")
    workspace = Workspace(tmp_path / "ws")
    states = counts(workspace)
    assert told(states, "curate.rules", "ok") == told(states, "curate.corpus", "ok") == 1
    assert states["curate.rules", "filtered", "contamination.texts"] == 1
    (cleaned,) = query(workspace, "SELECT text FROM documents WHERE metadata->>'cleaned_from' IS NOT NULL")[1]
    assert cleaned == (text.replace("jo@harbour-post.net", "[EMAIL_1]"),)


@pytest.mark.parametrize("rule", ["contamination", "contamination_excise"])
def test_documents_whose_title_or_file_names_a_benchmark_go_without_a_word_of_it(tmp_path, rule):
    benchmarks = [{**BENCHMARKS[0], "titles": ["exam.jsonl", "The Lantern Keeper"]}]
    texts = {"The lantern-keeper (1901)": words(300), "The Keeper": words(300, 2)}
    (tmp_path / "books.jsonl").write_text(
        "".join(json.dumps({"title": name, "text": text}) + "\n" for name, text in texts.items()), "utf-8"
    )
    books = {**source("books", "books.jsonl"), "fields": {"title": "title"}}
    own = {**source("own", "exam.jsonl"), "fields": {"text": "more"}}
    path = curated(tmp_path, [books, own], [{"rule": rule, "benchmarks": benchmarks}])
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": QUESTION, "more": words(300, 3)}) + "\n", "utf-8")
    run(path, tmp_path / "ws")
    rows = query(
        Workspace(tmp_path / "ws"),
        "SELECT source, metadata->>'title', state, reason, detail FROM row_states JOIN documents "
        "ON document_id = row_id WHERE stage = 'curate.rules'",
    )[1]
    assert sorted(rows) == [
        ("books", "The Keeper", "ok", "", ""),
        ("books", "The lantern-keeper (1901)", "filtered", "contamination.title", "exam: 1"),
        ("own", None, "filtered", "contamination.title", "exam: 1"),
    ]


def empty(path, count):
    blanks = ["", " ", "\n", "\u2003\t", "\0"]
    with path.open("w") as file:
        file.writelines(json.dumps({"text": blanks[number % len(blanks)]}) + "\n" for number in range(count))
        file.write(json.dumps({"text": words(300)}) + "\n")


def test_empty_documents_are_counted_and_the_one_among_them_found(tmp_path):
    empty(tmp_path / "empty.jsonl", 20_000)
    run(curated(tmp_path, [source("empty", "empty.jsonl")], RULES["cleaners"]), tmp_path / "ws")
    assert counts(Workspace(tmp_path / "ws")) == {
        ("ingest", "filtered", "empty_text"): 20_000,
        ("ingest", "ok", ""): 1,
        ("curate.rules", "ok", ""): 1,
        ("curate.corpus", "ok", ""): 1,
    }


def test_nothing_but_empty_documents_is_an_empty_corpus(tmp_path):
    put(tmp_path / "empty.jsonl", {"a": "", "b": " "})
    run(curated(tmp_path, [source("empty", "empty.jsonl")], RULES["rules"]), tmp_path / "ws")
    assert counts(Workspace(tmp_path / "ws")) == {("ingest", "filtered", "empty_text"): 2}


@pytest.mark.parametrize("role", ["source", "benchmark"])
def test_a_parquet_file_cut_short_is_one_sentence_and_exit_code_2(tmp_path, role):
    pq.write_table(pa.table({"text": [words(300, n) for n in range(50)]}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    put(tmp_path / "good.jsonl", {"good": words(300)})
    sources, rules = [source("good", "good.jsonl")], RULES["rules"]
    if role == "source":
        sources.append({"name": "cut", "type": "parquet", "path": "cut.parquet"})
    else:
        rules = [{"rule": "contamination", "benchmarks": [{"name": "cut", "path": "cut.parquet", "fields": ["text"]}]}]
    path = curated(tmp_path, sources, rules)
    for left in (0, 3, 4, 100, -100, -4, -1):  # bytes
        (tmp_path / "cut.parquet").write_bytes(whole[:left])
        with pytest.raises(UserError) as caught:
            run(path, tmp_path / "ws")
        said = str(caught.value)
        assert "\n" not in said and said.startswith(f"{role} 'cut': cut.parquet cannot be read as Parquet: "), left
    done = longloom(path, tmp_path / "ws")
    assert (done.returncode, done.stderr) == (2, f"longloom: {said}\n")


@pytest.mark.slow
def test_a_gigabyte_in_one_line_and_a_million_empty_documents_in_bounded_memory(tmp_path):
    block = words(180_000) + " "  # 1.1 MB
    with (tmp_path / "line.jsonl").open("w") as file:
        file.write('{"text": "')
        file.writelines(block for _ in range(1024))
        file.write('"}\n')
        texts = {"beyond the rules": block * 48, "long": words(7_000_000, 2)}  # 51 and 42 million characters
        file.writelines(json.dumps({"name": name, "text": text}) + "\n" for name, text in texts.items())
    assert (tmp_path / "line.jsonl").stat().st_size > 1 << 30
    empty(tmp_path / "empty.jsonl", 1_000_000)
    sources = [source("line", "line.jsonl"), source("empty", "empty.jsonl")]
    done = longloom(curated(tmp_path, sources, RULES["cleaners"]), tmp_path / "ws")
    assert done.returncode == 0, done.stderr
    assert counts(Workspace(tmp_path / "ws")) == {
        ("ingest", "failed", "line_too_long"): 1,
        ("ingest", "filtered", "empty_text"): 1_000_000,
        ("ingest", "ok", ""): 3,
        ("curate.rules", "over_budget", "document_too_long"): 1,
        ("curate.rules", "ok", ""): 2,
        ("curate.corpus", "ok", ""): 2,
    }
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4_000_000  # kB, of the largest process
