"""Readers that a script plays, and samples for them."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from generators.engines.base import ChatRequest
from generators.engines.scripted import ScriptedEngine
from generators.judges.qa_checks import QaChecks
from generators.ledger import Ledger
from generators.runner import Outcome, Runner, Task
from schemas.rows import Judged
from schemas.scores import QaChecks as Config
from tests.support import WordTokenizer

FACT = "The keeper of the tower is called Maria Bondar."
LINES = [f"Line {n} tells of wind, waves and ships far out at sea." for n in range(60)]
DOCUMENT = "\n".join([*LINES[:40], FACT, *LINES[40:]])
QUESTION = "Who keeps the tower?"
ANSWER = "Maria Bondar"


def sample(answer: str = ANSWER, document: str = DOCUMENT, question: str = QUESTION, **changes: Any) -> Judged:
    values: dict[str, Any] = {
        "sample_id": "sam-1",
        "messages": (("user", f"{document}\n\n{question}"), ("assistant", answer)),
        "document_ids": ("doc-1",),
        "details": {"question": question},
        "evidence": (FACT,),
        **changes,
    }
    return Judged(**values)


def step_of(request: ChatRequest) -> str:
    """Which step a prompt is of, by its wording."""
    text = request.messages[0].content
    marks = {
        "closed_book": "from what you know yourself",
        "part": "Only a part of a longer text stands above",
        "full": "from the text above and nothing else",
        "same": 'Return JSON with the one key "same"',
        "quality": "strict and fair judge of writing",
    }
    (step,) = [step for step, mark in marks.items() if mark in text]
    return step


def says(answer: str) -> str:
    return json.dumps({"answer": answer})


def knows_all(request: ChatRequest) -> str:
    return says(ANSWER)


def copies(request: ChatRequest) -> str:
    """Finds the name where the prompt holds it, and knows nothing else."""
    found = re.search(r"is called (\w+ \w+)\.", request.messages[0].content)
    return says(found[1] if found else "unknown")


def check(
    tmp_path: Any,
    reply: Callable[[ChatRequest], Any],
    *rows: Judged,
    window: int = 32_768,
    engine: ScriptedEngine | None = None,
    **changes: Any,
) -> tuple[list[Outcome], list[ChatRequest]]:
    """The rows through the real runner; outcomes and what was asked."""
    config = Config.model_validate(
        {"scorer": "qa_checks", "engine": "r", "window_tokens": 100, "chunk_tokens": 30, **changes}
    )
    engine = engine or ScriptedEngine(reply, window=window)
    ledger = Ledger(tmp_path / "ledger.sqlite")
    runner = Runner(engine, ledger, window, WordTokenizer(), seed=1)
    tasks = [Task(row.sample_id, row, group="doc-1") for row in rows or (sample(),)]
    step_runners = dict.fromkeys(config.step_engines, runner)
    outcomes = asyncio.run(runner.run(QaChecks(config), tasks, config.steps, step_runners=step_runners))
    ledger.close()
    return outcomes, engine.calls


def values(outcomes: list[Outcome]) -> dict[str, Any]:
    ((scores,),) = [outcome.records for outcome in outcomes]
    return scores.values  # type: ignore[union-attr]
