"""House rules that hold over the whole project: who imports whom, docstrings, sizes, prompts."""

import ast
import importlib
import inspect
import subprocess
import sys
import typing
import zipfile
from pathlib import Path

import jinja2
import pytest
from jinja2 import meta

from generators import prompts
from generators.registry import METHODS
from schemas.methods import MethodConfig
from schemas.scores import JudgeScorer

ROOT = Path(__file__).parent.parent
PACKAGES = ("schemas", "filters", "generators", "pipelines", "flows")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TEMPLATES = sorted((ROOT / "generators" / "prompts").rglob("*.j2"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_imports_only_go_downwards():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken." in done.stdout


def test_every_module_has_a_docstring():
    without = [name(path) for path in MODULES if path.name != "__main__.py" and ast.get_docstring(parse(path)) is None]
    assert without == []


def parse(path):
    return ast.parse(path.read_text("utf-8"))


def test_no_module_is_longer_than_400_lines():
    assert [name(path) for path in MODULES if len(path.read_text("utf-8").splitlines()) > 400] == []


@pytest.mark.parametrize("path", TEMPLATES, ids=[name(path).removeprefix("generators/prompts/") for path in TEMPLATES])
def test_prompts_have_a_version_and_render_with_exactly_their_fields(path):
    method, step = path.parent.name, path.stem
    assert prompts.version(method, step).isdigit()
    source = path.read_text("utf-8")
    fields = sorted(meta.find_undeclared_variables(jinja2.Environment().parse(source)))
    text = prompts.render(method, step, dict.fromkeys(fields, "<VALUE {{ 1 }} {% raw %}>"))
    assert "<VALUE {{ 1 }} {% raw %}>" in text and "version:" not in text and text == text.strip("\n")
    for field in fields:
        if f"{{{{ {field} }}}}" in source.partition("{% if")[0]:  # what stands outside all conditions is required
            with pytest.raises(jinja2.UndefinedError, match=f"'{field}' is undefined"):
                prompts.render(method, step, {other: "x" for other in fields if other != field})


def test_every_step_of_every_method_has_a_prompt_and_every_prompt_a_step():
    models = typing.get_args(typing.get_args(MethodConfig)[0])
    method = {model: model.model_fields["method"].annotation.__args__[0] for model in models}
    steps = {
        (method[model], step)
        for model in models
        if "sampling" in model.model_fields
        for step in model.model_fields["sampling"].annotation.model_fields
    }
    judges = typing.get_args(JudgeScorer)
    steps |= {
        (model.model_fields["scorer"].annotation.__args__[0], step)
        for model in judges
        for step in model.model_fields["sampling"].annotation.model_fields
    }
    wanted = {prompts.template(*step) for step in steps}  # a judge's prompt may serve many methods
    assert {
        path.relative_to(ROOT / "generators" / "prompts").with_suffix("").as_posix() for path in TEMPLATES
    } == wanted
    assert set(method.values()) == set(METHODS)


def test_every_method_that_asks_a_model_says_what_it_costs():
    for path in METHODS.values():
        module, _, name = path.partition(":")
        generator = getattr(importlib.import_module(module), name)
        source = inspect.getsource(generator)
        assert ("llm.chat" in source) <= ("cost" in vars(generator)), path


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_prompt(tmp_path):
    """Built from a copy, as `pip install git+...` would: what git knows, and nothing that lies around."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in files:
        (tmp_path / "source" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / file).write_bytes((ROOT / file).read_bytes())
    (tmp_path / "source" / "README.md").touch()
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(tmp_path / "source")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("longloom-*.whl")
    inside = {entry for entry in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in entry}
    expected = {file for file in files if file.startswith(PACKAGES) and file.endswith((".py", ".j2"))}
    assert inside == expected
