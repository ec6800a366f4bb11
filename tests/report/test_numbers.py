"""The numbers of the page, on workspaces small enough to count by hand."""

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.report.made import RUN, document, report, sample, state, workspace


def test_a_run_as_its_reader_sees_it(built):
    read = report(built)
    for name, number in {"rows read": 7, "documents": 4, "instructions": 3, "samples": 15, "model calls": 36}.items():
        assert f"{name}{number}" in read.text
    assert "Worth a look" not in read.text and "Seed: 7." in read.text and "duckdb " in read.text
    ((started, _, status, name, recipe_hash, run_id),) = read.tables["The last runs"][1:]
    assert (status, name, len(recipe_hash)) == ("done", "small", 16) and run_id.startswith("run-")
    named = datetime.strptime(run_id[4:19], "%Y%m%dT%H%M%S")  # a run has its name a moment before it starts
    assert timedelta(0) <= datetime.fromisoformat(started) - named < timedelta(minutes=1)
    assert read.tables["Every row ends each stage in one state"] == [
        ["stage", "rows", "share", "ok"],
        ["ingest", "7", "", "7"],
        ["generate.agentwrite", "3", "", "3"],
        ["generate.long_qa", "12", "", "12"],
        ["export.out", "19", "", "19"],
    ]
    assert read.tables["Who made what"][1:] == [
        ["agentwrite", "scripted", "plan:1 write:1", recipe_hash, "3"],
        ["long_qa", "scripted", "questions:1 answer:1", recipe_hash, "12"],
    ]
    assert "First reasons" not in read.tables and "Scores" not in read.text
    assert all(text.startswith(("It means", "Line ", "What does", "Paragraph", "Write about", "Here is", "… "))
               for text in read.texts)  # fmt: skip


def test_losses_by_stage_length_and_reason(tmp_path):
    documents = [document(1, tokens=90), document(2, tokens=91), document(3, text="x" * 400, tokens=None)]
    lines = [
        state("doc-1#0", "truncated", "truncated_answer", detail="of 500 tokens"),
        state("doc-1#1", "truncated", "truncated_answer", detail="of 400 tokens"),
        state("doc-2#0", "invalid_output", "prompt_echo"),
        state("doc-2#1"),
        state("doc-3#0"),
        state("task-1", "filtered", "dull"),
        *(state(f"doc-{n}", stage="ingest") for n in (1, 2, 3)),
        *(state(f"doc-{n}", "filtered", "not_selected", "select.best") for n in (1, 2, 3)),
    ]
    read = report(workspace(tmp_path, {"documents": documents, "row_states": lines}))
    # log2(90) is nearer to 6, log2(91) to 7; 400 characters are 100 tokens; nothing is known of task-1.
    assert read.tables["Rows lost, of all rows, by the length of what went in"] == [
        ["stage", "64", "128", "not known"],
        ["generate.qa", "2/2", "1/3", "1/1"],
    ]
    assert read.tables["First reasons"][1:] == [
        ["generate.qa", "truncated", "truncated_answer", "2", "33.3%", "of 400 tokens"],
        ["generate.qa", "filtered", "dull", "1", "16.7%", ""],
        ["generate.qa", "invalid_output", "prompt_echo", "1", "16.7%", ""],
        ["select.best", "filtered", "not_selected", "3", "100.0%", ""],
    ]
    assert "generate.qa lost 4 of 6 rows, most often by truncated_answer." in read.text
    assert "select.best lost" not in read.text
    assert read.charts["Documents"] == {"64": "1", "128": "2"}


def test_what_is_unfinished_or_limited_is_said(tmp_path):
    runs = [RUN, {**RUN, "run_id": "run-2", "status": "failed", "started": RUN["finished"], "finished": None}]
    made = workspace(tmp_path, {"row_states": [state("a")]}, runs, limit=5)
    path = made.manifest("generate.qa")
    path.write_text(path.read_text().replace('"done": true', '"done": false'))
    read = report(made)
    assert "The last run is not done: failed." in read.text and "limited to 5 rows" in read.text
    made.logs.mkdir()
    (made.logs / "run-2.jsonl").write_text('{"event": "error", "stage": "generate.qa", "text": "no <b>disk"}\n')
    assert "The last run is not done: failed at generate.qa: no <b>disk." in report(made).text
    assert "Stage generate.qa is unfinished" in read.text
    assert [row[:3] for row in read.tables["The last runs"][1:]] == [
        ["2026-01-02 04:06:05", "–", "failed"],
        ["2026-01-02 03:04:05", "1h 2m", "done"],
    ]


