"""Limits of the rules of quality: what is just inside and just outside; presets; windows; languages; hostile texts."""

import pickle
import random
import re
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.curation.batch import Batch
from filters.curation.c4 import C4, C4Cleaner, without_citations
from filters.curation.fineweb import FineWeb
from filters.curation.gopher import Gopher
from filters.curation.repetition import Repetition
from filters.curation.text import Text
from schemas.curation.quality import C4Config, C4LinesConfig, FineWebConfig, GopherConfig, RepetitionConfig
from schemas.errors import UserError
from tests.curation import naive

FAMILIES = {
    "gopher": (Gopher, GopherConfig, "gopher_quality"),
    "repetition": (Repetition, RepetitionConfig, "gopher_repetition"),
    "c4": (C4, C4Config, "c4"),
    "fineweb": (FineWeb, FineWebConfig, "fineweb_quality"),
}
WORDS = [
    f"{a}{b}{c}" for a in ("ba", "ke", "mi", "no", "su") for b in ("la", "re", "ti") for c in ("na", "d", "sh", "r")
]


def rule(family, **given):
    kind, config, name = FAMILIES[family]
    return kind(config(rule=name, **given))


def judged(family, text, language="en", **given):
    return {one.rule: one for one in rule(family, **given).judge(Text(text, language=language))}


def lines(bad, good, count=10, of=10):
    return "\n".join([bad.format(number) for number in range(count)] + [good.format(n) for n in range(of - count)])


LIMITS = {  # rule: what is inside, what is outside
    "gopher.n_words": ("the of " * 25, "the of " * 24 + "the"),
    "gopher.n_words ": ("the of " * 50_000, "the of " * 50_000 + "the"),
    "gopher.mean_word_len": ("abc " * 10, "abc " * 9 + "ab"),
    "gopher.mean_word_len ": ("abcdefghij " * 10, "abcdefghij " * 9 + "abcdefghijk"),
    "gopher.hash_ratio": ("word " * 9 + "#", "word " * 8 + "#"),
    "gopher.ellipsis_ratio": ("word " * 9 + "...", "word " * 8 + "…"),
    "gopher.bullet_frac": (lines("- word", "word", 9), lines("  • word", "word", 10)),
    "gopher.ellipsis_frac": (lines("word {}... ", "word", 3), lines("word {}…", "word", 4)),
    "gopher.alpha_frac": ("word " * 8 + "1 2", "word " * 7 + "1 2"),
    "gopher.stop_words": ("the cats of", "the cats the The"),
    "repetition.dup_line_frac": (lines("same", "other {}", 4), lines("same", "other {}", 5)),
    "repetition.dup_para_frac": (
        lines("same\n", "other {}\n", 4).replace("\n", "\n\n"),
        lines("same\n", "other {}\n", 5).replace("\n", "\n\n"),
    ),
    "c4.sentences": ("One is here. " * 5, "One is here. " * 4),
    "c4.sentences ": ("One is here.\n" * 5, "One is here.\n" * 4 + "Two words.\n"),
    "c4.sentences  ": ("One is here.\n" * 5, "One is here.\n" * 4 + "This is not done\n"),
    "c4.sentences   ": ("One is here.\n" * 5, "One is here.\n" * 4 + "This is not done...\n"),
    "c4.sentences    ": ("One is here.\n" * 4 + "This is done.[1]", "One is here.\n" * 4 + "This is not[1]"),
    "c4.sentences     ": (f"A b {'x' * 999}.\n" * 5, f"A b {'x' * 1000}.\n" * 5),
    "c4.sentences      ": ("We read the Java script.\n" * 5, "We read the JavaScript.\n" * 5),
    "c4.sentences       ": ("The cookies are good.\n" * 5, "The site uses Cookies now.\n" * 5),
    "c4.lorem_ipsum": ("Here lorem and ipsum.", "Here Lorem Ipsum is."),
    "c4.curly_bracket": ("It is (here) now.", "It is {here now."),
    "fineweb.line_punct_frac": (lines("word.", "word", 12, 100), lines("word.", "word", 11, 100)),
    "fineweb.short_line_frac": (lines("w" * 30, "w" * 31, 67, 100), lines("w" * 30, "w" * 31, 68, 100)),
    "fineweb.dup_line_char_frac": (
        "x" * 10 + "\n" + "x" * 10 + "\n" + "y" * 980,
        "x" * 10 + "\n" + "x" * 10 + "\n" + "y" * 979,
    ),
    "fineweb.break_ratio": ("\n" * 3 + "word " * 10, "\n" * 3 + "word " * 9),
}


