"""The scorer's process: `python -m pipelines.score_worker PARENT_PID` (see scorer_process.py for what is said)."""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from filters.foreign_models import load
from filters.scorers.core import ScorerCore
from pipelines.shards import open_part
from schemas.errors import UserError
from schemas.states import Reject, State

# A scorer is a class with: `columns` of its rows, the id first; `attention`, does it measure any; and `score(rows)`,
# which yields for each row, in any order, its id with the lines for its table or with why there are none.
SCORERS = {
    "ref_logps": "filters.scorers.ref_logps:RefLogps",
    "context_dependency": "filters.scorers.context_dependency:ContextDependency",
    "response_nll": "filters.scorers.response_nll:ResponseNll",
    "cam": "filters.scorers.cam:Cam",
    "long_range": "filters.scorers.long_range:LongRange",
    "far_attention": "filters.scorers.far_attention:FarAttention",
    "coherence_gain": "filters.scorers.coherence_gain:CoherenceGain",
}


def load_scorer(config: dict[str, Any]) -> Any:
    """The scorer that a configuration (scorer_process.ScorerConfig) names, with its model."""
    from transformers import AutoTokenizer

    module, _, name = SCORERS[config["scorer"]].partition(":")
    scorer = getattr(import_module(module), name)
    folder = Path(config["folder"])
    tokenizer = load(AutoTokenizer, config["tokenizer"])
    if config["tokenizer"] != config["folder"]:
        own = load(AutoTokenizer, folder).get_vocab()
        if own != tokenizer.get_vocab():
            raise UserError(
                f"model {config['name']!r} has another tokenizer than {Path(config['tokenizer']).name!r}: what two "
                "models make of an answer can be compared token by token only"
            )
    core = ScorerCore(
        folder,
        config["dtype"],
        adapter=None if config["adapter"] is None else Path(config["adapter"]),
        window=config["window"],
        batch_tokens=config["batch_tokens"],
        attention=scorer.attention,
    )
    return scorer(tokenizer, core, config["name"], config["options"])


def read_rows(file: Path, columns: list[str], ids: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of these ids, a list for each row group that holds some. Only one row group is in memory. The first of
    the columns is the id."""
    wanted, id_column = set(ids), columns[0]
    parquet = open_part(file)
    for group in range(parquet.num_row_groups):
        if wanted.isdisjoint(parquet.read_row_group(group, [id_column]).column(id_column).to_pylist()):
            continue
        rows = []
        for row in parquet.read_row_group(group, columns).to_pylist():
            if row[id_column] in wanted:
                wanted.remove(row[id_column])  # a part may hold a row twice
                rows.append(row)
        yield rows


def answer(row_id: str, found: list[dict[str, Any]] | Reject) -> dict[str, Any]:
    if isinstance(found, Reject):
        state, reason, detail, values = found.state, found.reason, found.detail[:500], []
    else:
        state, reason, detail, values = State.OK, "", "", found
    return {"row": row_id, "state": state.value, "reason": reason, "detail": detail, "values": values}


def serve(incoming: TextIO, outgoing: TextIO) -> None:
    """Until the parent closes its end."""

    def say(message: dict[str, Any]) -> None:
        outgoing.write(json.dumps(message, allow_nan=False) + "\n")
        outgoing.flush()

    try:
        scorer = load_scorer(json.loads(incoming.readline()))
        say({"ready": True})
        for line in incoming:
            job = json.loads(line)
            for rows in read_rows(Path(job["file"]), scorer.columns, job["ids"]):
                for row_id, found in scorer.score(rows):
                    say(answer(row_id, found))
            say({"end": True})
    except UserError as error:
        say({"error": "user", "text": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"error": "other", "text": f"{type(error).__name__}: {error}"[:2000]})


def _watch_parent(parent: int) -> None:
    """A killed parent closes the pipe, which shows only between jobs: so a thread looks at the parent itself."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_watch_parent, args=(int(sys.argv[1]),), daemon=True).start()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print belongs into the log
    serve(sys.stdin, replies)
