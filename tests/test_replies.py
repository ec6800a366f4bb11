"""What is a question on a document, and what is none."""

import pytest

from generators.replies import check_question
from schemas.states import Reject, State

DOCUMENT = "The lighthouse of Alda was built in 1830 by two brothers, and its lamp was lit on a winter night."


@pytest.mark.parametrize(
    "question",
    [
        "Who built the lighthouse of Alda?",
        "Summarise how the lighthouse came to be.",
        'Which word does the author use for "lamp"',
        "Explain the difference (briefly)",
    ],
)
def test_questions(question):
    check_question(question, DOCUMENT)


@pytest.mark.parametrize(
    ("question", "state", "reason"),
    [
        ("1830?", State.INVALID_OUTPUT, "no_question"),
        ("What is the answer to this question?", State.INVALID_OUTPUT, "no_question"),
        ("What is the difference between", State.INVALID_OUTPUT, "unfinished_question"),
        ("What is the age of [insert name here]?", State.INVALID_OUTPUT, "placeholder"),
        ("How to use the lamp and the following:", State.INVALID_OUTPUT, "unfinished_question"),
        ("I'm sorry, I cannot write a question.", State.REFUSED, "refused_question"),
        ("灯塔是谁建造的？", State.INVALID_OUTPUT, "wrong_language"),
        ("Who was it? " * 40, State.FILTERED, "repetition"),
    ],
)
def test_what_is_no_question(question, state, reason):
    with pytest.raises(Reject) as caught:
        check_question(question, DOCUMENT)
    assert (caught.value.state, caught.value.reason) == (state, reason)


def test_chinese_questions_need_no_sign_at_their_end():
    check_question("灯塔是谁建造的", "阿尔达的灯塔建于1830年，由两兄弟建造。")
