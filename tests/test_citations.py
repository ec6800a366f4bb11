"""Sentence citations: what goes in comes out again, byte for byte, and what is no citation is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from generators.citations import (
    Statement,
    cited_share,
    number_sentences,
    parse_citations,
    sentence_spans,
    strip_citations,
    strip_numbers,
    write_citations,
)

TAGS = ["<statement>", "</statement>", "<cite>", "</cite>", "[1-2]", "<C1>", "<ci", "te>", "<", ">"]
anything = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(TAGS)), max_size=6).map("".join)
spans = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=3)
pieces = st.lists(st.builds(Statement, anything, spans.map(tuple)), max_size=6)


def kept(statements):
    return [(s.text.strip(), s.spans) for s in statements if s.text.strip()]


@given(pieces)
@example([Statement("  a "), Statement("\n"), Statement("b<ci", ((1, 2),)), Statement("te>c")])
@example([Statement("\x00\ud800\r\n"), Statement("\u2028x\x1f")])
def test_stripping_the_tags_gives_back_any_answer_or_it_was_refused(statements):
    refused = any(tag in s.text for s in statements for tag in TAGS[:4]) or any(
        s.spans and not s.text.strip() for s in statements
    )
    if refused:
        with pytest.raises(ValueError, match=r"tag|empty statement"):
            write_citations(statements)
        return
    cited = write_citations(statements)
    assert strip_citations(cited) == "".join(s.text for s in statements)
    assert kept(parse_citations(cited, 25)) == kept(statements)


@given(anything)
def test_whatever_is_parsed_is_well_formed_and_anything_else_is_a_value_error(text):
    try:
        found = parse_citations(text, 9)
    except ValueError:
        return
    assert parse_citations(write_citations(found), 9) == found
    assert all(1 <= first <= last <= 9 for s in found for first, last in s.spans)


def test_the_form_of_a_cited_answer():
    answer = [Statement("It rained. ", ((1, 1), (3, 4))), Statement("Nobody came.\n")]
    cited = (
        "<statement>It rained.<cite>[1-1][3-4]</cite></statement> <statement>Nobody came.<cite></cite></statement>\n"
    )
    assert write_citations(answer) == cited
    assert parse_citations(cited, 4) == answer
    assert cited_share(answer) == 0.5 and cited_share([]) == 0.0 and cited_share([Statement(" ")]) == 0.0


@pytest.mark.parametrize(
    ("cited", "why"),
    [
        ("<statement>a<cite>[3-4]</cite></statement>", "no span of the 3 sentences"),
        ("<statement>a<cite>[0-1]</cite></statement>", "no span"),
        ("<statement>a<cite>[2-1]</cite></statement>", "no span"),
        ("<statement>a<cite>[1]</cite></statement>", "not citations"),
        ("<statement>a<cite>[1-1], [2-2]</cite></statement>", "not citations"),
        ("<statement>a</statement>", "without its partner"),
        ("<statement>a<cite></cite>.</statement>", "text outside"),
        ("<statement>a<cite></cite></statement>, <statement>b<cite></cite></statement>", "text outside"),
        ("a<statement>b<cite></cite></statement>", "text outside"),
        ("<statement>a<statement>b<cite></cite></statement>", "without its partner"),
        ("<cite></cite><statement>a</statement>", "not the tags"),
        ("<statement> <cite>[1-1]</cite></statement>", "empty statement"),
        ("<statement>a<cite>[1-1]</cite></statement></statement>", "without its partner"),
    ],
)
def test_what_is_no_cited_answer_is_refused_with_the_reason(cited, why):
    with pytest.raises(ValueError, match=why):
        parse_citations(cited, 3)


@given(anything)
def test_numbering_sentences_can_be_undone_or_is_refused(text):
    if "<C1>" in text:
        with pytest.raises(ValueError, match="<C1> already"):
            number_sentences(text)
        return
    numbered = number_sentences(text)
    assert strip_numbers(numbered) == text
    assert numbered.count("<C") - text.count("<C") == len(sentence_spans(text))


@given(st.text(alphabet="aB .!?。！\n\"'”1\u3000", max_size=60))
def test_sentences_are_in_order_and_leave_out_white_space_only(text):
    last = 0
    for start, end in sentence_spans(text):
        assert text[last:start].strip() == "" and text[start:end] == text[start:end].strip() != ""
        last = end
    assert text[last:].strip() == ""


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It rained. Nobody came!", ["It rained.", "Nobody came!"]),
        ("Mr. J. Smith of the U.S. Army paid 3.50, e.g. for tea. He left.", 2),
        ('"Stop!" he said. "Go on." They went.', ['"Stop!" he said.', '"Go on."', "They went."]),
        ("下雨了。没有人来！“真的吗？”他问。", ["下雨了。", "没有人来！", "“真的吗？”", "他问。"]),
        ("A heading\n\nA line that is\nwrapped. And more", ["A heading", "A line that is\nwrapped.", "And more"]),
        ("end.\n\nlower case starts the next paragraph", 2),
        ("no sentence border", 1),
        (" \n\n ", []),
    ],
)
def test_sentences_of_real_texts(text, sentences):
    found = [text[start:end] for start, end in sentence_spans(text)]
    assert (len(found) if isinstance(sentences, int) else found) == sentences


def test_long_runs_of_marks_and_brackets_take_no_quadratic_time():
    for text in ("." * 300_000, ".)" * 150_000, "\n" * 300_000, ". " * 150_000, "。" * 300_000):
        assert strip_numbers(number_sentences(text)) == text
    for text in ("<statement>" * 50_000, "<statement>a<cite>" * 50_000, "<statement>" + "a<cit" * 50_000):
        with pytest.raises(ValueError):
            parse_citations(text, 3)
