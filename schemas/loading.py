"""Reading a recipe: YAML to the pydantic model, and every fault as one sentence that names file and key."""

import types
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from schemas.errors import UserError
from schemas.model import suggestion
from schemas.recipe import Recipe

MAX_RECIPE_BYTES = 1_000_000
MAX_ALIASES = 100  # a recipe has few; a "YAML bomb" multiplies them


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and documents that explode through aliases."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value
            if key in seen and key != "<<":
                raise yaml.YAMLError(f"the key {key!r} is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return typing.cast(dict[Any, Any], super().construct_mapping(node, deep))


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises UserError with one sentence that names the file and the key."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise UserError(f"{path}: larger than {MAX_RECIPE_BYTES} bytes, which is no recipe")
        text = path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise UserError(f"{path}: is nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise UserError(f"{path}: is not valid YAML: {_one_line(what)}{place}") from error
    except (KeyError, AttributeError) as error:  # what PyYAML does with `!!bool x`
        raise UserError(f"{path}: is not valid YAML: a tag does not fit its value") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{path}: is not valid YAML: {_one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys, this is {type(value).__name__}")
    try:
        return Recipe.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first fault of a validation, as one sentence; unknown keys come with the nearest known one."""
    faults = error.errors(include_url=False)
    # A wrong item does not count for its list, which is then "too short": no fault of its own.
    wrong = [fault["loc"] for fault in faults if fault["type"] != "too_short"]
    faults = [f for f in faults if f["type"] != "too_short" or not any(w[: len(f["loc"])] == f["loc"] for w in wrong)]
    # An unknown key is usually the cause of a missing one: name it first.
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    location, models = _walk(fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = sorted({name for model in models for name in model.model_fields})
        sentence = f"{location}: unknown key{_suggest(str(fault['loc'][-1]), known)}"
    elif fault["type"] == "missing":
        sentence = f"{location}: this key is required"
    elif fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        sentence = f"{location}: {_tag_sentence(fault)}"
    elif fault["type"] == "value_error":
        sentence = f"{location}: {fault['ctx']['error']}" if location else str(fault["ctx"]["error"])
    elif fault["type"] == "string_pattern_mismatch":
        sentence = f"{location}: {_short(fault['input'])} is no name; use a-z, 0-9, '_' and '-', at most 64 of them"
    elif fault["type"] == "too_short":
        sentence = f"{location}: needs at least {fault['ctx']['min_length']}, not {_short(fault['input'])}"
    elif fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        sentence = f"{location}: input should be a mapping of keys, not {_short(fault['input'])}"
    else:
        message = fault["msg"].replace("valid tuple", "list")
        sentence = f"{location}: {message[0].lower()}{message[1:]}, not {_short(fault['input'])}"
    more = len(faults) - 1
    return sentence + (f" (and {more} more fault{'s' if more > 1 else ''})" if more else "")


def _tag_sentence(fault: Any) -> str:
    key = str(fault["ctx"]["discriminator"]).strip("'")
    if fault["type"] == "union_tag_not_found":
        return f"the key {key!r} is required"
    tags = [tag.strip().strip("'") for tag in fault["ctx"]["expected_tags"].split(",")]
    tag = fault["ctx"]["tag"]
    return f"{key} {_short(tag)} is unknown{_suggest(tag, tags)}; known: {', '.join(tags)}"


def _suggest(word: str, known: list[str]) -> str:
    return suggestion(word, known) or (f" (known keys: {', '.join(known)})" if len(known) < 12 else "")


def _walk(loc: tuple[int | str, ...]) -> tuple[str, list[type[BaseModel]]]:
    """The place of a fault as a reader would write it (`documents[0].path`), and the models that stand there."""
    place, models = "", list[type[BaseModel]]([Recipe])
    found: list[type[BaseModel]] = [Recipe]
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
            continue
        if part == "[key]":  # pydantic's mark that the key itself is wrong
            continue
        tagged = [model for model in found if part in _tags(model)]
        if tagged and len(found) > 1:
            found = models = tagged
            continue
        place += f".{part}" if place else part
        models = found
        fields = [model.model_fields[part].annotation for model in found if part in model.model_fields]
        if fields:
            found = [model for annotation in fields for model in _models_in(annotation)]
    return place, models


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    for name in ("type", "method", "scorer"):
        if name in model.model_fields:
            return typing.get_args(model.model_fields[name].annotation)
    return ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _short(value: Any) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
