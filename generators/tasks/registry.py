"""Verifiable tasks by name, imported when they are used.

A task's options are the keyword arguments of its class (a frozen dataclass does). Two of them have a fixed meaning and
come from the method's section of the recipe: `split` (`train` or `eval`: which half of its pools a task draws from,
see pools.py) and `language` (a task without it speaks English only).
"""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from generators.tasks.base import VerifiableTask
from schemas.errors import UserError
from schemas.model import suggestion

TASKS = {
    "ancestors": "generators.tasks.ancestors:Ancestors",
    "confusing_facts": "generators.tasks.confusing_facts:ConfusingFacts",
    "countdown": "generators.tasks.countdown:Countdown",
    "exam": "generators.tasks.exam:Exam",
    "golden_thread": "generators.tasks.golden_thread:GoldenThread",
    "kv_threads": "generators.tasks.kv_threads:KvThreads",
    "label_rounds": "generators.tasks.label_rounds:LabelRounds",
    "needles": "generators.tasks.needles:Needles",
    "ordering": "generators.tasks.ordering:Ordering",
    "path_traversal": "generators.tasks.path_traversal:PathTraversal",
    "tom_tracking": "generators.tasks.tom_tracking:TomTracking",
}


def task_class(name: str) -> type[VerifiableTask]:
    """The class of a task. UserError: there is no such task."""
    if name not in TASKS:
        raise UserError(f"no task {name!r}{suggestion(name, TASKS) or '; known: ' + ', '.join(sorted(TASKS))}")
    module, _, attribute = TASKS[name].partition(":")
    found: type[VerifiableTask] = getattr(import_module(module), attribute)
    return found


def create_task(
    name: str, options: Mapping[str, Any] | None = None, *, split: str = "train", language: str = "en"
) -> VerifiableTask:
    """A task with its options. UserError: an unknown task or option, a value the task refuses, a language or split it
    does not have."""
    made = task_class(name)
    known = set(inspect.signature(made).parameters)
    given = dict(options or {})
    for key in given:
        if key not in known or key in ("split", "language"):
            others = sorted(known - {"split", "language"})
            hint = suggestion(key, others) or f"; known: {', '.join(others) or 'none'}"
            raise UserError(f"task {name!r}: no option {key!r}{hint}")
    for key, value, usual in (("split", split, "train"), ("language", language, "en")):
        if key in known:
            given[key] = value
        elif value != usual:
            raise UserError(f"task {name!r} has no {key} {value!r}")
    try:
        return made(**given)
    except (ValueError, TypeError) as error:
        raise UserError(f"task {name!r}: {error}") from error
