"""Samples as tokens: each token belongs to the template, the system text, the document, a question or an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from filters.scorers.conversation import Part, encode, split_document
from schemas.states import Reject, State
from tests.engines.tiny import CHATML, write_tokenizer


def row(*messages, details=None, documents=("doc-1",)):
    return {
        "sample_id": "s", "messages": [{"role": role, "content": content} for role, content in messages],
        "document_ids": list(documents), "details": json.dumps(details or {}),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    templates = {
        "chatml": CHATML,
        "trimming": CHATML.replace("message['content']", "message['content'] | trim"),
        "own_system": "<|im_start|>system\nYou are the user's assistant.<|im_end|>\n" + CHATML,
        "none": None,
        "changing": CHATML.replace("message['content']", "message['content'] | upper"),
        "refusing": "{{ raise_exception('no such role') }}",
    }
    return {
        name: AutoTokenizer.from_pretrained(write_tokenizer(root / name, template))
        for name, template in templates.items()
    }


def text_of(conversation, part):
    """The bytes of a part's tokens as text (the tokenizer's tokens are bytes: a character may have several)."""
    return "".join(
        text
        for text, one, before in zip(
            conversation.texts, conversation.parts, [None, *conversation.texts[:-1]], strict=True
        )
        if one is part and (text.isascii() or text != before)
    )


@pytest.mark.parametrize("name", ["chatml", "trimming", "own_system", "none"])
def test_every_token_has_its_part(tokenizers, name):
    made = row(
        ("system", "Be brief."), ("user", "A document.\n\nOf two blocks: user\n\nWhat is it?"), ("assistant", "user"),
        ("user", "And then?"), ("assistant", "No more."), ("tool", "42"),
    )  # fmt: skip
    found = encode(tokenizers[name], made)
    assert text_of(found, Part.SYSTEM) == "Be brief."
    assert text_of(found, Part.DOCUMENT) == "A document.\n\nOf two blocks: user"
    assert text_of(found, Part.QUESTION) == "\n\nWhat is it?And then?"
    assert text_of(found, Part.ANSWER) == "userNo more."
    assert text_of(found, Part.OTHER) == "42"
    assert (
        found.answers() == [2, 4]
        and [found.ids[place] for place in found.places(4)]
        == tokenizers[name]("No more.", add_special_tokens=False).input_ids
    )
    start, end = found.document()
    assert (
        all(part is Part.DOCUMENT for part in found.parts[start:end])
        and found.parts.count(Part.DOCUMENT) == end - start
    )
    template = tokenizers[name].chat_template
    if template:
        whole = tokenizers[name].apply_chat_template(made["messages"], tokenize=True, return_dict=True).input_ids
        assert found.ids == whole


def test_white_space_that_a_template_takes_away_moves_no_border(tokenizers):
    made = row(("user", "   indented document\n\nWhat?  "), ("assistant", "\n It. "))
    found = encode(tokenizers["trimming"], made)
    assert text_of(found, Part.DOCUMENT) == "indented document"
    assert text_of(found, Part.ANSWER) == "It."


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\ue000\ue001\r"), max_size=20), min_size=2, max_size=4
    )
)
def test_answers_are_found_whatever_is_written(tokenizers, contents):
    roles = ("user", "assistant", "user", "assistant")
    found = encode(tokenizers["chatml"], row(*zip(roles, contents, strict=False), documents=()))
    for turn, content in enumerate(contents):
        ids = tokenizers["chatml"](content, add_special_tokens=False).input_ids
        assert [found.ids[place] for place in found.places(turn)] == ids
    assert found.answers() == [turn for turn in (1, 3) if turn < len(contents) and contents[turn]]


def test_templates_that_change_or_refuse_messages_are_named(tokenizers):
    made = row(("user", "document\n\nquestion"), ("assistant", "answer"))
    for name, reason in (("changing", "template_changes_messages"), ("refusing", "template_refuses")):
        with pytest.raises(Reject) as error:
            encode(tokenizers[name], made)
        assert (error.value.state, error.value.reason) == (State.INVALID_OUTPUT, reason)


@pytest.mark.parametrize(
    ("text", "details", "documents", "rule", "document"),
    [
        ("D one.\n\nD two.\n\nWhat?", {}, ["d"], "last_block", "D one.\n\nD two."),
        ("D one.\n\nFirst?\n\nSecond?", {"question": "First?\n\nSecond?"}, ["d"], "details.question", "D one."),
        ("D.\n\nTask.\n\nQuestion: Why?", {"question": "Why?"}, ["d"], "details.question", "D.\n\nTask."),
        ("D.\n\nWhat?", {"question": "Another?"}, ["d"], "last_block", "D."),
        ("D.\n\nWhat?", {"question": 3}, ["d"], "last_block", "D."),
        ("D.\n\nWhat?\n", {"question": "What?"}, ["d"], "details.question", "D."),
        ("Write a story.\n\nWith a dog.", {}, [], "no_document", ""),
        ("No blank line at all", {}, ["d"], "no_document", ""),
        ("\n\nWhat?", {"question": "What?"}, ["d"], "no_document", ""),
    ],
)
def test_where_the_document_ends(text, details, documents, rule, document):
    made = row(("system", "x\n\ny"), ("user", text), ("assistant", "a"), details=details, documents=documents)
    found, turn, end = split_document(made)
    assert (found, text[:end]) == (rule, document) and turn == (1 if document else -1)