def test_stages_stand_in_the_order_of_the_flow(tmp_path):
    stages = ["export.a", "select.a", "curate.corpus", "curate.rules", "score.z", "generate.z", "mix.a", "ingest"]
    read = report(workspace(tmp_path, {"row_states": [state("a", stage=stage) for stage in stages]}))
    assert [row[0] for row in read.tables["Every row ends each stage in one state"][1:]] == [
        "ingest", "curate.rules", "curate.corpus", "generate.z", "score.z", "select.a", "mix.a", "export.a",
    ]  # fmt: skip


def call(
    number, method="long_qa", step="answer", cached=None, prompt=100, written=10, seconds=1.0, stage="generate.qa"
):
    return {"request_id": f"req-{number}", "row_id": f"r{number}", "stage": stage, "method": method, "step": step,
            "model": "m", "engine": "vllm 1", "prompt_tokens": prompt, "cached_tokens": cached,
            "completion_tokens": written, "seconds": seconds}  # fmt: skip


def test_cost_of_calls_and_of_accepted_records(tmp_path):
    calls = [
        call(1, cached=64), call(2, cached=0), call(2, cached=0),  # two rows that share a call pay once
        call(3, "agentwrite", "plan", prompt=50, written=200, seconds=9.0),
        call(4, "qa_checks", "full", stage="score.qa_checks"),
    ]  # fmt: skip
    read = report(workspace(tmp_path, {"requests": calls, "samples": [sample(1), sample(2), sample(2), sample(3)]}))
    assert read.tables["Tokens and prefix cache"][1:] == [
        ["agentwrite", "vllm 1", "m", "1", "50", "–", "", "200", "9"],
        ["long_qa", "vllm 1", "m", "2", "200", "32.0%", "", "20", "2"],
        ["qa_checks", "vllm 1", "m", "1", "100", "–", "", "10", "1"],
    ]
    # All rows of agentwrite were lost: no cost for each. A judge makes no records.
    assert read.tables["Tokens for each accepted record, with those of lost rows"][1:] == [
        ["agentwrite", "0", "1", "250", "–", "–", "–", "–"],
        ["long_qa", "3", "2", "220", "0.667", "66.7", "6.67", "73.3"],
    ]
    assert read.tables["Most expensive steps"][1] == ["agentwrite, plan", "1", "50", "200", "48.4%"]
    assert read.tables["Most expensive steps"][2] == ["long_qa, answer", "2", "136", "20", "30.2%"]
    assert read.tables["Slowest steps"][1] == ["agentwrite, plan", "1", "9", "75.0%", "9", "9"]
    assert "of these from cache64" in read.text and "model calls4" in read.text


def score_rows(table, column, values, stage=None):
    name = table.removeprefix("scores_")
    return [{"row_id": row, "stage": f"score.{stage or name}", column: value} for row, value in values.items()]


def spearman(pairs):
    def ranks(values):
        return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]

    a, b = (ranks(values) for values in zip(*pairs, strict=True))
    center = (len(pairs) + 1) / 2
    covariance = sum((x - center) * (y - center) for x, y in zip(a, b, strict=True))
    return covariance / math.sqrt(sum((x - center) ** 2 for x in a) * sum((y - center) ** 2 for y in b))


