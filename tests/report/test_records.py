"""Records and evidence on the page, the page's file, and the command."""

import shutil
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli import main
from pipelines.report import page
from pipelines.report.html import Heat, shown, size, table
from pipelines.report.samples import marked
from pipelines.workspace import Workspace
from tests.report.made import RUN, Page, document, report, sample, state, workspace
from tests.test_cli import call, fault, real

# ---------------------------------------------------------------- evidence


def test_evidence_is_marked_in_its_document_and_counted_by_depth(tmp_path):
    text = "".join(f"Sentence number {n:04d}. " for n in range(1000))  # 22 characters each
    spans = [{"document_id": "doc-1", "start": 22 * n, "end": 22 * n + 21} for n in (500, 502, 990)]
    tables = {
        "documents": [document(1, text)],
        "samples": [sample(1, f"{text}\n\nWhich is it?", "This one.", document_ids=["doc-1"], evidence=spans)],
        "row_states": [state("doc-1#0"), state("doc-1#0", "filtered", "of another stage", "generate.other"),
                       state("sam-0001", "filtered", "not_selected", "select.best")],
    }  # fmt: skip
    html = report(workspace(tmp_path, tables))
    assert html.marks == ["Sentence number 0500.", "Sentence number 0502."]  # the third is beyond the excerpt
    context, question, answer = html.texts
    assert context == f"… {text[10750:11650]} …" and (question, answer) == ("Which is it?", "This one.")
    assert "Document, from character 10,750 of 22,000" in html.text
    assert (
        "generate.qa: okselect.best: filtered (not_selected)" in html.text
        and "generate.other: filtered" not in html.text
    )
    assert html.charts["Depth in the document"] == {"50–60": "2", "90–100": "1"}


def test_evidence_in_the_prompt_is_marked_there(tmp_path):
    prompt = "Name the number.\n\nThe number is 7.\nThe other is 8.\n\nWhich number?"
    details = {"evidence": [[18, 34]], "depths": [0.5, 1.0]}
    read = report(workspace(tmp_path, {"samples": [sample(1, prompt, "7", details=details)]}))
    assert read.marks == ["The number is 7."] and read.texts[1] == "Which number?"
    assert read.charts["Depth as planted"] == {"50–60": "1", "90–100": "1"}


def test_measured_evidence(tmp_path):
    rows = [
        {"row_id": f"r{n}", "stage": "score.evidence", "depth": n / 60, "span_extent": 0.25, "scope_tokens": n,
         "n_spans": 2, "bm25_rank": 1 + n % 3 or None}
        for n in range(60)
    ]  # fmt: skip
    made = workspace(tmp_path, {"scores_evidence": rows, "samples": [sample(1)]})
    read = report(made)
    assert set(read.charts["Depth in the prompt"].values()) == {"6"} and len(read.charts["Depth in the prompt"]) == 10
    assert read.charts["Dispersion"] == {"20–30": "60"}
    assert "Medians of 60 measured samples: 30 words of evidence in 2 places, which stretch over 25.0%" in read.text
    assert "For 40 of 60 questions, a search by words" in read.text and "the median rank is 2" in read.text
    assert "in the prompt is even: chi-square over ten bins is 0.0" in read.text
    heap = [{**row, "depth": 0.95} for row in rows]
    read = report(workspace(tmp_path / "heap", {"scores_evidence": heap, "samples": [sample(1)]}))
    assert "in the prompt is uneven: chi-square over ten bins is 540.0" in read.text


def test_a_document_that_is_gone_is_not_shown_as_another(tmp_path):
    gone = [{"document_id": "doc-9", "start": 0, "end": 5}]
    read = report(workspace(tmp_path, {"samples": [sample(1, "text\n\nWhy?", document_ids=["doc-9"], evidence=gone)]}))
    assert read.texts == ["Why?", "a"] and read.marks == []