@pytest.mark.parametrize("name", LIMITS)
def test_each_rule_keeps_what_is_just_inside_and_drops_what_is_just_outside(name):
    (inside, outside), key = LIMITS[name], name.strip()
    family, _, measure = key.partition(".")
    assert judged(family, inside)[key].keep and judged(family, inside)[key].reason == ""
    assert (judged(family, outside)[key].keep, judged(family, outside)[key].reason) == (False, measure)


def test_c4_paragraphs_are_a_rule_where_asked_for():
    inside, outside = "\n".join(["x" * 200] * 3), "\n".join(["x" * 200] * 2 + ["x" * 199])
    assert judged("c4", inside, min_paragraphs=3)["c4.paragraphs"].keep
    assert not judged("c4", outside, min_paragraphs=3)["c4.paragraphs"].keep
    assert judged("c4", outside)["c4.paragraphs"].keep and judged("c4", outside)["c4.paragraphs"].value == 2


@pytest.mark.parametrize(("measure", "limit"), [
    *((f"top_{size}gram", limit) for size, limit in ((2, 0.20), (3, 0.18), (4, 0.16))),
    *zip([f"dup_{size}gram" for size in range(5, 11)], (0.15, 0.14, 0.13, 0.12, 0.11, 0.10), strict=True),
    *((f"dup_{what}_char_frac", 0.2) for what in ("line", "para")),
])  # fmt: skip
def test_characters_in_copies_are_held_against_the_limit(measure, limit):
    rest = " ".join(f"w{number}" for number in range(150))
    between = "\n" if measure == "dup_line_char_frac" else "\n\n" if measure == "dup_para_char_frac" else " "
    phrase = "one two three four" if measure.startswith("top") else "one two three four five six seven eight nine ten"
    phrase = "one two" if measure == "top_2gram" else phrase
    kept = []
    for copies in range(100):
        text = rest + f"{between}{phrase}" * copies
        found = judged("repetition", text)[f"repetition.{measure}"]
        assert found.value == pytest.approx(naive.repetition([text])[measure])
        assert found.keep == (found.value <= limit)
        kept.append(found.keep)
    assert kept[0] and not kept[-1]


def test_lines_a_b_a_c_are_a_quarter_duplicates_and_a_half_where_the_first_counts():
    assert judged("repetition", "a\nb\na\nc")["repetition.dup_line_frac"].value == 0.25
    assert judged("repetition", "a\nb\na\nc", count_first_copy=True)["repetition.dup_line_frac"].value == 0.5


def test_runs_of_a_whole_text_by_hand():
    found = judged("repetition", "a b a b a b c")  # 13 characters; "a b" 3 times
    assert found["repetition.top_2gram"].value == pytest.approx(3 * 3 / 13)
    assert found["repetition.top_3gram"].value == pytest.approx(2 * 5 / 13)  # "a b a", before "b a b"
    found = judged("repetition", "a b c d e x a b c d e y b c d e x")
    assert found["repetition.dup_5gram"].value == pytest.approx((5 + 5) / len("a b c d e x a b c d e y b c d e x"))


def book(words, seed=0, wrap=70):
    rng, text, line = random.Random(seed), [], 0
    for number in range(words):
        word = (
            rng.choice(("the", "of", "and", "to", "with"))
            if rng.random() < 0.3
            else rng.choice(WORDS) + rng.choice(WORDS)
        )
        word += "." if number % 14 == 13 else ""
        text.append(word + ("\n\n" if number % 140 == 139 else "\n" if line + len(word) > wrap else " "))
        line = 0 if text[-1].endswith("\n") else line + len(text[-1])
    return "".join(text)


def dropped(text, language="en", **given):
    return [one for family in FAMILIES for one in judged(family, text, language, **given).values() if not one.keep]


def test_a_book_of_120_000_words_passes_by_windows_and_fails_the_stock_cap():
    text = book(120_000)
    found = judged("gopher", text, preset="web")
    assert [(one.rule, one.value) for one in found.values() if not one.keep] == [("gopher.n_words", 120_000)]
    assert dropped(text, preset="books") == []
    assert judged("gopher", text, preset="books")["gopher.bad_windows"].value == 0