def test_scores_and_their_agreement(tmp_path):
    hmg = {"a": 0.0, "b": 1.0, "c": 1.0, "d": 10.0, "e": float("nan")}
    drop = {"a": 5.0, "b": 4.0, "c": 6.0, "d": 9.0, "z": 1.0}
    tables = {
        "scores_hmg": score_rows("scores_hmg", "hmg", hmg),
        "scores_loss_drop": score_rows("scores_loss_drop", "loss_drop", drop, stage="mine"),
        # Two answers of one sample: their mean. One value only: a histogram of one bar.
        "scores_context_dependency": score_rows("scores_context_dependency", "cd_score", {"q": 0.25})
        + score_rows("scores_context_dependency", "cd_score", {"q": 0.75}),
    }
    read = report(workspace(tmp_path, tables))
    assert read.charts["hmg"] == {"0": "1", "1": "2", "9.5": "1"}  # 20 bins of 0.5, named by their lower edges
    assert read.charts["context_dependency (cd_score)"] == {"0.5": "1"}
    assert ["mine (loss_drop)", "5", "1.6", "4", "5", "6", "8.4"] in read.tables["Quantiles"]
    value = spearman([(hmg[row], drop[row]) for row in "abcd"])
    assert read.tables["Agreement: rank correlation (Spearman) and common rows"] == [
        ["", "hmg", "mine (loss_drop)"],
        ["hmg", "", f"{value:.2f} (4)"],
        ["mine (loss_drop)", f"{value:.2f} (4)", ""],
    ]


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_agreement_is_spearmans_with_ties(tmp_path_factory, pairs):
    rows = {f"r{n}": pair for n, pair in enumerate(pairs)}
    tables = {
        "scores_hmg": score_rows("scores_hmg", "hmg", {row: float(a) for row, (a, _) in rows.items()}),
        "scores_cam": score_rows("scores_cam", "cam", {row: float(b) for row, (_, b) in rows.items()}),
    }
    read = report(workspace(tmp_path_factory.mktemp("w"), tables))
    found = read.tables["Agreement: rank correlation (Spearman) and common rows"][1][2]
    if len({a for a, _ in pairs}) == 1 or len({b for _, b in pairs}) == 1:
        assert found == f"– ({len(pairs)})"
    else:
        assert float(found.split()[0]) == pytest.approx(spearman(pairs), abs=0.0051)


def test_curation(tmp_path):
    documents = [document(n, text=f"Text number {n}") for n in range(1, 6)] + [
        document(6, tokens=50, metadata='{"cleaned_from": "doc-1"}'), document(7, tokens=900, source="web"),
    ]  # fmt: skip
    taken = {"doc-3": "gopher.n_words", "doc-4": "near_duplicate", "doc-7": "contaminated.texts"}
    judged = [("doc-3", "gopher.n_words", False), ("doc-1", "gopher.n_words", True), ("doc-3", "c4.lines", False),
              ("doc-1", "pii.email", True)]  # fmt: skip
    hits = {"benchmark": "gsm8k", "contaminated": False}
    leak = {"contaminated": True}
    tables = {
        "documents": documents,
        "curated": [{"document_id": "doc-6", "original_id": "doc-1"}]
        + [{"document_id": f"doc-{n}", "original_id": f"doc-{n}"} for n in (2, 5)],
        "row_states": [state(row, "filtered", reason, "curate.rules") for row, reason in taken.items()],
        "document_judgements": [{"document_id": d, "rule": rule, "keep": keep} for d, rule, keep in judged],
        "duplicates": [
            {"document_id": "doc-4", "keep": False, "kept_copy_id": "doc-5", "cluster_size": 2},
            {"document_id": "doc-5", "keep": True, "kept_copy_id": "doc-5", "cluster_size": 2},
            {"document_id": "doc-1", "keep": True, "kept_copy_id": "doc-1", "cluster_size": 1},
        ],
        "contamination": [
            {"document_id": "doc-7", "item": "x.jsonl:1", "longest_run": 40, "covered": 0.5, **hits, **leak},
            {"document_id": "doc-1", "item": "x.jsonl:2", "longest_run": 13, "covered": 0.1, **hits},
        ],
        "curation_alarms": [
            {"source": "web", "rule": "c4", "documents": 90, "of": 100, "share": 0.9, "text": "c4 takes much"}
        ],
    }  # fmt: skip
    read = report(workspace(tmp_path, tables))
    assert read.tables["What stayed"][1:] == [
        ["texts", "5", "3", "", "500", "60.0%"],
        ["web", "1", "0", "", "900", "0.0%"],
    ]
    assert read.tables["What rules took"][1:] == [
        ["gopher.n_words", "2", "1", "1"],
        ["contaminated.texts", "–", "–", "1"],
        ["near_duplicate", "–", "–", "1"],
        ["c4.lines", "1", "1", "0"],
    ]
    assert "Rules that took nothing: 1." in read.text
    assert "Clusters of documents that are alike: 1, with 2 documents." in read.text
    assert read.tables["Largest clusters"][1:] == [["doc-5", "2", "1", "Text number 5"]]
    assert read.tables["Benchmarks in documents"][1:] == [["gsm8k", "2", "1", "1", "40"]]
    assert read.tables["Items found most"][1:] == [["x.jsonl:1", "gsm8k", "1", "40", "50.0%"]]
    assert read.tables["Alarms"][1:] == [["c4 takes much", "web", "c4", "90", "100", "90.0%"]]
    assert "Curation: c4 takes much." in read.text and "documents6" in read.text and "kept by curation3" in read.text
    assert read.charts["Documents kept"] == {"64": "1", "128": "2"}
