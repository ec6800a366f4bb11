"""The stages tokenise, mix and pack, end to end: every token once, every row one state, the same bytes again."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipelines import tokenise
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from tests.conftest import run
from tests.engines.tiny import write_tokenizer
from tests.support import recipe, texts

ROOT = Path(__file__).parents[2]
EOS = 257
KNOTS = [f"<|reserved_{n}|>" for n in range(9)]
TOKENISE = [
    {"name": "docs", "rows": "documents", "tokenizer": "bytes"},
    {"name": "chats", "rows": "samples", "tokenizer": "bytes"},
]


def write(folder: Path, **changes) -> Path:
    """A recipe whose tokens are bytes: documents of 140 to 1,240 of them in two sources."""
    write_tokenizer(folder / "bytes")
    reserved = Tokenizer.from_file(str(folder / "bytes" / "tokenizer.json"))
    reserved.add_special_tokens(KNOTS)
    reserved.save(str(folder / "bytes" / "tokenizer.json"))
    long = [texts(n + 9, words)[n + 8] for n, words in enumerate([30, 40, 60, 90, 120, 200, 270])]
    documents = [
        {"name": "short", "type": "inline", "licence": "CC0-1.0", "items": [texts(n + 1, 30)[n] for n in range(5)]},
        {"name": "long", "type": "inline", "licence": "CC0-1.0", "items": long},
    ]  # fmt: skip
    return recipe(folder, documents=documents, **{"export": [], "tokenise": TOKENISE, **changes})


def tables(root: Path, table: str, stage: str) -> pa.Table:
    parts = load_manifest(root / "manifests" / f"{stage}.json").parts(table)
    return pa.concat_tables([pq.read_table(root / part.file) for part in parts])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    pack = [
        {"name": name, "strategy": name, "row_length": 1400, "of": ["docs"]}
        for name in ("none", "bfd", "bfd_split", "next_fit", "length_group")
    ]
    pack += [
        {"name": "cut", "strategy": "bfd_split", "row_length": 500, "of": ["docs"]},
        {"name": "wrapped", "strategy": "wrapped", "row_length": 700, "of": ["docs"]},
        {"name": "dd", "strategy": "dd_buckets", "of": ["docs"], "min_exponent": 5, "max_exponent": 9},
        {"name": "rejects", "strategy": "bfd", "row_length": 700, "of": ["docs"]},
        {"name": "apart", "strategy": "bfd", "row_length": 1400, "of": ["docs"], "separate": True},
        {"name": "padded", "strategy": "bfd", "row_length": 1408, "of": ["docs"], "multiple_of": 64},
        {"name": "chats", "row_length": 4096, "of": ["chats"], "loss_weights": "sample", "global_batch": 2},
        {"name": "cip", "row_length": 1400, "of": ["docs"], "augment": {"augment": "cip", "parts": 3}},
        {
            "name": "utk", "strategy": "bfd_split", "row_length": 1400, "of": ["docs"],
            "augment": {"augment": "utk", "p": 1, "knots": KNOTS[:4], "backtrace": KNOTS[4:]},
        },
        {
            "name": "pose", "strategy": "none", "row_length": 100, "of": ["docs"],
            "augment": {"augment": "pose", "target_length": 5000},
        },
    ]  # fmt: skip
    path = write(folder, pack=pack)
    run(path, folder / "workspace")
    return folder


def originals(root: Path, entry: str = "docs") -> dict[str, list[int]]:
    table = tables(root, "tokens", f"tokenise.{entry}")
    return dict(zip(table["row_id"].to_pylist(), table["input_ids"].to_pylist(), strict=True))


def test_documents_become_their_tokens_and_an_end(done):
    _, rows = query(Workspace(done / "workspace"), "SELECT document_id, text, source FROM documents")
    backend = Tokenizer.from_file(str(done / "bytes" / "tokenizer.json"))
    found = tables(done / "workspace", "tokens", "tokenise.docs").to_pylist()
    assert len(found) == len(rows) == 12
    expected = {row_id: ([*backend.encode(text).ids, EOS], source) for row_id, text, source in rows}
    for row in found:
        assert (row["input_ids"], row["source"]) == expected[row["row_id"]]
        assert row["length"] == row["loss_tokens"] == len(row["input_ids"]) and row["loss_mask"] is None


def test_samples_go_through_the_template_and_only_answers_are_learnt(done):
    _, rows = query(Workspace(done / "workspace"), "SELECT sample_id, messages, method FROM samples")
    backend = Tokenizer.from_file(str(done / "bytes" / "tokenizer.json"))
    backend.encode_special_tokens = False
    found = {row["row_id"]: row for row in tables(done / "workspace", "tokens", "tokenise.chats").to_pylist()}
    assert len(found) == len(rows) == 39
    for row_id, messages, method in rows:
        ids, mask = [], []
        for message in messages:
            head = backend.encode(f"<|im_start|>{message['role']}\n").ids
            body = backend.encode(f"{message['content']}<|im_end|>").ids
            ids += [*head, *body, *backend.encode("\n").ids]
            mask += [False] * len(head) + [message["role"] == "assistant"] * len(body) + [False]
        assert (found[row_id]["input_ids"], found[row_id]["loss_mask"]) == (ids, mask)
        assert (found[row_id]["method"], found[row_id]["loss_tokens"]) == (method, sum(mask))


@pytest.mark.parametrize("name", ["none", "bfd", "bfd_split", "next_fit", "length_group", "cut", "wrapped", "apart"])
def test_every_token_once_and_nothing_else(done, name):
    whole = originals(done / "workspace")
    packs = tables(done / "workspace", "packs", f"pack.{name}").to_pylist()
    wanted = Counter(token for ids in whole.values() for token in ids)
    assert Counter(token for row in packs for token in row["input_ids"]) == wanted
    assert {one for row in packs for one in row["sample_ids"]} == set(whole)
    for row in packs:
        assert (
            len(row["input_ids"])
            == len(row["labels"])
            == len(row["position_ids"])
            == sum(row["seq_lengths"])
            == row["length"]
        )
        assert row["sq_cost"] == sum(n * n for n in row["seq_lengths"])
        begin = 0
        for length in row["seq_lengths"]:
            assert row["position_ids"][begin : begin + length] == [*range(length)]
            assert row["labels"][begin : begin + length] == [-100, *row["input_ids"][begin + 1 : begin + length]]
            begin += length


@pytest.mark.parametrize("name", ["none", "bfd", "next_fit", "length_group", "apart", "padded"])
def test_samples_are_whole_and_named(done, name):
    whole = originals(done / "workspace")
    for row in tables(done / "workspace", "packs", f"pack.{name}").to_pylist():
        begin = 0
        for row_id, length in zip(row["sample_ids"], row["seq_lengths"], strict=name != "padded"):
            assert row["input_ids"][begin : begin + length] == whole[row_id]
            begin += length


def test_rows_are_as_long_as_was_asked(done):
    lengths = {
        name: tables(done / "workspace", "packs", f"pack.{name}")["length"].to_pylist()
        for name in ("cut", "wrapped", "dd", "padded")
    }
    assert max(lengths["cut"]) == 500 and sorted(lengths["wrapped"])[1:] == [700] * (len(lengths["wrapped"]) - 1)
    assert set(lengths["dd"]) <= {2**k + 1 for k in range(5, 10)}
    assert all(n % 64 == 0 for n in lengths["padded"])


def test_a_document_too_long_is_refused_with_its_reason(done):
    root = done / "workspace"
    too_long = {row_id for row_id, ids in originals(root).items() if len(ids) > 700}
    _, rows = query(Workspace(root), "SELECT row_id, state, reason FROM row_states WHERE stage = 'pack.rejects'")
    assert len(rows) == 12 and len(too_long) == 2
    assert {row_id for row_id, state, reason in rows if (state, reason) == ("filtered", "too_long")} == too_long
    assert {state for row_id, state, _ in rows if row_id not in too_long} == {"ok"}
    _, [report] = query(
        Workspace(root), "SELECT samples_in, samples_dropped, tokens_dropped FROM packings WHERE stage = 'pack.rejects'"
    )
    assert report == (12, 2, sum(len(ids) for ids in originals(root).values() if len(ids) > 700))


def test_rows_of_separate_sources_have_a_domain(done):
    source = dict(query(Workspace(done / "workspace"), "SELECT document_id, source FROM documents")[1])
    for row in tables(done / "workspace", "packs", "pack.apart").to_pylist():
        assert {source[one] for one in row["sample_ids"]} == {row["domain"]}
    mixed = tables(done / "workspace", "packs", "pack.bfd").to_pylist()
    for row in mixed:
        sources = {source[one] for one in row["sample_ids"]}
        assert row["domain"] == (sources.pop() if len(sources) == 1 else None)


def test_weights_make_the_mean_over_samples(done):
    """In each step of two rows: the weights of a sample sum to rows / samples."""
    rows = tables(done / "workspace", "packs", "pack.chats").to_pylist()
    assert len(rows) == 4 and sum(len(row["sample_ids"]) for row in rows) == 39
    for step in (rows[:2], rows[2:]):
        samples = sum(len(row["sample_ids"]) for row in step)
        for row in step:
            weights, begin = np.array(row["loss_weights"]), 0
            assert ((weights > 0) == (np.array(row["labels"]) != -100)).all()
            for length in row["seq_lengths"]:
                assert weights[begin : begin + length].sum() == pytest.approx(2 / samples)
                begin += length


@pytest.mark.parametrize("name", ["cip", "utk"])
def test_mixed_documents_can_be_put_together_again(done, name):
    whole = originals(done / "workspace")
    packs = tables(done / "workspace", "packs", f"pack.{name}").to_pylist()
    seen = []
    for row in packs:
        assert row["seq_lengths"] == [row["length"]] and row["length"] <= 1400  # documents see each other
        parts: dict[str, list] = {}
        for row_id, number, start, end, _ in json.loads(row["augment"])["parts"]:
            parts.setdefault(row_id, []).append((number, row["input_ids"][start:end]))
        for row_id, found in parts.items():
            assert [token for _, ids in sorted(found) for token in ids] == whole[row_id]
            assert len(found) == 3
        seen += parts
    assert sorted(seen) == sorted(whole)


def test_positions_of_short_rows_reach_far(done):
    whole = originals(done / "workspace")
    for row in tables(done / "workspace", "packs", "pack.pose").to_pylist():
        positions = np.array(row["position_ids"])
        assert row["length"] == 100 and (np.diff(positions) > 0).all() and positions[-1] < 5000
        assert (np.diff(positions) != 1).sum() <= 1
        joined = ",".join(map(str, whole[row["sample_ids"][0]]))
        first = int(np.argmax(np.diff(positions) != 1)) + 1
        for piece in (row["input_ids"][:first], row["input_ids"][first:]):
            assert ",".join(map(str, piece)) in joined


MIX = {
    "name": "mixed", "total_tokens": 9000, "of": ["docs"], "max_epochs": 8,
    "sources": [
        {"name": "a", "sources": ["short"], "share": 0.5},
        {"name": "b", "sources": ["long"], "share": 0.5, "row_length": 1400},
    ],
}  # fmt: skip


def test_a_mixture_is_packed_as_drawn(tmp_path):
    path = write(tmp_path, mix=[MIX], pack=[{"name": "p", "row_length": 700, "mix": "mixed"}])
    run(path, tmp_path / "w")
    root = tmp_path / "w"
    drawn = tables(root, "mixture", "mix.mixed").to_pylist()
    assert [row["place"] for row in drawn] == [*range(len(drawn))]
    packed = [
        (one, row["length"] > 700) for row in tables(root, "packs", "pack.p").to_pylist() for one in row["sample_ids"]
    ]
    assert Counter(one for one, _ in packed) == Counter(row["row_id"] for row in drawn)
    for row in tables(root, "packs", "pack.p").to_pylist():
        assert len(set(row["sample_ids"])) == len(row["sample_ids"])  # no copy beside its original
    _, shares = query(Workspace(root), "SELECT source, tokens, planned_tokens FROM mixtures ORDER BY source")
    assert [(source, planned) for source, _, planned in shares] == [("a", 4500), ("b", 4500)]
    for _, tokens, planned in shares:
        assert abs(tokens - planned) < 620
    lengths = query(Workspace(root), "SELECT source, row_length FROM packings, (SELECT DISTINCT source FROM mixtures)")[
        1
    ]
    assert {length for _, length in lengths} == {700, 1400}


def test_knots_fit_rows_longer_than_the_packs_own(tmp_path):
    """A source of the mixture asks for rows of 1,400 tokens in packs of 700."""
    knots = {"augment": "utk", "p": 1, "knots": KNOTS[:4], "backtrace": KNOTS[4:]}
    pack = [{"name": "p", "row_length": 700, "mix": "mixed", "strategy": "bfd_split", "augment": knots}]
    run(write(tmp_path, mix=[MIX], pack=pack), tmp_path / "w")
    lengths = tables(tmp_path / "w", "packs", "pack.p")["length"].to_pylist()
    assert 700 < max(lengths) <= 1400


def test_only_what_changed_is_done_again(tmp_path):
    def written(row_length: int) -> dict[Path, int]:
        write(tmp_path, pack=[{"name": "p", "row_length": row_length, "strategy": "bfd_split", "of": ["docs"]}])
        run(tmp_path / "recipe.yaml", tmp_path / "w")
        parts = (tmp_path / "w" / "tables").glob("*/part-*.parquet")
        return {path: path.stat().st_mtime_ns for path in parts if path.parent.name != "runs"}

    first, again, changed = written(700), written(700), written(800)
    assert first == again
    assert {path.parent.name for path in changed if changed[path] != first.get(path)} == {
        "packs",
        "packings",
        "row_states",
    }


def test_tokens_depend_on_all_the_code_that_decides_them():
    """Every module of the encoder: another way to write a chat or to cut a text makes all tokens anew."""
    covered = {path.name for pattern in tokenise.CODE for path in ROOT.glob(pattern)}
    code = "".join((ROOT / "pipelines" / name).read_text() for name in ("encoding.py", "encode_chats.py"))
    imported = re.findall(r"^from (?:pipelines|generators)\.(\w+) import", code, re.M)
    assert {"encode_chats", "encode_pieces", "models", "control_tokens"} <= set(imported)
    assert {f"{name}.py" for name in imported} | {"encoding.py", "tokenise.py"} <= covered


def test_the_same_again_in_another_place(tmp_path):
    files = []
    for name in ("one", "two"):
        path = write(tmp_path / name, mix=[MIX], pack=[{"name": "p", "row_length": 700, "mix": "mixed"}])
        run(path, tmp_path / name / "w")
        root = tmp_path / name / "w" / "tables"
        files.append(
            {
                str(p.relative_to(root)): p.read_bytes()
                for t in ("tokens", "mixture", "mixtures", "packs", "packings")
                for p in (root / t).iterdir()
            }
        )
    assert files[0] == files[1] and len(files[0]) >= 6


def test_nothing_is_left_in_the_scratch_folder(done):
    assert not [*(done / "workspace" / ".scratch").glob("*")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenise": [{"name": "docs", "rows": "documents"}]}, "tokenise 'docs': needs a 'tokenizer'"),
        ({"tokenise": [{**TOKENISE[0], "sources": ["shrt"]}]}, "'shrt' under 'documents', did you mean 'short'?"),
        ({"tokenise": [{**TOKENISE[1], "methods": ["longqa"]}]}, "did you mean 'long_qa'?"),
        ({"tokenise": [{**TOKENISE[0], "methods": ["long_qa"]}]}, "'methods' is for rows: samples"),
        ({"tokenise": [{**TOKENISE[1], "select": "best"}]}, "no selection of samples 'best'"),
        ({"tokenise": []}, "pack 'p' reads tokens, and the recipe has nothing under 'tokenise'"),
        ({"pack": [{"name": "p", "row_length": 9, "of": ["doc"]}]}, "'doc' under 'tokenise', did you mean 'docs'?"),
        ({"pack": [{"name": "p", "row_length": 9, "mix": "m"}]}, "no mix 'm' under 'mix'"),
        (
            {"mix": [{**MIX, "sources": [{"name": "a", "sources": ["shor"], "share": 1}]}]},
            "no source 'shor' among what is tokenised, did you mean 'short'?",
        ),
        (
            {"pack": [{"name": "p", "row_length": 9, "augment": {"augment": "cip"}, "strategy": "wrapped"}]},
            "use bfd, bfd_split or next_fit",
        ),
    ],
)  # fmt: skip
def test_a_wrong_recipe_gets_one_sentence(tmp_path, changes, words):
    path = write(tmp_path, **{"pack": [{"name": "p", "row_length": 100}], **changes})
    with pytest.raises(UserError) as error:
        load_recipe(path)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    write(tmp_path, tokenise=[{"name": "docs", "rows": "documents", "tokenizer": "scripted"}])
    with pytest.raises(UserError, match="tokenise 'docs': tokenizer 'scripted' has no eos token: set eos: false"):
        run(tmp_path / "recipe.yaml", tmp_path / "w")
    shutil.rmtree(tmp_path / "w")
    write(tmp_path, tokenise=[{**TOKENISE[0], "eos": "<|end|>"}])
    with pytest.raises(UserError, match=r"tokenizer 'bytes' has no control token '<\|end\|>'"):
        run(tmp_path / "recipe.yaml", tmp_path / "w")
    write(tmp_path, tokenise=[{**TOKENISE[0], "eos": KNOTS[0], "bos": KNOTS[1]}])
    run(tmp_path / "recipe.yaml", tmp_path / "w")
    for ids in originals(tmp_path / "w").values():
        assert (ids[0], ids[-1]) == (EOS + 2, EOS + 1)
    shutil.rmtree(tmp_path / "w")
    write(tmp_path, tokenise=[{"name": "docs", "rows": "documents", "tokenizer": "scripted", "eos": False}])
    run(tmp_path / "recipe.yaml", tmp_path / "w")


def test_samples_are_not_cut_into_knots(tmp_path):
    write(tmp_path, pack=[{"name": "p", "row_length": 4000, "of": ["chats"], "augment": {"augment": "cip"}}])
    with pytest.raises(UserError, match="pack 'p': 'augment: cip' is for documents, and 39 rows are samples"):
        run(tmp_path / "recipe.yaml", tmp_path / "w")