def test_hard_wrapped_books_and_texts_without_line_breaks_pass_as_books():
    for text in (book(30_000, wrap=20), book(30_000, wrap=60), re.sub(r"\n+", " ", book(30_000))):
        assert dropped(text, preset="books") == []
    assert "line_punct_frac" in [one.reason for one in dropped(re.sub(r"\n+", " ", book(30_000))[:-1], preset="web")]


def test_a_book_of_few_lines_is_no_list_and_no_row_of_ellipses():
    one = "- " + re.sub(r"\n+", " ", book(30_000)) + " and so on..."
    for text in (one, one[:3000] + "...", f"{one[:3000]}\n- and then..."):
        assert dropped(text, preset="books") == dropped(text, preset="code") == []
        stock = judged("gopher", text, preset="books", line_floor=1)
        assert {"bullet_frac", "ellipsis_frac"} & {found.reason for found in stock.values()}
    listed = "\n".join(["- word one two three four five"] * 10)
    assert "bullet_frac" in [found.reason for found in dropped(listed, preset="books")]
    found = judged("gopher", f"- {one[:3000]}\nnone", preset="books")
    assert found["gopher.bullet_frac"].value == 0.1


def test_a_chinese_book_full_of_code_whose_language_says_english_passes_as_a_book():
    rng = random.Random(3)
    pages = ["".join(chr(rng.randrange(0x4E00, 0x9000)) for _ in range(90)) + "。\n" + book(8, n) for n in range(60)]
    text = "\n".join(pages)
    assert judged("gopher", text)["gopher.mean_word_len"].reason == "mean_word_len"
    assert dropped(text, preset="books") == []


def test_one_bad_chapter_is_seen_and_many_drop_the_book():
    junk = "Buy the cheap pills of our shop now.\n" * 1250  # 10,000 words: a window
    book_of = {count: book(100_000 - 10_000 * count) + "\n\n" + junk * count for count in (1, 5)}
    found = judged("repetition", book_of[1], preset="books")
    assert found["repetition.dup_10gram"].value < 0.2 < 0.7 < found["repetition.dup_10gram:window_max"].value
    assert found["repetition.bad_windows"].value == pytest.approx(0.1) and found["repetition.bad_windows"].keep
    found = judged("repetition", book_of[5], preset="books")["repetition.bad_windows"]
    assert found.value == pytest.approx(0.5, abs=0.11) and not found.keep
    assert found.reason in ("dup_line_frac", "dup_line_char_frac", "dup_5gram")


def test_the_brace_rule_is_off_for_code_and_a_recipe_overrides_single_limits():
    code = "def f(x):\n    return {x: 1}.\n\n" * 3
    assert not judged("c4", code)["c4.curly_bracket"].keep
    assert judged("c4", code, preset="code")["c4.curly_bracket"].keep
    assert judged("c4", code, preset="code")["c4.curly_bracket"].value == 3
    config = GopherConfig(rule="gopher_quality", preset="books", min_words=1000, max_hashes=None)
    assert (config.min_words, config.max_words, config.max_hashes, config.max_bad_windows) == (1000, None, None, 0.2)
    with pytest.raises(ValidationError, match="'web', 'books' or 'code'"):
        GopherConfig(rule="gopher_quality", preset="book")


def test_every_number_is_there_where_the_text_is_kept():
    assert {name.partition(".")[2] for name in judged("gopher", book(100))} == {
        *("n_words", "mean_word_len", "hash_ratio", "ellipsis_ratio", "bullet_frac", "ellipsis_frac"),
        *("alpha_frac", "stop_words"),
    }
    assert len(judged("repetition", book(100))) == 4 + 3 + 6


def test_stop_words_and_the_length_of_words_are_judged_in_the_languages_that_have_a_list():
    chinese = "我们在这里讨论长文本的数据处理方法，以及如何评价质量。\n" * 10
    found = judged("gopher", chinese, "zh")
    assert found["gopher.mean_word_len"].value == 1 and "gopher.stop_words" not in found
    assert all(one.keep for one in found.values())
    assert not judged("gopher", chinese, "")["gopher.mean_word_len"].keep  # not known: as if it were English
    german = "der Hund und die Katze " * 10
    given_words = {"stop_words": {"de": ("der", "und", "die")}}
    assert judged("gopher", german, "de", **given_words)["gopher.stop_words"].value == 3
    batch = [Text("the dog of " * 20, language="en"), Text(chinese, language="zh"), Text(german, language="de")]
    counts = [
        [one.value for one in judgements if one.rule == "gopher.stop_words"]
        for judgements in rule("gopher", stop_words={"de": ("der",), "en": ("the", "of")}).judge_all(Batch(batch))
    ]
    assert counts == [[2], [], [1]]