TEXT = "ab<c&d>\u202e'\"e" * 4


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=4))
def test_marks_are_exactly_the_spans_and_change_no_text(first, spans):
    spans = [[min(span), max(span)] for span in spans]
    read = Page(f'<div class="text">{marked(TEXT, first, spans)}</div>')
    assert read.texts[0].removeprefix("… ") == TEXT.replace("\u202e", "[U+202E]")
    inside = [any(start <= first + n < end for start, end in spans) for n in range(len(TEXT))]
    wanted = "".join(one for one, held in zip(TEXT, inside, strict=True) if held)
    assert "".join(read.marks) == wanted.replace("\u202e", "[U+202E]")


# ---------------------------------------------------------------- records


def test_three_of_each_method_and_length_always_the_same(tmp_path):
    samples = [sample(n, f"Question {n}?", tokens=tokens) for n, tokens in enumerate([100] * 9 + [5000] * 2)]
    samples += [sample(20, "Another?", method="agentwrite"), sample(3, "Question 3?")]  # the last was made twice
    read = report(workspace(tmp_path, {"samples": samples}))
    assert "long_qa: 5 of 11 samples" in read.text and "agentwrite: 1 of 1 samples" in read.text
    assert read.texts[::2] == ["Another?", "Question 0?", "Question 1?", "Question 2?", "Question 9?", "Question 10?"]
    assert [text for text in ("About 128 tokens", "About 4k tokens") if text in read.text] == [
        "About 128 tokens", "About 4k tokens",
    ]  # fmt: skip
    opened = [attributes for tag, attributes in read.tags if tag == "details"]
    assert opened == [{"open": None}, {}]


def test_long_texts_are_cut(tmp_path):
    read = report(workspace(tmp_path, {"samples": [sample(1, "q" * 5000, "a" * 701), sample(2, "q" * 700, "a" * 700)]}))
    assert read.texts == ["q" * 700 + " …", "a" * 700 + " …", "q" * 700, "a" * 700]


def test_the_question_that_details_name(tmp_path):
    one = sample(1, "The text.\n\nQuestion: Why? Say so briefly.", document_ids=["doc-1"], details={"question": "Why?"})
    assert report(workspace(tmp_path, {"samples": [one]})).texts == [
        "The text.\n\nQuestion: Why? Say so briefly.", "Why?", "a",
    ]  # fmt: skip


def test_preferences(tmp_path):
    def says(role, content):
        return [{"role": role, "content": content}]

    pair = {"preference_id": "prf-1", "row_id": "ins-1#0", "stage": "generate.dpo", "method": "writing_dpo",
            "prompt": says("user", "Write! " * 128), "chosen": says("assistant", "good " * 8),
            "rejected": says("assistant", "bad"), "source": "tasks", "model": "m"}  # fmt: skip
    tables = {"preferences": [pair, {**pair, "row_id": "ins-1#1"}], "row_states": [state("prf-1", stage="score.x")]}
    read = report(workspace(tmp_path, tables))
    assert [text.strip() for text in read.texts] == [("Write! " * 100).strip(), ("good " * 8).strip(), "bad"]
    assert "preferences1" in read.text and "writing_dpo: 1 of 1 preferences" in read.text and "score.x: ok" in read.text
    assert read.charts["Prompts of preferences"] == {"256": "1"} and read.charts["Chosen answers"] == {"8": "1"}
    assert read.charts["Rejected answers"] == {"1": "1"}  # of 0 tokens, shown in the lowest bucket


# ---------------------------------------------------------------- the page and its file


def test_an_empty_workspace(tmp_path):
    made = workspace(tmp_path, {}, runs=())
    assert "Nothing has been made in this workspace yet." in report(made).text
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".html"] == ["report.html"]


