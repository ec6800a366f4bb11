"""Prompts as Jinja2 files: `<method>/<step>.j2`, first line `{# version: N #}`. Wording is our own. A step that the
method has no file for is a judge that methods share: `judges/<step>.j2`.

A template is rendered once, with the given fields only (StrictUndefined): text that happens to look like a
placeholder stays text. Documents come first and the task last, so that calls on one document share a prefix.
"""

import re
from functools import cache
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

_FOLDER = Path(__file__).parent
_VERSION = re.compile(r"\{#\s*version:\s*(\d+)\s*#\}")


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        auto_reload=False,  # else every prompt asks the disk whether its file has changed
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


@cache
def template(method: str, step: str) -> str:
    """Which prompt a step of a method uses: `<method>/<step>`, or `judges/<step>`."""
    own = f"{method}/{step}"
    return own if (_FOLDER / f"{own}.j2").is_file() else f"judges/{step}"


def render(method: str, step: str, fields: dict[str, object]) -> str:
    """The prompt's text. Raises jinja2.UndefinedError when a field of the template is missing."""
    return _environment().get_template(f"{template(method, step)}.j2").render(fields).strip("\n")


@cache
def source(method: str, step: str) -> str:
    """The text of a prompt file."""
    return (_FOLDER / f"{template(method, step)}.j2").read_text("utf-8")


@cache
def version(method: str, step: str) -> str:
    """The version of a prompt file. ValueError if its first line names none."""
    first = source(method, step).partition("\n")[0]
    match = _VERSION.match(first)
    if match is None:
        raise ValueError(f"prompts/{template(method, step)}.j2: the first line is not {{# version: N #}}")
    return match[1]
