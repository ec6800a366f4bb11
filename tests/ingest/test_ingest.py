"""Ingest: exact tables, one state for every row, duplicates, tokens, limits, byte identity, bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ingest_support import columns, ingest, source, table

from pipelines import ingest as module
from pipelines.seen import SeenIds
from pipelines.sources import inputs
from schemas.errors import ConservationError
from schemas.ids import content_id

ENGLISH = "The quick brown fox jumps over the lazy dog and runs away from the house."
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und läuft aus dem Haus."


def _lines(folder, values, name="a.jsonl"):
    (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")


def test_documents_table_exactly(tmp_path):
    _lines(
        tmp_path,
        [
            {"text": ENGLISH, "t": "Fox", "c": float("nan"), "d": {"k": [1]}},
            {"text": GERMAN, "l": "xx", "lic": "MIT"},
            {"text": "12 34", "c": 5},
            {"text": ENGLISH},
            {"text": 5},
        ],
    )
    fields = {"title": "t", "language": "l", "licence": "lic", "metadata": ["c", "d"]}
    result = ingest(
        source("jsonl", "a.jsonl", fields=fields, licence="CC0-1.0"),
        tmp_path,
        tmp_path / "w",
        count_tokens=lambda texts: [len(text.split()) for text in texts],
    )
    ids = [content_id("doc", text) for text in (ENGLISH, GERMAN, "12 34")]
    wanted = ("document_id", "source", "text", "language", "chars", "tokens")
    assert columns(tmp_path / "w", "documents", *wanted) == [
        (ids[0], "src", ENGLISH, "en", len(ENGLISH), 15, ),
        (ids[1], "src", GERMAN, "xx", len(GERMAN), 14),
        (ids[2], "src", "12 34", "und", 5, 2),
    ]  # fmt: skip
    assert [row["metadata"] for row in table(tmp_path / "w", "documents")] == [
        '{"c":null,"d":{"k":[1]},"licence":"CC0-1.0","location":"a.jsonl:1","title":"Fox"}',
        '{"licence":"MIT","location":"a.jsonl:2"}',
        '{"c":5,"licence":"CC0-1.0","location":"a.jsonl:3"}',
    ]
    bad = [content_id("row", ["src", f"a.jsonl:{line}"]) for line in (4, 5)]
    assert columns(tmp_path / "w", "row_states", "row_id", "stage", "state", "reason", "detail") == [
        (ids[0], "ingest", "ok", "", ""),
        (ids[1], "ingest", "ok", "", ""),
        (ids[2], "ingest", "ok", "", ""),
        (bad[0], "ingest", "filtered", "duplicate_text", "a.jsonl:4"),
        (bad[1], "ingest", "failed", "text_not_a_string", "a.jsonl:5: 'text' is int, not a text"),
    ]
    assert (result.rows_in, result.states) == (5, {"failed": 1, "filtered": 1, "ok": 3})
    assert [(part.table, part.file, part.rows) for part in result.parts] == [
        ("documents", "tables/documents/part-ingest.documents.src-00000.parquet", 3),
        ("row_states", "tables/row_states/part-ingest.documents.src-00000.parquet", 5),
    ]


def test_instructions_table_exactly(tmp_path):
    of = source("inline", items=[ENGLISH, GERMAN], language="en")
    ingest(of, tmp_path, tmp_path / "w", "instructions", count_tokens=lambda texts: pytest.fail("not counted"))
    assert table(tmp_path / "w", "instructions") == [
        {
            "instruction_id": content_id("ins", text),
            "text": text,
            "source": "src",
            "language": "en",
            "metadata": json.dumps({"location": f"inline:{number}"}, separators=(",", ":")),
        }
        for number, text in enumerate((ENGLISH, GERMAN), 1)
    ]


def test_duplicates_across_sources_and_runs(tmp_path):
    seen = SeenIds()
    first, second = (source("inline", name=name, items=["a", "b", name]) for name in ("one", "two"))
    assert ingest(first, tmp_path, tmp_path / "w", seen=seen).states == {"ok": 3}
    result = ingest(second, tmp_path, tmp_path / "w", seen=seen)
    assert result.states == {"filtered": 2, "ok": 1}
    again = SeenIds()
    again.load((tmp_path / "w/tables/documents").glob("part-ingest.documents.one-*"))
    repeated = ingest(second, tmp_path, tmp_path / "w2", seen=again)
    assert repeated == result
    assert table(tmp_path / "w2", "documents") == table(tmp_path / "w", "documents")[3:]


def test_limits_count_good_and_bad_rows(tmp_path):
    _lines(tmp_path, [{"text": "a"}, {"text": 5}, {"text": "b"}, {"text": "c"}])
    for own, argument, expected in ((None, 2, 2), (3, None, 3), (3, 2, 2), (1, 5, 1), (None, None, 4)):
        told = []
        of = source("jsonl", "a.jsonl", limit=own)
        result = ingest(of, tmp_path, tmp_path / "w", limit=argument, progress=told.append)
        assert result.rows_in == expected == sum(told) == sum(result.states.values())


def test_nothing_but_bad_rows_makes_no_documents_part(tmp_path):
    (tmp_path / "a.jsonl").write_text("bad\n")
    result = ingest(source("jsonl", "a.jsonl"), tmp_path, tmp_path / "w")
    assert [part.table for part in result.parts] == ["row_states"]


def test_metadata_that_utf8_cannot_hold(tmp_path):
    _lines(tmp_path, [{"text": "a", "t": "\ud800"}, {"text": "b", "m": {"k": "\udfff"}}, {"text": "c", "t": "ok"}])
    of = source("jsonl", "a.jsonl", fields={"title": "t", "metadata": ["m"]})
    ingest(of, tmp_path, tmp_path / "w")
    assert columns(tmp_path / "w", "row_states", "state", "reason")[:2] == [("failed", "bad_encoding")] * 2


def test_tokens_are_counted_in_bounded_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_CHARS", 100)
    _lines(tmp_path, [{"text": f"{n} " + "x" * 30} for n in range(10)])
    sizes = []

    def count(texts):
        sizes.append(len(texts))
        return [len(text) for text in texts]

    ingest(source("jsonl", "a.jsonl"), tmp_path, tmp_path / "w", count_tokens=count)
    assert sizes == [4, 4, 2]
    assert all(chars == tokens for chars, tokens in columns(tmp_path / "w", "documents", "chars", "tokens"))


def test_a_lost_row_is_never_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(module.TableWriter, "write", lambda self, row: None)
    with pytest.raises(ConservationError, match="source 'src': 1 rows read"):
        ingest(source("inline", items=["a"]), tmp_path, tmp_path / "w")


def test_same_inputs_same_bytes(tmp_path):
    _lines(tmp_path, [{"text": f"{ENGLISH} {n}", "n": n} for n in range(500)])
    of = source("jsonl", "a.jsonl", fields={"metadata": ["n"]})
    for workspace in ("w1", "w2"):
        ingest(of, tmp_path, tmp_path / workspace, count_tokens=lambda texts: [len(text) for text in texts])
    files = sorted(path.relative_to(tmp_path / "w1") for path in (tmp_path / "w1").rglob("*.parquet"))
    assert len(files) == 2
    for file in files:
        assert (tmp_path / "w1" / file).read_bytes() == (tmp_path / "w2" / file).read_bytes()


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_good = _texts.map(lambda text: json.dumps({"text": text}).encode())
_bad = st.one_of(
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from([b"[1]", b"{}", b'{"text": 1}', b'{"text": "\\udc00"}', b'{"text": "\xff"}', b"", b"  "]),
)


@settings(max_examples=60)
@given(lines=st.lists(st.one_of(_good, _good, _bad), max_size=12))
def test_any_mixture_of_lines_is_conserved_and_texts_round_trip(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "a.jsonl").write_bytes(b'{"text": "first"}\n' + b"\n".join(lines))
    of = source("jsonl", "a.jsonl", language="en")
    inputs(of, folder)
    result = ingest(of, folder, folder / "w")
    states = columns(folder / "w", "row_states", "row_id", "state")
    assert result.rows_in == sum(result.states.values()) == len(states) == len(set(states))
    assert result.states == Counter(state for _, state in states)
    assert result.rows_in == 1 + sum(bool(line.strip(b" \t\n\r\x0b\x0c")) for line in lines)
    expected = ["first"]
    for line in lines:
        try:
            text = json.loads(line.decode("utf-8"))["text"]
            text.encode("utf-8")
            text = text.replace("\0", "").lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        if text.strip():
            expected.append(text)
    assert [text for (text,) in columns(folder / "w", "documents", "text")] == list(dict.fromkeys(expected))


_MEMORY = """
import sys, resource
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ingest_support import ingest, source
import filters.language
filters.language._model()
of = source(sys.argv[3], sys.argv[4])
base = Path(sys.argv[1])
ingest(source(sys.argv[3], "small" + sys.argv[4]), base, base / "w0")
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before = peak()
ingest(of, base, base / "w")
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("type_", ["jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, type_):
    import random

    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = random.Random(0)

    def texts(count):
        return [draw.randbytes(10_000).hex() + " text" for _ in range(count)]

    def write(name, values):
        if type_ == "jsonl":
            _lines(tmp_path, [{"text": text} for text in values], name)
        else:
            pq.write_table(pa.table({"text": values}), tmp_path / name, use_dictionary=False)

    write(f"smalla.{type_}", texts(800))  # 16 MB: all buffers have been as large as they will be
    write(f"a.{type_}", texts(6000))  # 120 MB, in one row group
    here = Path(__file__).parent
    command = [sys.executable, "-c", _MEMORY, str(tmp_path), str(here), type_, f"a.{type_}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40


_BOMB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from ingest_support import rows, source
print([row[1:] for row in rows(source("jsonl", sys.argv[3]), Path(sys.argv[1]))])
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow  # half a minute
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_small_file_that_unpacks_to_a_huge_line_costs_bounded_memory(tmp_path, packing):
    import gzip

    import zstandard

    pack = gzip.compress if packing == "gz" else zstandard.compress
    zeros = pack(bytes(2**26))
    with (tmp_path / f"a.jsonl.{packing}").open("wb") as file:
        file.writelines([pack(b'{"text": "first"}\n'), *[zeros] * 16, pack(b'\n{"text": "last"}\n')])  # 1 GiB
    here = Path(__file__).parent
    command = [sys.executable, "-c", _BOMB, str(tmp_path), str(here), f"a.jsonl.{packing}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stderr
    found, peak = done.stdout.splitlines()
    assert found == "[('first',), ('failed', 'line_too_long'), ('last',)]"
    assert int(peak) < 1_000_000  # KiB


def test_importing_ingest_is_light():
    heavy = "torch", "transformers", "datasets", "py3langid", "pandas"
    code = f"import sys, pipelines.ingest; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
