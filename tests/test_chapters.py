"""Where chapters begin, form by form, and runs of whole chapters within a number of tokens."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators.chapters import Chapter, chapter_splits, fitting_run
from pipelines.sources import read
from pipelines.sources.rows import SourceRow
from schemas.methods.long_alpaca import Kind
from schemas.sources import RepositorySource
from tests.support import WordTokenizer


def titles(text: str, kind: Kind) -> list[list[str]]:
    return [[chapter.title for chapter in chapters] for chapters in chapter_splits(text, kind)]


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        # One title over all is no chapter; deeper levels are finer splits.
        (
            "manual",
            "# Manual\n\nHello.\n\n## Setup\n\na\n\n### Linux\n\n## Use ##\n\nb\n",
            [["Manual", "Setup", "Use"], ["Manual", "Setup", "Linux", "Use"]],
        ),
        # A comment in a code block is no heading.
        ("manual", "Intro\n\n# One\n\n```\n# not this\n```\n\n# Two\n", [["", "One", "Two"]]),
        (
            "book",
            "\nCHAPTER I.\n\nIt was.\n\nChapter 2: The Sea\n\nChapter 3 was long\n",
            [["CHAPTER I.", "Chapter 2: The Sea"]],
        ),
        ("book", "Chapter Twenty-One\n\nx\n\nChapter 22 — Home\n\ny", [["Chapter Twenty-One", "Chapter 22 — Home"]]),
        (
            "book",
            "PART ONE\n\nChapter 1\n\na\n\nChapter 2\n\nb\n\nPART TWO\n\nChapter 1\n\nc\n",
            [["PART ONE", "PART TWO"], ["PART ONE", "Chapter 1", "Chapter 2", "PART TWO", "Chapter 1"]],
        ),
        ("book", "第一章 海\n\n很久以前。\n\n第十二章\n\n第二天，他走了。\n", [["第一章 海", "第十二章"]]),
        ("book", "序\n\n第1回 起\n\n甲\n\n第2回 承\n\n乙\n", [["", "第1回 起", "第2回 承"]]),
        ("book", "I\n\nLoomings\n\nI\n\nII.\n\nThe bag\n\nIV\n\nIII\n\nx", [["I", "I", "II.", "III"]]),
        # A list begins again at 1 and is no sections.
        (
            "paper",
            "A title\n\n1 Introduction\n\nText.\n\n2. Method\n\n2.1 Data\n\n1. First we look\n\n3 Results\n\nEnd.\n",
            [
                ["", "1 Introduction", "2. Method", "3 Results"],
                ["", "1 Introduction", "2. Method", "2.1 Data", "3 Results"],
            ],
        ),
        (
            "paper",
            "\\title{A}\n\\section{Intro}\ntext\n\\subsection*{Data}\n\\section[short]{Method}\n",
            [["", "Intro", "Method"], ["", "Intro", "Data", "Method"]],
        ),
        # Underlined headings: levels in the order of their marks; a table's rule and short rules are none.
        (
            "manual",
            "Title\n*****\n\nOne\n===\n\nText\n\nLong one\n===\n\nSub\n---\n\n=====\nTwo\n=====\n\nThree\n=====\n",
            [["Title", "One", "Three"], ["Title", "One", "Sub", "Three"], ["Title", "One", "Sub", "Two", "Three"]],
        ),
        # A comment in an example is no heading where others are.
        (
            "manual",
            "One\n===\n\n# see\n\n# here\n\nTwo\n===\n\nThree\n=====\n\nx\n",
            [["One", "Two", "Three"]],
        ),
        ("book", "No headings stand here.\n\nNone at all.", []),
        ("repository", "# A comment\n\n# Another\n", []),
    ],
)  # fmt: skip
def test_headings_of_every_form(kind: Kind, text: str, found: list[list[str]]) -> None:
    assert titles(text, kind) == found
    for chapters in chapter_splits(text, kind):
        assert "".join(text[chapter.start : chapter.end] for chapter in chapters) == text


def test_a_repository_splits_at_the_header_lines_that_its_source_writes(tmp_path: Path) -> None:
    (tmp_path / "code" / "lib").mkdir(parents=True)
    (tmp_path / "code" / "a.py").write_text("# a comment\nprint(1)\n", "utf-8")
    (tmp_path / "code" / "lib" / "b.md").write_text("# A heading\n\n## Another", "utf-8")
    source = RepositorySource(name="code", type="repository", path="code")
    (row,) = read(source, tmp_path)
    assert isinstance(row, SourceRow)
    assert titles(row.text, "repository") == [["a.py", "lib/b.md"]]


def test_a_run_of_chapters_is_whole_consecutive_and_fits() -> None:
    text = "".join(f"# C{n}\n" + "word " * (10 * n) + "\n" for n in range(1, 9))
    (chapters,) = chapter_splits(text, "manual")
    found = {
        tuple(c.title for c in fitting_run(text, chapters, 60, 120, WordTokenizer(), Random(seed)))
        for seed in range(60)
    }
    # Tokens of chapter n: 10 n + 2. The longest run from each start, where it has 60 at least.
    assert found == {
        ("C1", "C2", "C3", "C4"), ("C2", "C3", "C4"), ("C3", "C4"), ("C4", "C5"), ("C5", "C6"), ("C6",), ("C7",),
        ("C8",),
    }  # fmt: skip
    assert fitting_run(text, chapters, 100, 110, WordTokenizer(), Random(1)) == chapters[:4]
    assert fitting_run(text, chapters, 1, 11, WordTokenizer(), Random(1)) == []


@given(
    st.lists(
        st.sampled_from(["# A", "## B", "Chapter 3", "PART II", "1 One", "2 Two", "I", "Words.", "", "===", "---"])
    ),
    st.sampled_from(["paper", "book", "manual", "repository"]),
    st.integers(0, 20),
    st.integers(0, 30),
    st.integers(0, 99),
)
def test_chapters_cover_the_text_and_runs_keep_their_limits(
    lines: list[str], kind: Kind, least: int, more: int, seed: int
) -> None:
    text, tokenizer = "\n".join(lines), WordTokenizer()
    for chapters in chapter_splits(text, kind):
        assert len(chapters) >= 2 and "".join(text[c.start : c.end] for c in chapters) == text
        assert all(isinstance(c, Chapter) and c.start < c.end for c in chapters)
        run = fitting_run(text, chapters, least, least + more, tokenizer, Random(seed))
        if run:
            start = chapters.index(run[0])
            assert chapters[start : start + len(run)] == run
            assert least <= sum(tokenizer.count(text[c.start : c.end]) for c in run) <= least + more
