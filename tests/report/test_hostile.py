"""Text from outside is shown as text wherever it stands; the page loads nothing and runs nothing."""

import json
import re
import sqlite3

import pytest

from pipelines.catalog import query
from pipelines.report import charts
from pipelines.report.html import Heat, listing, note, swatch, table
from pipelines.report.page import write_report
from pipelines.workspace import Workspace
from tests.conftest import run
from tests.report.made import RUN, Page, document, sample, state, workspace
from tests.support import recipe, texts

ATTACKS = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)>'",
    "</title></style></svg><iframe src='javascript:alert(3)'></iframe>",
    "javascript:alert(4) http://evil.example/x.png",
    "{{7*7}} {% for x in [1] %}x{% endfor %} {0} {x.__class__} %s",
    "<!-- ]]> &lt;b&gt; &#60;script&#62; --><b onclick=alert(5)>",
    "pay\u202eevil\u2066\u200b\ufeff\x1b[31m\x00\U000e0041",
]
ALL = " ".join(ATTACKS)
SHOWN = ALL.replace("\u202e", "[U+202E]").replace("\u2066", "[U+2066]").replace("\u200b", "[U+200B]")
SHOWN = SHOWN.replace("\ufeff", "[U+FEFF]").replace("\x1b", "[U+001B]").replace("\x00", "[U+0000]")
SHOWN = SHOWN.replace("\U000e0041", "[U+E0041]")

TAGS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "h4", "p", "nav", "a", "main",
        "section", "dl", "div", "dt", "dd", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect",
        "text", "path", "figure", "figcaption", "small", "details", "summary", "article", "mark"}  # fmt: skip
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "id", "class", "aria-label", "aria-labelledby",
              "aria-hidden", "href", "role", "tabindex", "scope", "viewbox", "x", "y", "width", "height", "d", "open",
              "dir"}  # fmt: skip


def harmless(html):
    """Nothing but our own elements and attributes, and no address beside places in the page."""
    read = Page(html)
    assert {tag for tag, _ in read.tags} <= TAGS
    assert {name for _, attributes in read.tags for name in attributes} <= ATTRIBUTES
    assert all(attributes.get("href", "#").startswith("#") for _, attributes in read.tags)
    style = re.search("<style>(.*?)</style>", html, re.S)[1]
    assert "url(" not in style and "@import" not in style and "http" not in style
    unseen = re.findall("[\x00-\x08\x0b-\x1f\u200b\u202a-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]", html)
    assert unseen == []
    return read


def everywhere():
    """Rows that have the attacks in every column that takes a text, and a second one with ordinary text."""
    hostile = {"source": ALL, "language": ALL, "model": ALL}
    made = {"stage": "generate.qa", "method": ALL, "prompt_version": ALL, "recipe_hash": ALL}
    spans = [{"document_id": ALL, "start": 5, "end": 60}]
    pair = {name: [{"role": "user", "content": ALL}] for name in ("prompt", "chosen", "rejected")}
    taken = {"state": "filtered", "reason": ALL, "detail": ALL, "row_id": ALL}
    return {
        "documents": [document(1, ALL, document_id=ALL, **{"source": ALL}), document(2)],
        "instructions": [{"instruction_id": ALL, "text": ALL, "source": ALL}],
        "curated": [{"document_id": ALL, "original_id": ALL}],
        "document_judgements": [{"document_id": ALL, "rule": ALL, "keep": False, "reason": ALL}],
        "duplicates": [{"document_id": ALL, "keep": False, "kept_copy_id": ALL, "cluster_size": 2}],
        "contamination": [{"document_id": ALL, "benchmark": ALL, "item": ALL, "longest_run": 9, "contaminated": True}],
        "curation_alarms": [{"source": ALL, "rule": ALL, "documents": 1, "of": 2, "share": 0.5, "text": ALL}],
        "samples": [sample(1, ALL, ALL, sample_id=ALL, details={"question": ALL}, evidence=spans, document_ids=[ALL],
                           **hostile, **made)],
        "preferences": [{"preference_id": ALL, "row_id": ALL, **pair, **hostile, **made}],
        "requests": [{"request_id": ALL, "row_id": ALL, "step": ALL, "engine": ALL, "prompt_tokens": 1,
                      "completion_tokens": 1, "seconds": 1.0, **made, "model": ALL}],
        "row_states": [{**taken, "stage": "generate.qa"}, {**taken, "stage": "curate.rules"}, state(ALL)],
        "scores_hmg": [{"row_id": f"{ALL}{n}", "stage": f"score.{ALL[:40]}", "hmg": float(n)} for n in range(3)],
        "scores_cam": [{"row_id": f"{ALL}{n}", "stage": "score.cam", "cam": float(n)} for n in range(3)],
    }  # fmt: skip


