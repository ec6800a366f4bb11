"""A fault, one clear sentence, the same command again: nothing lost, nothing twice, the same tables."""

import copy

import pytest

from benchmarks.faults import FIRST, SCENARIOS, NotHere, opened, through
from tests.faulty_server import FOR_EVER

QUICK = ("the server: half a body, once", "a truncated part", "a part with flipped bytes", "a cut manifest", "SIGTERM",
         "two runs at once")  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("faults") / "recipe") as found:
        yield found


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SCENARIOS]
)
def test_a_fault_costs_nothing(bench, tmp_path, name):
    try:
        outcome = through(bench, name, tmp_path / "w")
    except NotHere as error:
        pytest.skip(str(error))
    assert outcome.is_good, outcome
    code, words = FIRST.get(name, (0, ""))
    first = outcome.ended[0]
    assert first.code == code and words in first.sentence and bool(words) == bool(first.sentence), first


def test_what_a_server_repeats_of_the_key_is_written_nowhere(bench, tmp_path, monkeypatch):
    """The key goes out in a header; a server that quotes headers in its errors gets it into no file or message."""
    key = "sk-this-is-the-key-0123456789"
    monkeypatch.setenv("FAULTY_KEY", key)
    text = bench.recipe.read_text()
    recipe = bench.recipe.with_name("with_key.yaml")
    assert "timeout_seconds: 5" in text
    recipe.write_text(text.replace("timeout_seconds: 5", "timeout_seconds: 5\n    api_key_env: FAULTY_KEY"))
    for number, (status, code) in enumerate((("401", 2), ("400", 0), ("500", 1))):
        bench.server.fault, bench.server.left = f"{status} that repeats what it was sent", 10**9
        other = copy.copy(bench)
        other.recipe = recipe
        ended = other.run(tmp_path / f"w{number}")
        bench.server.left = 0
        assert ended.code == code and ended.is_clear and key not in ended.sentence, ended
        for path in (tmp_path / f"w{number}").rglob("*"):
            if path.is_file():
                assert key.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_server_that_never_answers_ends_a_small_run_too(tmp_path):
    """Fewer rows than the requests after which the engine is given up: none has an answer, so the run has failed."""
    with opened(tmp_path / "recipe") as bench:
        bench.server.fault, bench.server.left = "429", FOR_EVER
        ended = bench.ended(bench.start(tmp_path / "w", limit=2))
        assert ended.code == 1 and "generate.long_qa: none of 2 rows got an answer" in ended.sentence, ended
        assert f"{bench.server.url}/v1/chat/completions answers HTTP 429" in ended.sentence
        bench.server.left = 0
        assert bench.finish(tmp_path / "w").is_none
