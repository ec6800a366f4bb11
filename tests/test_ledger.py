"""The ledger: what is one call and what is another, and that an answer, once recorded, stays."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.base import Generator, Llm
from generators.engines.base import ChatRequest, Identity, Message, Sampling
from generators.ledger import Entry, Ledger, request_key
from generators.runner import Runner, Task
from schemas.errors import UserError
from schemas.model import SamplingConfig
from schemas.rows import Sample
from tests.support import WordTokenizer, scripted

IDENTITY = Identity("model", "revision", "template")
SAMPLED = Sampling(64, 0.7, 0.9, 20, 1.1, ("END",), 5, {"type": "object"})
GREEDY = replace(SAMPLED, temperature=0.0)


def chat(sampling: Sampling, *messages: tuple[str, str], raw: bool = False, group: str | None = None) -> ChatRequest:
    return ChatRequest(tuple(Message(role, text) for role, text in messages), sampling, raw, group)  # type: ignore[arg-type]


def entry(key: str, response: str = "answer", **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "request_id": key, "method": "m", "step": "s", "model": "model", "revision": None, "sampling": "{}",
        "prompt": "{}", "response": response, "finish_reason": "stop", "prompt_tokens": 3, "cached_tokens": None,
        "completion_tokens": 1, "seconds": 0.25, "engine": "e 1",
    }  # fmt: skip
    return Entry(**{**values, **changes})


# ---------------------------------------------------------------- the key

BASE = chat(SAMPLED, ("system", "be kind"), ("user", "hello"))

OTHER_CALLS = {
    "model": (replace(IDENTITY, model="other"), BASE, 0),
    "revision": (replace(IDENTITY, revision="other"), BASE, 0),
    "no revision": (replace(IDENTITY, revision=None), BASE, 0),
    "template": (replace(IDENTITY, template="other"), BASE, 0),
    "first content": (IDENTITY, chat(SAMPLED, ("system", "be kind "), ("user", "hello")), 0),
    "last content": (IDENTITY, chat(SAMPLED, ("system", "be kind"), ("user", "hello?")), 0),
    "first role": (IDENTITY, chat(SAMPLED, ("user", "be kind"), ("user", "hello")), 0),
    "last role": (IDENTITY, chat(SAMPLED, ("system", "be kind"), ("assistant", "hello")), 0),
    "order": (IDENTITY, chat(SAMPLED, ("user", "hello"), ("system", "be kind")), 0),
    "one message less": (IDENTITY, chat(SAMPLED, ("user", "hello")), 0),
    "one message more": (IDENTITY, chat(SAMPLED, ("system", "be kind"), ("user", "hello"), ("assistant", "")), 0),
    "texts joined": (IDENTITY, chat(SAMPLED, ("system", "be kindhello"), ("user", "")), 0),
    "raw": (IDENTITY, replace(BASE, raw=True), 0),
    "sample index": (IDENTITY, BASE, 1),
    **{
        f"{name} {value}": (IDENTITY, replace(BASE, sampling=replace(SAMPLED, **{name: value})), 0)
        for name, value in (
            ("max_tokens", 65), ("temperature", 0.71), ("temperature", 0.0), ("top_p", 0.91), ("top_k", 0),
            ("repetition_penalty", 1.0), ("stop", ()), ("stop", ("END", "X")), ("stop", ("ENDX",)), ("seed", 6),
            ("json_schema", None), ("json_schema", {"type": "array"}),
        )
    },
}  # fmt: skip


def test_calls_that_may_be_answered_differently_have_different_keys():
    keys = {"base": request_key(IDENTITY, BASE)}
    keys.update((name, request_key(*call)) for name, call in OTHER_CALLS.items())
    assert [(a, b) for a, b in combinations(keys, 2) if keys[a] == keys[b]] == []


GREEDY_BASE = chat(GREEDY, ("user", "hello"))
RAW_BASE = replace(GREEDY_BASE, raw=True)


@pytest.mark.parametrize(
    ("identity", "one", "other"),
    [
        (IDENTITY, BASE, replace(BASE, group="doc-1")),
        *((IDENTITY, GREEDY_BASE, replace(GREEDY_BASE, sampling=replace(GREEDY, **{name: value})))
          for name, value in (("seed", 6), ("top_p", 0.5), ("top_k", 3))),
        (replace(IDENTITY, template="other"), RAW_BASE, RAW_BASE),
        (IDENTITY, BASE, replace(BASE, sampling=replace(SAMPLED, json_schema=dict(SAMPLED.json_schema or {})))),
    ],
)  # fmt: skip
def test_what_changes_no_answer_changes_no_key(identity, one, other):
    assert request_key(IDENTITY, one) == request_key(identity, other)


@pytest.mark.parametrize("field", ["max_tokens", "repetition_penalty", "stop", "json_schema"])
def test_greedy_decoding_still_depends_on_the_rest(field):
    changed = {"max_tokens": 9, "repetition_penalty": 2.0, "stop": ("X",), "json_schema": None}[field]
    other = replace(GREEDY_BASE, sampling=replace(GREEDY, **{field: changed}))
    assert request_key(IDENTITY, GREEDY_BASE) != request_key(IDENTITY, other)


def test_the_key_is_the_same_on_every_machine():
    """A changed key would make every recorded answer worthless: change this value only with LAYOUT_VERSION."""
    assert request_key(IDENTITY, BASE) == "req-312555b755cef6d573c7611d27f61049b6f8183a"


SAMPLINGS = st.builds(
    Sampling, st.integers(1, 3), st.sampled_from([0.0, 0.5]), st.sampled_from([0.9, 1.0]), st.integers(0, 1),
    st.sampled_from([1.0, 1.1]), st.sampled_from([(), ("a",), ("a", "b")]), st.integers(0, 1),
    st.sampled_from([None, {}]),
)  # fmt: skip
MESSAGES = st.lists(
    st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["", "a", "ab", "b"])), max_size=3
)
CALLS = st.builds(
    lambda sampling, messages, raw, group: chat(sampling, *messages, raw=raw, group=group),
    SAMPLINGS, MESSAGES, st.booleans(), st.sampled_from([None, "g"]),
)  # fmt: skip


@given(CALLS, CALLS)
def test_keys_are_equal_exactly_when_the_answers_are(a, b):
    def matters(request: ChatRequest) -> object:
        sampling = request.sampling
        if sampling.temperature == 0:
            sampling = replace(sampling, seed=0, top_p=1.0, top_k=0)
        return request.messages, request.raw, sampling

    assert (request_key(IDENTITY, a) == request_key(IDENTITY, b)) == (matters(a) == matters(b))


# ---------------------------------------------------------------- the store


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ledger.sqlite"


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_put_then_get(path):
    async def main() -> None:
        ledger = Ledger(path)
        assert ledger.get("req-1") is None and ledger.count() == 0
        full = entry("req-1", 'naïve "\n\0 段落 😀', revision="r", cached_tokens=2, sampling='{"seed":1}')
        assert await ledger.put(full) == full == ledger.get("req-1")
        none = entry("req-2", "")
        assert await ledger.put(none) == none == ledger.get("req-2")
        assert ledger.count() == 2
        ledger.close()
        ledger.close()

    asyncio.run(main())


def test_the_first_answer_stands(path):
    async def main() -> list[Entry]:
        with_ledger = Ledger(path)
        stored = [await with_ledger.put(entry("req-1", text)) for text in ("first", "second")]
        with_ledger.close()
        return stored

    assert asyncio.run(main()) == [entry("req-1", "first")] * 2


def test_many_puts_at_once_are_all_there(path):
    entries = [entry(f"req-{number}", f"answer {number}") for number in range(500)]

    async def main() -> None:
        ledger = Ledger(path)
        assert await asyncio.gather(*map(ledger.put, entries)) == entries
        ledger.close()

    asyncio.run(main())
    ledger = Ledger(path)
    assert [ledger.get(one.request_id) for one in entries] == entries and ledger.count() == 500
    ledger.close()


def test_close_commits_what_is_queued(path):
    async def main() -> None:
        ledger = Ledger(path)
        waiting = [asyncio.create_task(ledger.put(entry(f"req-{number}"))) for number in range(50)]
        await asyncio.sleep(0)
        ledger.close()
        for task in waiting:
            task.cancel()

    asyncio.run(main())
    ledger = Ledger(path)
    assert ledger.count() == 50
    ledger.close()


PUT = """
import asyncio, os, signal, sys
from pathlib import Path
from generators.ledger import Entry, Ledger

