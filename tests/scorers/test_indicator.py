"""The indicator token at export: what is marked, and that nothing else changes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.indicator import with_indicator
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.export import Indicator
from schemas.tables import MESSAGES
from tests.scorers.models import write
from tests.scorers.test_scores_end_to_end import SCORES, recipe, refused, rows, run

IND = Indicator()


def mark(messages, answers):
    rows = [{"role": role, "content": content} for role, content in messages]
    made = with_indicator(pa.array(["s"]), pa.array([rows], MESSAGES), IND, {"s": answers})
    return [(message["role"], message["content"]) for message in made.to_pylist()[0]]


@pytest.mark.parametrize("text", ["Why?", "no end", "new line\n", "two  spaces  ", "", "[IND", "é [ind]\n\n"])
def test_taking_the_mark_away_gives_the_text_back_byte_for_byte(text):
    """Specification, test 7."""
    (_, marked), answer = mark([("user", text), ("assistant", "a")], {1})
    assert marked == text + " [IND]" and marked.removesuffix(" [IND]") == text and answer == ("assistant", "a")


@given(st.lists(st.text(max_size=20), min_size=2, max_size=6), st.sets(st.integers(0, 2)))
def test_only_questions_of_marked_answers_change(texts, chosen):
    """Specification, test 7."""
    messages = list(zip(("user", "assistant") * 3, texts, strict=False))
    answers = {2 * number + 1 for number in chosen if 2 * number + 1 < len(messages)}
    for place, (before, after) in enumerate(zip(messages, mark(messages, answers), strict=True)):
        assert after == ((before[0], before[1] + " [IND]") if place + 1 in answers else before)


def test_a_text_that_holds_the_mark_is_refused():
    """Specification, test 7."""
    for messages in ([("user", "See [IND]?"), ("assistant", "a")], [("user", "q"), ("assistant", "so [IND]")]):
        with pytest.raises(UserError, match=r"sample s holds '\[IND\]', the export's indicator"):
            mark(messages, set())


def test_an_export_marks_by_the_score_and_tables_stay_as_they_are(tmp_path):
    models = {"long": write(tmp_path / "long", max_position_embeddings=4096)}
    workspace = Workspace(tmp_path / "workspace")
    run(recipe(tmp_path, models, SCORES[:1]), workspace)
    scores = dict(rows(workspace, "SELECT row_id, cd_doc FROM scores_context_dependency"))
    middle = sorted(scores.values())[3]
    exports = [
        {"name": "out", "configs": ["sft"], "indicator": {"column": "cd_doc", "above": middle}},
        {"name": "plain", "configs": ["sft"]},
    ]
    run(recipe(tmp_path, models, SCORES[:1], export=exports), workspace)

    def contents(name):
        table = pq.read_table(workspace.exports / name / "sft")
        return {row["id"]: row["messages"][0]["content"] for row in table.to_pylist()}

    marked, plain = contents("out"), contents("plain")
    assert marked == {one: text + " [IND]" * (scores[one] > middle) for one, text in plain.items()}
    assert 0 < sum(text.endswith(" [IND]") for text in marked.values()) < 8
    assert rows(workspace, "SELECT count(*) FROM samples WHERE contains(messages[1].content, '[IND]')") == [(0,)]


def test_an_indicator_without_its_scores_is_refused(tmp_path):
    models = {"long": tmp_path, "short": tmp_path}
    export = {"name": "out", "indicator": {}}
    assert "needs a score entry 'context_dependency' with the scorer 'context_dependency'" in refused(
        tmp_path, models, SCORES[1:2], export=[export]
    )
    assert "an indicator is for the config 'sft'" in refused(
        tmp_path, models, SCORES[:1], export=[{**export, "configs": ["documents"]}]
    )