def no_slashes(tables):
    """Stages are names of files."""
    return {name: [{**row, **({"stage": row["stage"].replace("/", "|").replace("\0", "")} if "stage" in row else {})}
                   for row in rows] for name, rows in tables.items()}  # fmt: skip


def test_hostile_text_in_every_column_is_text(tmp_path):
    hostile_run = {**RUN, "recipe": ALL, "recipe_hash": ALL, "versions": json.dumps({ALL: ALL})}
    made = workspace(tmp_path, no_slashes(everywhere()), [hostile_run])
    html = write_report(made).read_text("utf-8")
    read = harmless(html)
    told = " ".join(read.text.split())
    assert told.count(" ".join(SHOWN.split())) > 25  # title, heading, tables, texts, states
    context, question, answer, *pair = read.texts
    assert [context, question, answer, *pair] == [SHOWN] * 6
    (mark,) = read.marks
    assert mark == ALL[5:60]
    for title in ("What stayed", "What rules took", "Largest clusters", "Items found most", "Who made what"):
        assert SHOWN in read.tables[title][1] or " ".join(SHOWN.split()) in read.tables[title][1], title
    assert "49" not in told.replace(f"{ALL}49", "")


@pytest.mark.parametrize(
    "make",
    [
        lambda text: table(text, [text, text], [[text, text], [text, Heat(text, 1.0)]]),
        lambda text: charts.bars(text, [(text, 3), (text, 0)], text),
        lambda text: charts.strip([(text, 1), (text, 2)]),
        lambda text: note(text),
        lambda text: listing([text]),
        lambda text: swatch(text),
    ],
)
@pytest.mark.parametrize("attack", ATTACKS)
def test_every_piece_escapes_what_it_is_given(make, attack):
    harmless(f"<style></style>{make(attack)}")


def test_hostile_documents_and_answers_from_end_to_end(tmp_path):
    """Through ingest, generation, export and report, with the real stages."""
    (tmp_path / "books").mkdir()
    for number in range(5):
        name = f"{number} '\"<img src=x onerror=alert(7)>.txt"
        text = ALL if number == 4 else ALL.replace("\0", "")  # a NUL byte: the file is not read
        (tmp_path / "books" / name).write_text(f"{text}\nBook {number}\n{texts(1)[0]}")
    documents = [{"name": "texts", "type": "text", "path": "books"}]
    items = [f"{ALL} Write {number} words." for number in (200, 300)]
    made = Workspace(tmp_path / "w")
    run(
        recipe(tmp_path, documents=documents, instructions=[{"name": "tasks", "type": "inline", "items": items}]),
        made.root,
    )
    ingested = SHOWN.partition("[U+FEFF]")[0]  # ingest takes some of the rest away
    assert query(made, "SELECT count(*) FROM samples")[1] == [(14,)]
    read = harmless(write_report(made).read_text("utf-8"))
    (lost,) = (row for row in read.tables["First reasons"] if row[2] == "binary_file")
    assert "4 '\"<img src=x onerror=alert(7)>.txt" in lost[5]
    assert sum(text.startswith(ingested) for text in read.texts) == 5  # 2 instructions, 3 documents


def test_the_page_holds_its_policy_and_no_secret(built, tmp_path):
    """No script may run and nothing load, even where all else failed; the style is allowed by its hash."""
    html = write_report(built, tmp_path / "r.html").read_text("utf-8")
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; base-uri 'none'; form-action 'none'", policy
    )
    assert html.index("Content-Security-Policy") < html.index("<style>")
    assert "style=" not in html and str(built.root) not in html
    with sqlite3.connect(built.ledger) as ledger:
        assert ledger.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] > 0  # the ledger itself is not read