async def main():
    ledger = Ledger(Path(sys.argv[1]))
    sys.stdin.readline()
    async def put(number):
        new = Entry(f"req-{number}", "m", "s", "model", None, "{}", "{}", f"{sys.argv[2]} {number}", "stop",
                    3, None, 1, 0.25, "e 1")
        return (await ledger.put(new)).response
    seen = await asyncio.gather(*(put(number) for number in range(int(sys.argv[3]))))
    print("\\n".join(seen), flush=True)
    if sys.argv[4] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    ledger.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(("end", "code"), [("close", 0), ("kill", -signal.SIGKILL)])
def test_an_answer_that_was_put_outlives_its_process(path, end, code):
    process = python(PUT, path, "child", 30, end)
    assert process.communicate("go\n")[0].splitlines() == [f"child {number}" for number in range(30)]
    assert process.returncode == code
    ledger = Ledger(path)
    assert [ledger.get(f"req-{number}") for number in range(30)] == [
        entry(f"req-{number}", f"child {number}") for number in range(30)
    ]
    ledger.close()


def test_two_processes_agree_on_one_answer(path):
    count = 400
    processes = [python(PUT, path, name, count, "close") for name in ("one", "two")]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    seen = [process.communicate()[0].splitlines() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert seen[0] == seen[1] and len(seen[0]) == count
    ledger = Ledger(path)
    assert [ledger.get(f"req-{number}").response for number in range(count)] == seen[0]  # type: ignore[union-attr]
    ledger.close()


OPEN = """
import os, sys
from pathlib import Path
from generators.ledger import Ledger
for number in range(int(sys.argv[2])):
    sys.stdin.readline()
    Ledger(Path(sys.argv[1], f"{number}.sqlite")).close()
    print("opened", flush=True)
"""


def test_processes_may_create_one_ledger_at_the_same_moment(tmp_path):
    """SQLite's busy timeout does not cover the switch to WAL: without our retry one of them fails at times."""
    rounds = 40
    processes = [python(OPEN, tmp_path, rounds) for _ in range(3)]
    for _ in range(rounds):
        for process in processes:
            process.stdin.write("go\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        assert [process.stdout.readline() for process in processes] == ["opened\n"] * 3  # type: ignore[union-attr]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]


# ---------------------------------------------------------------- what is no ledger


@pytest.mark.parametrize("content", [b"this is a letter, no database" * 40, b"SQLite format 3\0" + b"\7" * 4000])
def test_a_file_that_is_no_database_is_refused_and_kept(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ledger\.sqlite: cannot be used as a ledger: file is not a database"):
        Ledger(path)
    assert path.read_bytes() == content


def _database(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", [2, 17])
def test_a_ledger_of_another_layout_is_refused(path, version):
    Ledger(path).close()
    _database(path, f"PRAGMA user_version = {version}")
    wanted = rf"ledger\.sqlite: ledger layout {version}, and this Longloom reads layout 1"
    with pytest.raises(UserError, match=wanted):
        Ledger(path)


def test_the_database_of_another_program_is_refused_and_gets_no_table(path):
    _database(path, "CREATE TABLE customers (name TEXT)")
    with pytest.raises(UserError, match="an SQLite file of another program"):
        Ledger(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]


def test_a_table_with_other_columns_is_refused(path):
    _database(path, "CREATE TABLE requests (request_id TEXT, method TEXT)", "PRAGMA user_version = 1")
    with pytest.raises(UserError, match="cannot be used as a ledger: no such column"):
        Ledger(path)


def test_a_folder_and_a_path_through_a_file_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file" / "ledger.sqlite"):
        with pytest.raises(UserError, match="cannot be used as a ledger"):
            Ledger(path)


# ---------------------------------------------------------------- what it stores of a prompt


class Ask(Generator[Any]):
    """Asks twenty questions about one document."""

    method, steps = "long_qa", ("answer",)

    async def generate(self, row: str, llm: Llm) -> list[Sample]:
        for number in range(20):
            await llm.chat("answer", document=row, question=f"What about {number}?")
        return []


def test_a_long_document_is_recorded_as_hash_and_length(path):
    document = "\n".join(f"Line {number} of a rather long document." for number in range(27_000))
    assert len(document) > 1_000_000

    async def main() -> Ledger:
        ledger = Ledger(path)
        runner = Runner(scripted(window=500_000), ledger, 500_000, WordTokenizer(), 1)
        tasks = [Task(f"row-{n}", document + f" {n}") for n in range(5)]
        outcomes = await runner.run(Ask(), tasks, {"answer": SamplingConfig(max_tokens=50)})
        assert [len(outcome.entries) for outcome in outcomes] == [20] * 5
        prompt = json.loads(outcomes[0].entries[3].prompt)
        assert prompt["template"] == "long_qa/answer" and prompt["fields"]["question"] == "What about 3?"
        assert prompt["fields"]["document"]["chars"] == len(document) + 2
        return ledger

    ledger = asyncio.run(main())
    assert ledger.count() == 100
    ledger.close()
    stored = path.read_bytes()
    assert b"Line 17 of a rather" not in stored and b"What about 17?" in stored
    assert len(stored) < 200_000