@pytest.mark.parametrize("preset", ["web", "books", "code"])
def test_hostile_texts_get_judgements(preset):
    long = 10_000_000
    texts = [
        *(
            "",
            " \n\t ",
            "...",
            "\0" * 100,
            "\u200b\u200d\ufeff",
            "\u202e\u05d0\u05d1\u202c",
            "{" * 1000,
            "a",
            "\n" * 1000 + "a",
        ),
        *(
            "[" * 10_000 + "1" + "]" * 10_000,
            "#" * 1000 + " a",
            "\u0301" * 100,
            "🙂" * 100,
            "𝔘𝔫𝔦",
            "٣٤٥ ؟",
            "a\r\nb\r\n",
        ),
        *(
            "x" * long,
            "." * long,
            "é" * 1_000_000,
            "模" * 1_000_000,
            "ab " * 1_000_000,
            "a\n" * 1_000_000,
            "javascript" * 10_000,
        ),
    ]
    for family in FAMILIES:
        for text, found in zip(texts, rule(family, preset=preset).judge_all(Batch(map(Text, texts))), strict=True):
            assert found and all(one.value == one.value for one in found), text[:20]
            assert (len(found) == 1) == (not re.search(r"\w", text)), text[:20]
            if len(found) == 1:
                assert (found[0].rule, found[0].keep, found[0].reason) == (f"{family}.n_words", False, "no_words")


def test_a_text_is_judged_alone_as_in_a_batch_and_rules_can_be_sent_to_workers():
    texts = [Text(book(300, seed)) for seed in range(3)] + [Text(""), Text(book(25_000, 4)), Text("– Ω “x” 模型")]
    for family in FAMILIES:
        one = pickle.loads(pickle.dumps(rule(family, preset="books")))
        assert one.judge_all(Batch(texts)) == [one.judge(text) for text in texts]


def clean(text, **given):
    return C4Cleaner(C4LinesConfig(rule="c4_lines", **given)).clean(Text(text))


def test_the_cleaner_takes_bad_lines_and_citations_out_and_leaves_paragraphs():
    text = (
        "Title\n\nThis is a line.[1] It is[citation needed] good.[edit]\nTurn on JavaScript now.\n\nThe last of them."
    )
    cleaned, judgements = clean(text)
    assert cleaned == "\nThis is a line. It is good.\n\nThe last of them."
    assert [(one.rule, one.value, one.keep) for one in judgements] == [
        ("c4_lines.citations", 3, True),
        ("c4_lines.cut_frac", 1 - len(cleaned) / len(text), True),
    ]
    assert clean(text, end_punctuation=False, min_line_words=1, javascript=True)[0].startswith("Title\n\nThis is")


def test_citations_are_gone_however_they_are_nested():
    assert without_citations("a[1[2]3][]b[edi[]t][note][12") == ("ab[note][12", 5)
    assert without_citations("[[x]] [citation needed]") == ("[[x]] ", 1)


@given(
    st.lists(st.sampled_from(["[", "]", "1", "edit", "One two three", ".", "\n", " ", "javascript", "[2]", "…"])).map(
        "".join
    )
)
def test_cleaning_twice_changes_nothing_more(text):
    once, _ = clean(text)
    assert clean(once)[0] == once
    assert not re.search(r"\[(\d*|edit|citation needed)\]", without_citations(text)[0])


def test_braces_count_in_lines_that_pass_all_rules_but_policies():
    assert judged("c4", "In JavaScript we write {here}.")["c4.curly_bracket"].value == 0
    assert judged("c4", "In JavaScript we write {here}.", javascript=True)["c4.curly_bracket"].value == 1
    assert judged("c4", "The privacy policy says {here}.")["c4.curly_bracket"].value == 1
    assert judged("c4", "No end here {")["c4.curly_bracket"].value == 0


def test_a_judged_text_is_let_go_without_the_collector():
    text = Text(book(100))
    seen = weakref.ref(text.alone)
    rule("gopher").judge(text)
    del text
    assert seen() is None


def test_a_stop_word_that_is_no_single_word_is_refused():
    with pytest.raises(UserError, match="stop word '我们': must be one token"):
        rule("gopher", stop_words={"zh": ("的", "我们")})
