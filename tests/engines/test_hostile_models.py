"""Model folders that try to run code: by their chat template, by Python files, by pickled weights."""

import asyncio
import json
import pickle
from pathlib import Path

import pytest
from openai_server import chat
from tiny import write_model, write_tokenizer

from filters.scorers import conversation
from filters.scorers.chat import encode_pair
from generators.engines.chat_format import ChatFormat
from generators.engines.process import ProcessEngine
from generators.models import resolve_model
from pipelines.encoding import make_encoder
from pipelines.score_worker import load_scorer
from schemas.engines import TransformersEngine
from schemas.errors import RunError, UserError
from schemas.states import Reject

ASKED = [{"role": "user", "content": "hi"}]
ANSWERED = [{"role": "assistant", "content": "yes"}]
RUN = "__globals__['os'].system('touch {folder}/ran')"
ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception." + RUN + " }}",
    "builtin": "{{ cycler.__init__." + RUN + " }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "changes": "{{ messages.clear() }}",
    "no jinja": "{% for %}",
    "own tag": "{% python import os %}",
}
REFUSALS = {
    "import": "{% import 'os' as os %}{{ os.system('touch {folder}/ran') }}",
    "include": "{% include '/etc/passwd' %}",
    "raises": "{{ raise_exception('not today') }}",
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "deep": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "zero": "{{ 1 / 0 }}",
}


def places(folder: Path) -> dict:
    """All that renders a model's template: each takes the tokenizer's folder."""

    def tokenizer():
        return ChatFormat(folder).tokenizer

    return {
        "tokenise": lambda: make_encoder(str(folder), folder).encode_chats([ASKED + ANSWERED], [True]).reasons[0],
        "engines": lambda: ChatFormat(folder).render(chat(("user", "hi"))),
        "pairs": lambda: encode_pair(tokenizer(), ASKED, ANSWERED, ANSWERED),
        "samples": lambda: conversation.encode(tokenizer(), {"messages": ASKED, "document_ids": [], "details": ""}),
    }


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("place", places(Path()))
def test_a_template_that_reaches_out_ends_in_one_sentence(tmp_path, place, escape):
    folder = write_tokenizer(tmp_path / "evil", ESCAPES[escape].replace("{folder}", str(tmp_path)))
    with pytest.raises(UserError, match=rf"^model '{folder}': its chat template cannot be used: [^\n]+$"):
        places(folder)[place]()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("place", places(Path()))
def test_a_template_that_fails_costs_rows_and_not_the_run(tmp_path, place, refusal):
    folder = write_tokenizer(tmp_path / "evil", REFUSALS[refusal].replace("{folder}", str(tmp_path)))
    if place == "tokenise":
        assert places(folder)[place]().startswith("template_refused: ")
    else:
        with pytest.raises(Exception) as error:
            places(folder)[place]()
        assert isinstance(error.value, Reject) or type(error.value).__name__ == "BadRequest"
    assert not (tmp_path / "ran").exists()


def custom(folder: Path, file: str, **more: object) -> None:
    """Name a class in a Python file of the folder, as models with code of their own do."""
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**settings, **more}))
    (folder / "own.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')\nclass Own: pass\n")


def starts(folder: Path) -> None:
    async def main() -> None:
        engine = ProcessEngine(TransformersEngine(type="transformers", model=str(folder), device="cpu"), folder)
        try:
            await engine.start()
        finally:
            await engine.close()

    asyncio.run(main())


def scores(folder: Path) -> None:
    config = {"scorer": "ref_logps", "options": {}, "tokenizer": str(folder), "name": "evil", "folder": str(folder)}
    load_scorer({**config, "adapter": None, "dtype": "auto", "window": 512, "batch_tokens": 512})


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "evil")


@pytest.mark.parametrize("use", [pytest.param(starts, marks=pytest.mark.slow), scores])
def test_the_code_of_a_model_is_not_run(model, use):
    custom(
        model, "config.json", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    )
    with pytest.raises(UserError, match=rf"^model '{model}': works only with Python code of its own [^\n]+$"):
        use(model)
    assert not (model.parent / "ran").exists()


@pytest.mark.parametrize("use", [pytest.param(starts, marks=pytest.mark.slow), scores])
def test_the_code_of_a_tokenizer_is_not_run(model, use):
    custom(model, "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    with pytest.raises(UserError, match=rf"^model '{model}': works only with Python code of its own [^\n]+$"):
        use(model)
    assert not (model.parent / "ran").exists()
    assert make_encoder(str(model), model).encode(["hi"]).reasons == [None]  # reads the tokenizer.json alone


@pytest.mark.parametrize("use", [pytest.param(starts, marks=pytest.mark.slow), scores])
def test_pickled_weights_run_nothing(model, use):
    class Payload:
        def __reduce__(self):
            return open, (str(model.parent / "ran"), "w")

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Payload()}))
    with pytest.raises((RunError, pickle.UnpicklingError)):
        use(model)
    assert not (model.parent / "ran").exists()


def test_code_beside_a_known_model_is_left_alone(model):
    custom(model, "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    scores(model)
    assert not (model.parent / "ran").exists() and resolve_model(str(model), model).path == model
