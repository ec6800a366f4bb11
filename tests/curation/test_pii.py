"""Personal data: what is replaced, what only looks like it, and that nothing else changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.curation.pii import Pii, find
from filters.curation.text import Text
from schemas.curation.pii import PiiConfig


def scrub(text, **options):
    return Pii(PiiConfig(rule="pii", **options)).clean(Text(text))[0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("write to a@b.co", "write to [EMAIL_1]"),
        ("<Jane.Doe+x@mail.uni-x.ac.uk>, 'b@b.de'.", "<[EMAIL_1]>, '[EMAIL_2]'."),
        ("邮箱foo@bar.com。mailto:foo@bar.com", "邮箱[EMAIL_1]。mailto:[EMAIL_1]"),
        ("A@b.co and c@b.co and a@B.co", "[EMAIL_1] and [EMAIL_2] and [EMAIL_1]"),
        ("[EMAIL_4] a@b.co", "[EMAIL_4] [EMAIL_5]"),
        ("ask 8.8.8.8, or 8.8.4.4:53 or http://8.8.8.8/x.", "ask [IP_1], or [IP_2]:53 or http://[IP_1]/x."),
        ("call (415) 555-2671 or 415-555-2671.", "call [PHONE_1] or [PHONE_1]."),
        ("+49 30 901820-0 +33 6 12 34 56 78 +34 612 345 678", "[PHONE_1] [PHONE_2] [PHONE_3]"),
        ("Tel: +14155552671, 415.555.2671", "Tel: [PHONE_1], [PHONE_1]"),
        ("1-800-234-5678\n", "[PHONE_1]\n"),
        ("1 (800) 234-5678", "[PHONE_1]"),
        ("# a comment\ndoing 415-555-2671", "# a comment\ndoing [PHONE_1]"),
        ("8.8.8.8-8.8.8.12", "[IP_1]-[IP_2]"),
        ("(415) 555-2671 (212) 555-2671 (415) 555-2671", "[PHONE_1] [PHONE_2] [PHONE_1]"),
        ("SRC=8.8.8.8 dns = 8.8.4.4", "SRC=[IP_1] dns = [IP_2]"),
        ("<td>8.8.8.8</td>\n> 8.8.4.4", "<td>[IP_1]</td>\n> [IP_2]"),
        ("+44 20 7946 0958, (207) 946-0958, +1 207 946 0958", "[PHONE_1], [PHONE_2], [PHONE_2]"),
    ],
)
def test_personal_data_is_replaced(text, wanted):
    assert scrub(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "192.168.0.1 10.0.0.1 127.0.0.1 203.0.113.7 999.1.1.1 1.2.3.4.5 08.8.8.8 224.0.1.1",
        "v1.2.3.4 version 1.2.3.4, Version: 1.2.3.4, Chrome/91.0.44.124 lib>=1.2.3.4 section 8.8.8.8 1.2.3.4-beta",
        "8.8.8.8 Heading of a section",
        "x > 1.2.3.4, x >=1.2.3.4, x==1.2.3.4, x << 1.2.3.4, x~=1.2.3.4, 1:1.2.3.4, 1.5 1.2.3.4, § 1.2.3.4",
        " " * 80 + "2.1.1.1. Heading",
        "update V8 to 4.4.63.9, Debian Policy 4.1.2.0",
        "from V8 4.2.77.18; XFree86 4.3.99.16 (<< 1:1.3.0.1-15) x (1.2.1.2-2)",
        "6 12 24 384 768 1536 3072, 1~+20191229111838",
        "ISBN 978 415 555 2671, isbn: 415-555-2671",
        "doi 415-555-2671",
        "#415-555-2671 or 415-555-2671",
        "1415-555-2671-3 2020-01-02 415-555-26711 115-555-2671 415-155-2671 3.415-555-2671",
        "+10 000 000 people, +1 000 000, x+12345678, 2024-01-01T00:00+0100, 1,415-555-2671",
        "icon@2x.png react@16.8.0 a@b.T x@y.mean() git@github.com:a/b @decorator user@host me@example.org a@@b.co",
        "a..@b.co .@b.co @ a@ a@b a@b.c a@-b.co a@b.co_x",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert scrub(text) == text


def test_what_was_near_a_guard_that_went_is_found_too():
    text = "isbn@b.co 415-555-2671"
    assert scrub(text) == "[EMAIL_1] [PHONE_1]"


def test_counts_are_stored_and_may_drop():
    text = Text("a@b.co a@b.co 8.8.8.8")
    _, found = Pii(PiiConfig(rule="pii", max_found=3)).clean(text)
    assert {one.rule: one.value for one in found} == {"pii.email": 2, "pii.ip": 1, "pii.phone": 0, "pii.found": 3}
    assert all(one.keep for one in found)
    _, found = Pii(PiiConfig(rule="pii", max_found=2)).clean(text)
    assert (found[-1].keep, found[-1].reason) == (False, "too_much_personal_data")
    assert scrub("a@b.co 8.8.8.8", kinds=("ip",)) == "a@b.co [IP_1]"


PARTS = st.sampled_from(
    [
        "a@b.co",
        "8.8.8.8",
        "415-555-2671",
        "+49 30 901820",
        "isbn",
        "#",
        "v",
        ".",
        "-",
        " ",
        "\n",
        "@",
        "1",
        "x" * 99,
        "\u202e",
    ]
)


@given(st.lists(PARTS, max_size=30).map("".join))
def test_scrubbing_twice_changes_nothing_more_and_lines_stay(text):
    once = scrub(text)
    assert scrub(once) == once
    assert once.count("\n") == text.count("\n")


@pytest.mark.parametrize("between", ["", " ", ":", ",", "/", "-", ", ", "\n", " - ", "|", "@", ";", "  "])
@pytest.mark.parametrize(
    "one", ["8.8.8.8", "a@b.co", "aa@b.co.aa", "415-555-2671", "415 555 2671", "+49 30 901820", "(415) 555-2671"]
)
def test_rows_take_few_rounds(one, between, monkeypatch):
    rounds = []
    monkeypatch.setattr("filters.curation.pii.find", lambda text, kinds: rounds.append(1) or find(text, kinds))
    scrub(between.join([one] * 200))
    assert len(rounds) <= 4


UNITS = [
    "a",
    "@",
    "a@",
    "a.",
    "1",
    "1.",
    "1-",
    "+1 ",
    "(",
    "a@a.",
    "a-",
    "8.8.8.8",
    "415-555-",
    "isbn ",
    "8.8.8.8 ",
    "8.8.8.8:",
    "415-555-2671 ",
]


@pytest.mark.parametrize("unit", [*UNITS, "+" + "1" * 30 + " ", "+1" + " 1" * 30])
def test_long_runs_end_in_good_time(unit):
    scrub(unit * (300_000 // len(unit)))
