"""loss_drop and likelihood from recipe to table: real stages and processes, tiny random models."""

import asyncio
import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from filters.scorers.conversation import Part, encode
from filters.scorers.core import ScorerCore
from filters.scorers.response_nll import ResponseNll
from pipelines.build import build
from pipelines.catalog import query
from pipelines.manifest import load_manifest
from pipelines.scorer_process import ScorerProcess
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.loading import load_recipe
from schemas.states import Reject
from tests import support
from tests.engines.tiny import CHATML, write_tokenizer
from tests.scorers.models import naive, write
from tests.scorers.test_conversation import row

OTHER_TEMPLATE = CHATML.replace("<|im_start|>", "Said by ").replace("<|im_end|>", "")
LOSS_DROP = {"scorer": "loss_drop", "engine": "first", "min_response_tokens": 1}
LIKELIHOOD = {"scorer": "likelihood", "engines": ["first", "second"]}
STAGES = ["loss_drop.without", "loss_drop.with", "loss_drop", "likelihood.first", "likelihood.second", "likelihood"]
CHAT = [("user", "A document.\n\nWhy?"), ("assistant", "Because.")]


def write_models(root, **changes):
    """Two models. The second has other ids for two letters, and another template."""
    sizes = {"max_position_embeddings": 4096, **changes}
    made = {name: write(root / name, seed=seed, **sizes) for seed, name in enumerate(("first", "second"))}
    write_tokenizer(made["second"], OTHER_TEMPLATE)
    tokens = json.loads((made["second"] / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    vocabulary["e"], vocabulary["q"] = vocabulary["q"], vocabulary["e"]
    (made["second"] / "tokenizer.json").write_text(json.dumps(tokens))
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


def recipe(folder, models, scores, **changes):
    engines = {
        name: {"type": "transformers", "model": str(path), "dtype": "float32", "max_model_len": 4096}
        for name, path in models.items()
    }
    sampling = {"questions": {"max_tokens": 300}, "answer": {"max_tokens": 300}}
    generate = [
        {"method": "long_qa", "engine": "first", "per_document": 2, "shard_rows": 2, "document_tokens": {"min": 10},
         "sampling": sampling},
    ]  # fmt: skip
    documents = [{"name": "texts", "type": "inline", "licence": "CC0-1.0", "items": support.texts(2)}]
    values = {"engines": engines, "documents": documents, "generate": generate, "score": scores, **changes}
    return support.recipe(folder, **values)


def run(path, workspace):
    asyncio.run(build(path, workspace, make_engine=lambda *_: support.scripted()))


def lines(workspace, sql):
    names, found = query(workspace, sql)
    return [dict(zip(names, one, strict=True)) for one in found]


def with_samples(workspace, table):
    columns = "l.*, s.messages, s.document_ids, s.details"
    return lines(workspace, f"SELECT {columns} FROM {table} l JOIN samples s ON s.sample_id = l.row_id")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models):
    root = tmp_path_factory.mktemp("finished")
    workspace = Workspace(root / "workspace")
    run(recipe(root, models, [LOSS_DROP, LIKELIHOOD]), workspace)
    return workspace


def direct(folder, sample, keep_document=True):
    """Mean log-likelihood of the last answer by the naive reading of the sample, and how many tokens it has."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    found = encode(AutoTokenizer.from_pretrained(folder), sample)
    answer = found.places(found.answers()[-1])
    before = range(answer[0])
    prompt = [found.ids[n] for n in before if keep_document or found.parts[n] is not Part.DOCUMENT]
    return float(naive(model, prompt, [found.ids[n] for n in answer]).double().mean()), len(answer)


def test_loss_drop_is_what_the_document_saves(finished, models):
    scored = with_samples(finished, "scores_loss_drop")
    assert len(scored) == 4 and len({line["loss_drop"] for line in scored}) == 4
    for line in scored:
        whole, count = direct(models["first"], line)
        without, _ = direct(models["first"], line, keep_document=False)
        assert line["nll_with"] == pytest.approx(-whole, abs=1e-5)
        assert line["nll_without"] == pytest.approx(-without, abs=1e-5)
        assert line["loss_drop"] == line["nll_without"] - line["nll_with"]
        assert (line["n_resp"], line["truncated"], line["model"]) == (count, False, "first")
        assert line["n_read"] == line["n_ctx"] > 100
    states = lines(finished, "SELECT stage, state, count(*) AS n FROM row_states GROUP BY ALL")
    scored_rows = {(one["stage"], one["state"], one["n"]) for one in states if one["stage"].startswith("score.")}
    assert scored_rows == {(f"score.{stage}", "ok", 4) for stage in STAGES}


def test_likelihood_reads_each_model_by_its_own_tokenizer_and_template(finished, models):
    scored = with_samples(finished, "scores_likelihood")
    assert len(scored) == 4
    for line in scored:
        expected = [direct(models[name], line) for name in ("first", "second")]
        assert line["logps"] == pytest.approx([logp for logp, _ in expected], abs=1e-5)
        assert line["n_resp"] == [count for _, count in expected] and line["models"] == ["first", "second"]
        assert line["mean_logp"] == pytest.approx(sum(line["logps"]) / 2) and line["mean_logp"] < 0
        assert line["truncated"] is False


def read(folder, sample, template=CHATML, most=None, **options):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    core = ScorerCore(folder, "float32", "cpu", window=most)
    reader = ResponseNll(tokenizer, core, "m", {"window": None, "min_response_tokens": 1, **options})
    ((_, found),) = reader.score([sample])
    return (found.state.value, found.reason) if isinstance(found, Reject) else found[0]


def test_end_tokens_are_left_out(models):
    """What the template ends the answer with changes neither its number nor its length."""
    ends = "{{ ' Over and out.' if message['role'] == 'assistant' else '<|im_end|>' }}"
    other = CHATML.replace("<|im_end|>", ends)
    one, same = (read(models["first"], row(*CHAT), template) for template in (CHATML, other))
    assert one == same and one["n_resp"] == len("Because.")


def test_a_document_that_is_taken_out_is_not_read_and_needs_no_room(models):
    long, short = (row(("user", f"{text}\n\nWhy?"), CHAT[1]) for text in ("word " * 200, "x"))
    taken_out, other = (read(models["first"], one, most=300, window=0) for one in (long, short))
    assert taken_out["nll"] == other["nll"]
    assert (taken_out["n_ctx"], taken_out["n_read"], taken_out["truncated"]) == (1000, 0, False)
    whole = read(models["first"], long, most=300, needs_document=True)
    assert whole["truncated"] and 0 < whole["n_read"] < whole["n_ctx"]
    assert read(models["first"], long, most=30, window=0) == ("over_budget", "longer_than_window")


def test_samples_without_a_document_have_no_loss_drop(models):
    bare = row(*CHAT, documents=())
    for options in ({"window": 0}, {"needs_document": True}):
        assert read(models["first"], bare, **options) == ("filtered", "no_document")
    assert read(models["first"], bare)["n_ctx"] == 0  # but a likelihood


def test_a_row_that_one_model_could_not_read_has_no_mean(tmp_path, models):
    """The second model's window is too small for question and answer."""
    small = {**models, "second": write_models(tmp_path / "small", max_position_embeddings=32)["second"]}
    engines = {name: {"type": "transformers", "model": str(path), "dtype": "float32"} for name, path in small.items()}
    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path, small, [LIKELIHOOD], engines=engines), workspace)
    states = lines(workspace, "SELECT stage, state, reason, detail, count(*) AS n FROM row_states GROUP BY ALL")
    found = {one["stage"]: one for one in states if one["stage"].startswith("score.")}
    assert (found["score.likelihood.second"]["state"], found["score.likelihood.first"]["state"]) == (
        "over_budget",
        "ok",
    )
    assert list(found["score.likelihood"].values()) == [
        "score.likelihood", "filtered", "half_missing", "not in score.likelihood.second", 4
    ]  # fmt: skip
    assert lines(workspace, "SELECT * FROM scores_likelihood") == []


