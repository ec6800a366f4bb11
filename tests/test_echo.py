"""Replies that repeat the prompt, and replies longer than tokens can be."""

import pytest

from generators.echo import is_echo
from generators.prompts import render

PROMPT = render("long_qa", "questions", {"document": "D " * 200, "count": 5, "task": "summary", "language": "English"})


@pytest.mark.parametrize(
    ("reply", "echo"),
    [
        (PROMPT, True),
        ("Sure! READ the text above.  Write 5 different questions: 1. What is D?", False),  # fields break the span
        ("that can be\nanswered from it by summarising it", True),  # six words of the template in a row
        ("1. What can be answered from it? 2. Why?", False),
        (PROMPT[-150:].upper(), True),
        ("", False),
        ("1. What is D?", False),
    ],
)
def test_six_words_of_the_template_or_the_prompts_end(reply, echo):
    assert is_echo(reply, "long_qa", "questions", PROMPT) is echo


def test_a_template_without_words_of_its_own_is_told_by_the_prompts_end():
    question = "Which of the three lighthouses was built first, and what became of the other two in later years?"
    prompt = render("long_qa", "answer", {"document": "The sea. " * 50, "question": question})
    assert is_echo(prompt, "long_qa", "answer", prompt)
    assert not is_echo(f"{question} The first one.", "long_qa", "answer", prompt)  # it may say the question again
