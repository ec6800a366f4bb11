"""Workspaces made of given rows, and what a page says as tables and texts."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest import Manifest, UnitRecord
from pipelines.report.page import write_report
from pipelines.shards import write_rows
from pipelines.workspace import Workspace
from schemas.tables import TABLES

RUN = {"run_id": "run-1", "recipe": "small", "recipe_hash": "abc", "status": "done", "versions": '{"python": "3.11"}',
       "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
       "finished": datetime(2026, 1, 2, 4, 6, 5, tzinfo=UTC)}  # fmt: skip


def workspace(root, tables, runs=(RUN,), **manifest):
    """A finished workspace. Rows belong to the stage that their column says, else to ingest."""
    parts, states = defaultdict(list), defaultdict(Counter)
    for table, rows in tables.items():
        stages = defaultdict(list)
        for row in rows:
            stages[row.get("stage", "ingest")].append(row)
            states[row.get("stage", "ingest")][row.get("state")] += table == "row_states"
        for stage, held in stages.items():
            full = [{**dict.fromkeys(TABLES[table].names), **row} for row in held]
            parts[stage] += write_rows(root, table, f"{stage}-all", full)
    made = Workspace(root)
    for stage in parts:
        record = UnitRecord("f", parts[stage], states[stage].total(), {k: v for k, v in states[stage].items() if v})
        Manifest(stage, "small", done=True, units={"all": record}, **manifest).save(made.manifest(stage))
    made.manifests.mkdir(parents=True, exist_ok=True)
    for run in runs:
        (root / "tables" / "runs").mkdir(parents=True, exist_ok=True)
        path = root / "tables" / "runs" / f"part-{run['run_id']}.parquet"
        pq.write_table(pa.Table.from_pylist([run], schema=TABLES["runs"]), path)
    return made


def state(row_id, state="ok", reason="", stage="generate.qa", detail=""):
    return {"row_id": row_id, "stage": stage, "state": state, "reason": reason, "detail": detail}


def sample(number, prompt="p", answer="a", tokens=100, **columns):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"sample_id": f"sam-{number:04d}", "row_id": f"doc-{number}#0", "stage": "generate.qa", "method": "long_qa",
            "messages": messages, "document_ids": [], "evidence": [], "request_ids": [], "source": "texts",
            "prompt_tokens": tokens, "response_tokens": 10, "details": json.dumps(columns.pop("details", {})),
            "model": "scripted", **columns}  # fmt: skip


def document(number, text="t", tokens=100, **columns):
    return {"document_id": f"doc-{number}", "source": "texts", "text": text, "chars": len(text), "tokens": tokens,
            "metadata": "{}", **columns}  # fmt: skip


class Page(HTMLParser):
    """`tables`: title -> rows of cell texts, the header first. `charts`: title -> {label: count}. `tags`: (name,
    attributes). `texts`: of the elements with class text, and of `marks`. `text`: all that is read."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.charts, self.tags, self.texts, self.marks, self.text = {}, {}, [], [], [], ""
        self._open, self._rows = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append((tag, attributes))
        match tag, attributes.get("class"):
            case "table", _:
                self._rows = self.tables[attributes["aria-label"]] = []
            case "tr", _:
                self._rows.append([])
            case (("th" | "td"), _):
                self._rows[-1].append("")
            case "div", "text":
                self.texts.append("")
            case "mark", _:
                self.marks.append("")
        if attributes.get("role") == "img" and ". " in attributes["aria-label"]:
            title, _, values = attributes["aria-label"].partition(". ")
            self.charts[title] = dict(pair.rsplit(": ", 1) for pair in values.split(", "))

    def handle_endtag(self, tag):
        opened, _ = self._open.pop()
        assert opened == tag, (opened, tag)

    def handle_data(self, data):
        names = [tag for tag, _ in self._open]
        if "style" in names:
            return
        self.text += data
        if ("th" in names or "td" in names) and "title" not in names:
            self._rows[-1][-1] += data
        if any(attributes.get("class") == "text" for _, attributes in self._open):
            self.texts[-1] += data
        if "mark" in names:
            self.marks[-1] += data


def report(made):
    return Page(write_report(made).read_text("utf-8"))
