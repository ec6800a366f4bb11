"""The scorer's process: `python -m pipelines.score_worker PARENT_PID` (see scorer_process.py for what is said)."""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq

from filters.scorers.chat import PairTokens, encode_pair
from filters.scorers.core import ScorerCore
from schemas.errors import UserError
from schemas.states import Reject, State

_ID = "preference_id"
_COLUMNS = [_ID, "short_prompt", "chosen", "rejected"]  # never the long prompt
Answer = dict[str, Any]


class RefLogps:
    """Sums of log-probabilities of chosen and rejected given the short prompt. Raises UserError without a template."""

    def __init__(self, config: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        folder = Path(config["folder"])
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        if not self._tokenizer.chat_template:
            raise UserError(f"model {config['name']!r} has no chat template, and preferences are conversations")
        adapter = None if config["adapter"] is None else Path(config["adapter"])
        self._core = ScorerCore(
            folder, config["dtype"], adapter=adapter, window=config["window"], batch_tokens=config["batch_tokens"]
        )

    def score(self, rows: list[dict[str, Any]]) -> Iterator[Answer]:
        pairs: dict[str, PairTokens] = {}
        for row in rows:
            try:
                pairs[row[_ID]] = encode_pair(self._tokenizer, row["short_prompt"], row["chosen"], row["rejected"])
            except Reject as reject:
                yield _rejected(row[_ID], reject)
        readings = iter(self._core.read([one for pair in pairs.values() for one in (pair.chosen, pair.rejected)]))
        for row_id, chosen, rejected in zip(pairs, readings, readings, strict=True):
            bad = next((one for one in (chosen, rejected) if isinstance(one, Reject)), None)
            if bad is not None:
                yield _rejected(row_id, bad)
            else:
                assert not isinstance(chosen, Reject) and not isinstance(rejected, Reject)
                yield _answer(row_id, State.OK, values=[chosen.sum(), rejected.sum()])


def _rejected(row_id: str, reject: Reject) -> Answer:
    return _answer(row_id, reject.state, reject.reason, reject.detail)


def _answer(row_id: str, state: State, reason: str = "", detail: str = "", values: list[float] | None = None) -> Answer:
    return {"row": row_id, "state": state.value, "reason": reason, "detail": detail[:500], "values": values}


def read_rows(file: Path, ids: list[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of these ids, a list for each row group that holds some. Only one row group is in memory."""
    wanted = set(ids)
    parquet = pq.ParquetFile(file)
    for group in range(parquet.num_row_groups):
        if wanted.isdisjoint(parquet.read_row_group(group, [_ID]).column(_ID).to_pylist()):
            continue
        rows = []
        for row in parquet.read_row_group(group, _COLUMNS).to_pylist():
            if row[_ID] in wanted:
                wanted.remove(row[_ID])  # a part may hold a preference twice
                rows.append(row)
        yield rows


def serve(incoming: TextIO, outgoing: TextIO) -> None:
    """Until the parent closes its end."""

    def say(message: dict[str, Any]) -> None:
        outgoing.write(json.dumps(message) + "\n")
        outgoing.flush()

    try:
        scorer = RefLogps(json.loads(incoming.readline()))
        say({"ready": True})
        for line in incoming:
            job = json.loads(line)
            for rows in read_rows(Path(job["file"]), job["ids"]):
                for answer in scorer.score(rows):
                    say(answer)
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
