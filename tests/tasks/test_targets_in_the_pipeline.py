"""Targets, paired questions, passages of one document: through the real stage, read back from its tables."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from filters.scorers.conversation import split_document
from generators.tasks import targets
from generators.tasks.registry import create_task
from pipelines.haystack import DocumentPool, PoolHaystack
from schemas.errors import UserError
from schemas.loading import load_recipe
from tests.conftest import run
from tests.support import WordTokenizer
from tests.tasks.test_method import prose, rows, write

TASKS = [
    {"task": "confusing_facts", "count": 3, "tokens": [600, 900]},
    {"task": "confusing_facts", "count": 2, "tokens": [600], "target": "evidence_first"},
    {"task": "needles", "count": 2, "tokens": [600], "target": "citations"},
    {"task": "needles", "count": 1, "tokens": [600], "target": "passages"},
    {"task": "path_traversal", "count": 2, "tokens": [600], "target": "citations"},
    {"task": "ordering", "count": 3, "tokens": [350]},
    {"task": "tom_tracking", "count": 2, "tokens": [1000], "target": "evidence_first"},
    {"task": "countdown", "count": 2, "tokens": [700]},
    {"task": "golden_thread", "count": 2, "tokens": [1500], "options": {"unit_words": 30}},
]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    run(write(folder, TASKS), folder / "ws")
    assert {row["state"] for row in rows(folder / "ws", "row_states")} == {"ok"}
    found = rows(folder / "ws")
    assert len(found) == 22
    return [(row, json.loads(row["details"]), *(m["content"] for m in row["messages"])) for row in found]


def of(samples, task):
    return [one for one in samples if one[1]["task"] == task]


def test_every_record_can_be_verified_from_what_it_holds(samples):
    """The verifier needs the record only: name, args, target, the user's message."""
    for _, details, prompt, answer in samples:
        task, args = create_task(details["verifier"]["name"]), details["verifier"]["args"]
        assert targets.accepts(task, details["target"], args, prompt, answer)
        assert not targets.accepts(task, details["target"], args, prompt, "I do not know.")


def test_scorers_find_the_document_whatever_a_target_adds_to_the_question(samples):
    hidden = [(row, details, prompt) for row, details, prompt, _ in samples if row["document_ids"]]
    assert any("\n\n" in details["question"] for _, details, _ in hidden)
    for row, details, prompt in hidden:
        split, turn, end = split_document(row)
        assert (split, turn, prompt[end:]) == ("details.question", 0, f"\n\n{details['question']}")


def test_evidence_spans_are_characters_of_the_users_message(samples):
    for _, details, prompt, answer in samples:
        said = [prompt[start:end] for start, end in details["evidence"]]
        if details["target"] == "evidence_first":
            assert answer.startswith(f"- {said[0]}\n")
        if details["task"] == "path_traversal":
            assert all(re.search(r"from \w+ to \w+\.$", line) for line in said)
        if details["target"] == "citations":
            for line in said:
                assert re.search(rf"<C\d+>{re.escape(line)}", prompt)


def test_prompts_have_their_length_with_all_that_the_target_adds(samples):
    for row, details, prompt, answer in samples:
        measured = answer if details["task"] == "golden_thread" else prompt
        assert len(measured.split()) == details["tokens"]
        assert abs(details["tokens"] - details["length_bucket"]) <= 0.02 * details["length_bucket"]
        assert row["prompt_tokens"] == len(prompt.split())


def test_the_same_questions_at_both_lengths(samples):
    asked = {
        length: [
            prompt.rpartition("\n\n")[2]
            for _, details, prompt, _ in of(samples, "confusing_facts")
            if details["length_bucket"] == length and details["target"] == "answer"
        ]
        for length in (600, 900)
    }
    assert len(set(asked[600])) == 3 and sorted(asked[600]) == sorted(asked[900])


def test_ordered_pieces_come_from_one_document_that_is_named(samples):
    for row, details, prompt, answer in of(samples, "ordering"):
        assert len(row["document_ids"]) == 1 and details["verifier"]["name"] == "ordering"
        assert len(set(re.findall(r"of text (\d+) says", prompt))) == 1
        pieces = dict(re.findall(r"\[Piece (\d+)\]\n(.*?)\n\n", prompt, re.S))
        numbers = [
            int(n)
            for label in re.findall(r"\d", answer)
            for n in re.findall(r"^Sentence (\d+) of", pieces[label], re.M)
        ]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_the_answer_of_a_golden_thread_is_marked_as_a_template(samples):
    assert all(details["item"]["templated"] for _, details, _, _ in of(samples, "golden_thread"))


@pytest.mark.parametrize("task", ["ordering", "countdown", "golden_thread"])
def test_a_target_that_a_task_has_not_is_named_before_anything_is_made(task, tmp_path):
    tasks = [{"task": task, "count": 1, "tokens": [600], "target": "citations"}]
    with pytest.raises(UserError, match=f"generate 'verifiable': task '{task}' has no target 'citations', only answer"):
        run(write(tmp_path, tasks), tmp_path / "ws")


def test_a_passage_is_a_run_of_lines_of_one_document():
    documents = [(f"d{n}", text) for n, text in enumerate(prose(6))]
    for seed in range(30):
        haystack = PoolHaystack(DocumentPool(documents, WordTokenizer()))
        passage = haystack.passage(Random(seed), 200)
        (document,) = haystack.document_ids
        assert passage in dict(documents)[document] and len(passage.split()) >= 200
    with pytest.raises(ValueError, match="no document has 5000 tokens"):
        haystack.passage(Random(1), 5000)


def test_the_recipe_names_every_task_but_the_one_of_templates():
    config = load_recipe(Path(__file__).parents[2] / "recipes" / "verifiable.yaml").generate[0]
    named = {entry.task for entry in config.tasks}
    assert named >= {"ordering", "confusing_facts", "path_traversal", "tom_tracking", "countdown"}
    assert "golden_thread" not in named
    assert {entry.target for entry in config.tasks} == {"answer", "evidence_first", "citations"}
