"""Ordering: equal adjacent pieces of whole lines, no numbers that give the order away."""

import re
from random import Random

import pytest

from generators.tasks.base import Room
from generators.tasks.ordering import NUMBERED, Ordering
from tests.tasks.support import WORDS, room

QUESTIONED = {"order": [3, 1, 4, 2]}


class Book:
    """A haystack of one book: numbered sentences, a paragraph of 20 to 60 words at a time."""

    def __init__(self, chapters: bool = False) -> None:
        rng, paragraphs, n = Random(7), [], 0
        for paragraph in range(200):
            count = rng.randint(2, 6)
            if chapters and paragraph % 3 == 0:
                paragraphs.append(f"Chapter {paragraph // 3 + 1}")
            paragraphs.append("\n".join(f"Here is what the sentence {n + k} of it says." for k in range(count)))
            n += count
        self.whole = "\n\n".join(paragraphs)

    def passage(self, rng, tokens):
        lines = self.whole.splitlines(keepends=True)
        start = rng.randrange(len(lines) // 2)
        return "".join(lines[start:])


def pieces(item):
    return re.split(r"(?:^|\n\n)\[Piece \d+\]\n", item.context)[1:]


@pytest.mark.parametrize("count", range(2, 9))
def test_the_pieces_in_the_order_of_the_answer_are_the_source(count):
    book = Book()
    task = Ordering(pieces=count)
    for seed in range(30):
        item = task.make(Random(seed), Room(800, WORDS, book))
        shown = pieces(item)
        assert len(shown) == count
        order = [int(n) for n in re.findall(r"\d+", item.answer)]
        assert sorted(order) == list(range(1, count + 1))
        source = [shown[n - 1] for n in order]
        # Between two pieces the source has a line end, or a blank line, and nothing else.
        start = book.whole.index(source[0])
        for piece in source:
            assert book.whole.startswith(piece, start)
            start += len(piece)
            start += len(re.match(r"\n*", book.whole[start:])[0])
        assert [item.context[a:b] for a, b in item.evidence] == source
        assert task.solve(item) == item.answer


@pytest.mark.parametrize("seed", range(40))
def test_pieces_are_whole_lines_of_equal_size(seed):
    book = Book()
    item = Ordering().make(Random(seed), Room(1000, WORDS, book))
    sizes = [WORDS.count(piece) for piece in pieces(item)]
    assert max(sizes) <= 1.1 * min(sizes)
    lines = set(book.whole.splitlines())
    assert all(line in lines for piece in pieces(item) for line in piece.splitlines())


def test_no_piece_starts_with_the_number_of_its_chapter():
    book = Book(chapters=True)
    starts = 0
    for seed in range(60):
        item = Ordering().make(Random(seed), Room(800, WORDS, book))
        assert not any(piece.startswith("Chapter") for piece in pieces(item))
        starts += "Chapter" in item.context
    assert starts > 30  # there were some to avoid


@pytest.mark.parametrize(
    "line",
    [
        "Chapter 3", "CHAPTER IV", "## Part two: The Sea", "IV", "xii.", "2.1 Setup", "3) Then", "17", "Second Part",
        "The third chapter", "Kapitel 5", "Chapitre II", "第三章 风", "第 12 回", "*Act I, scene 2*", "Глава 2",
    ],
)  # fmt: skip
def test_lines_that_say_where_they_belong(line):
    assert NUMBERED.search(line)


@pytest.mark.parametrize(
    "line", ["I went home.", "Dim lights shone.", "He had three dogs.", "A chapter of her life ended.", "风很大。"]
)
def test_lines_that_do_not(line):
    assert not NUMBERED.search(line)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("<order>3, 1, 4, 2</order>", True),
        ("<order> 3 > 1 > 4 > 2 </order>", True),
        ("The 4 pieces: <order>3 1 4 2</order>", True),
        ("3, 1, 4, 2", False),
        ("<order>3, 1, 4</order>", False),
        ("<order>3, 1, 4, 2, 2</order>", False),
        ("<order>2, 4, 1, 3</order>", False),
        ("<order>3, 1, 4, 2</order> or <order>1, 2, 3, 4</order>", False),
        ("<order>3, 1, 4, 2", False),
        ("<order></order>", False),
    ],
)
def test_only_the_final_tag_counts_and_it_stands_once(answer, right):
    assert Ordering().verify(QUESTIONED, answer) is right


def test_every_permutation_comes_up_equally_often():
    """Else one guess would beat 1 in 6."""
    book = Book()
    answers = [Ordering(pieces=3).make(Random(seed), Room(600, WORDS, book)).answer for seed in range(600)]
    assert sorted(answers.count(one) for one in set(answers)) == pytest.approx([100] * 6, abs=35)


def test_a_passage_that_cannot_be_cut_is_refused():
    class OneLine:
        def passage(self, rng, tokens):
            return "word " * (tokens + 10)

    with pytest.raises(ValueError, match="no 4 equal pieces"):
        Ordering().make(Random(1), Room(500, WORDS, OneLine()))


@pytest.mark.parametrize("count", [1, 9, "4"])
def test_two_to_eight_pieces(count):
    with pytest.raises(ValueError, match="pieces"):
        Ordering(pieces=count)


def test_the_shared_haystack_of_the_tests_serves_too():
    assert Ordering().make(Random(1), room(600)).details == {"pieces": 4}