def test_a_section_is_there_when_its_table_has_rows(tmp_path, monkeypatch):
    def packs(connection):
        return table("n", ["a"], connection.execute("SELECT pack_id FROM packs").fetchall())

    sections = (
        *page.SECTIONS,
        ("Packing fill", "packings", lambda _: table("t", ["a"], [["!"]])),
        ("Packs", "packs", packs),
    )
    monkeypatch.setattr(page, "SECTIONS", sections)
    read = report(workspace(tmp_path, {"row_states": [state("a")]}))
    assert "Packing fill" not in read.text and "Packs" not in read.text  # no such table; no rows
    read = report(workspace(tmp_path, {"row_states": [state("a")], "packs": [{"pack_id": "pack-1"}]}))
    assert read.tables["n"] == [["a"], ["pack-1"]] and ("h2", {"id": "packs"}) in read.tags
    assert ("a", {"href": "#packs"}) in read.tags


def test_values_as_they_are_shown():
    assert [shown(one) for one in (1234567, 0.123456, 123.4, None, True)] == [
        "1,234,567", "0.123", "123", "–", "yes",
    ]  # fmt: skip
    assert [size(one) for one in (1, 512, 1024, 2**17, 2**20, None)] == ["1", "512", "1k", "128k", "1M", "not known"]
    read = Page(table("t", ["a", "b"], [["x", Heat("1/2", -0.5)], ["y", Heat("2", 1.0)]]))
    assert [attributes.get("class") for tag, attributes in read.tags if tag == "td"] == ["n g5", "n h10"]


def test_every_table_and_chart_can_be_read_aloud(built):
    read = report(built)
    for tag, attributes in read.tags:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        elif tag == "th":
            assert attributes["scope"] in ("row", "col")
    levels = [int(tag[1]) for tag, _ in read.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))


def test_a_failed_report_leaves_the_old_one(tmp_path, monkeypatch):
    made = workspace(tmp_path, {"row_states": [state("a")]})
    page.write_report(made)
    before = (tmp_path / "report.html").read_bytes()
    shutil.rmtree(tmp_path / "tables" / "row_states")
    assert main(["report", "--workspace", str(tmp_path)]) == 2
    assert (tmp_path / "report.html").read_bytes() == before


# ---------------------------------------------------------------- the command


def test_the_command_writes_where_it_is_told(tmp_path, capsys):
    made = workspace(tmp_path / "w", {"row_states": [state("a")]})
    assert call(capsys, "report", "--workspace", made.root) == (0, f"{made.root}/report.html\n", "")
    to = tmp_path / "new" / "page.html"
    assert call(capsys, "report", "--workspace", made.root, "--to", to) == (0, f"{to}\n", "")
    assert "small" in Page(to.read_text("utf-8")).text
    found = fault(capsys, "report", "--workspace", made.root, "--to", tmp_path)
    assert found == f"longloom: {tmp_path}: is a folder; name a file"
    found = fault(capsys, "report", "--workspace", tmp_path / "none")
    assert found == f"longloom: {tmp_path}/none: holds no manifests; run a recipe with this --workspace first"


def test_a_run_whose_report_cannot_be_written_is_done_all_the_same(tmp_path, capsys):
    workspace_folder = tmp_path / "w"
    (workspace_folder / "report.html").mkdir(parents=True)
    code, out, err = call(capsys, "run", real(tmp_path), "--no-prefect", "--workspace", workspace_folder)
    assert (code, err) == (
        0,
        f"longloom: no report was written: {workspace_folder}/report.html: is a folder; name a file\n",
    )
    assert "Try next:" in out and "report:" not in out


def test_a_report_of_a_read_only_look(built, tmp_path):
    """Reading changes nothing but the catalog, which is derived."""
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(built.root, copy.root)
    before = {p: p.read_bytes() for p in copy.root.rglob("*") if p.is_file() and p != copy.catalog}
    page.write_report(copy, tmp_path / "r.html")
    assert before == {p: p.read_bytes() for p in copy.root.rglob("*") if p.is_file() and p != copy.catalog}
    assert RUN["recipe"] in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize("name", ["stages", "sizes", "calls", "score_values", "picked"])
def test_no_table_of_ours_has_the_name_of_a_temporary_one(name):
    from schemas.tables import TABLES

    assert name not in TABLES