def test_one_model_is_enough(tmp_path, models, finished):
    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path, models, [{**LIKELIHOOD, "engines": ["first"]}]), workspace)
    alone, both = (
        {one["row_id"]: one["logps"] for one in lines(where, "SELECT * FROM scores_likelihood")}
        for where in (workspace, finished)
    )
    assert alone == {row_id: logps[:1] for row_id, logps in both.items()}
    assert all(one["mean_logp"] == one["logps"][0] for one in lines(workspace, "SELECT * FROM scores_likelihood"))


def test_a_shard_with_a_row_that_did_not_fit_the_memory_is_tried_again_and_nothing_else_is(
    tmp_path, models, monkeypatch
):
    path, workspace = recipe(tmp_path, models, [LOSS_DROP]), Workspace(tmp_path / "workspace")
    real, jobs = ScorerProcess.score, []

    async def counted(self, file, ids):
        jobs.append((self.config.options["window"], ids))
        async for answer in real(self, file, ids):
            if len(jobs) == 1 and answer["row"] == ids[0]:
                answer = {**answer, "state": "over_budget", "reason": "out_of_memory", "values": []}
            yield answer

    monkeypatch.setattr(ScorerProcess, "score", counted)
    run(path, workspace)
    units = load_manifest(workspace.manifest("score.loss_drop.without")).units.values()
    assert [unit.retry for unit in units] == [True, False]
    lost = "SELECT row_id FROM row_states WHERE reason IN ('out_of_memory', 'half_missing')"
    assert len(lines(workspace, lost)) == 2 and len(lines(workspace, "SELECT * FROM scores_loss_drop")) == 3
    first = jobs[0]
    del jobs[:]
    jobs.append(None)  # the machine is larger now
    run(path, workspace)
    assert jobs[1:] == [first]
    assert lines(workspace, lost) == [] and len(lines(workspace, "SELECT * FROM scores_loss_drop")) == 4
    del jobs[1:]
    run(path, workspace)
    assert jobs == [None]


def refused(folder, models, *scores, **changes):
    with pytest.raises(UserError) as error:
        load_recipe(recipe(folder, models, list(scores), **changes))
    return str(error.value)


def test_faults_of_the_entries_are_named(tmp_path, models):
    assert "an engine is named twice" in refused(tmp_path, models, {**LIKELIHOOD, "engines": ["first", "first"]})
    assert "score 'likelihood': no engine 'secnd' under 'engines', did you mean 'second'?" in refused(
        tmp_path, models, {**LIKELIHOOD, "engines": ["first", "secnd"]}
    )
    assert "score[0].engines" in refused(tmp_path, models, {**LIKELIHOOD, "engines": []})
    engines = {
        "first": {"type": "transformers", "model": str(models["first"])},
        "second": {"type": "openai", "base_urls": ["http://127.0.0.1:1/v1"], "model": "m"},
    }
    assert "engine 'second' must be of this machine, not a server" in refused(
        tmp_path, models, LIKELIHOOD, engines=engines
    )
