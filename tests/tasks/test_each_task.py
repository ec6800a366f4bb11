"""What single tasks promise beyond what all do: borders, threads, golds, rounds, pools, options."""

import datetime
import json
import re
from itertools import pairwise
from random import Random

import pytest

from generators.tasks.base import Room
from generators.tasks.borders import TokenMap, borders
from generators.tasks.exam_questions import SUBJECTS, gold
from generators.tasks.needles import Needles
from generators.tasks.pools import SPLITS, _name_parts, all_words, names, uuid, words
from generators.tasks.registry import TASKS, create_task, task_class
from generators.tasks.shaping import normal, normal_list, numbers
from schemas.errors import UserError
from tests.tasks.support import WORDS, CharTokenizer, ChineseProse, Prose, room

# ---------------------------------------------------------------- needles


@pytest.mark.parametrize("seed", range(60))
def test_each_needle_stands_once_and_between_whole_sentences(seed):
    item = Needles().make(Random(seed), room(600))
    for start, end in item.evidence:
        needle = item.context[start:end]
        assert item.context.count(needle) == 1 and needle.endswith(".")
        assert start == 0 or re.search(r"[.\n]\s+$", item.context[:start])
        assert re.match(r"\s+[A-Z]|\s*$", item.context[end:])


@pytest.mark.parametrize("seed", range(40))
def test_without_its_needles_the_text_is_whole_sentences_of_the_documents(seed):
    item = Needles(others=1).make(Random(seed), room(600))
    left = re.findall(r"Sentence \d of line \d+ says one thing or two\.", item.context)
    rest = re.sub(r"Sentence \d of line \d+ says one thing or two\.", "", item.context)
    sentences = [part for part in re.split(r"(?<=\.)\s+", rest.strip()) if part]
    assert len(left) > 30 and len(sentences) == item.details["needles"] + item.details["others"]


def test_a_needle_stands_at_the_first_border_at_or_past_its_depth():
    text = "".join(f"Words of number {n} end here. " for n in range(200))
    for share in (0.0, 0.1, 0.505, 0.99):
        place = round(share * len(text))
        (found,) = borders(text, [place], len(text))
        ends = [match.end() for match in re.finditer(r"here\. ", text)]
        assert found == (0 if place == 0 else min(end for end in ends if end >= place))


def test_abbreviations_are_no_borders_and_paragraphs_are():
    text = "He met Mr. Smith and Prof. Jones, e.g. Anna. Then\n\nnext came 3.5 kg of it"
    assert borders(text, [1], len(text)) == [text.index("Then")]
    assert borders(text, [text.index("hen")], len(text)) == [text.index("next")]
    # Past the last border stands half a sentence: nothing goes behind that, but behind a whole one.
    assert borders(text, [text.index("came")], len(text)) == [text.index("next")]
    assert borders(f"{text}.", [text.index("came")], len(text) + 1) == [len(text) + 1]


def test_needles_that_want_the_same_border_take_different_ones():
    text = "One is here. Two is here. Three is here. "
    places = borders(text, [2, 3, 1], len(text))
    assert sorted(places) == [13, 26, len(text)] and places[2] == 13


@pytest.mark.parametrize("asked", [0, 25, 50, 75, 100])
def test_depths_can_be_set(asked):
    for seed in range(20):
        item = Needles(kinds=["single"], depths=[asked]).make(Random(seed), room(1000))
        ((start, _),) = item.evidence
        assert abs(start / len(item.context) - asked / 100) < 0.035


def test_depth_is_in_tokens_not_in_characters():
    """The first half has words of many letters: half of the tokens are in nine tenths of the characters."""
    long = "Extraordinarilylongwordsmakeslowreading stand everywhereinthisfirsthalfofthetext today. " * 250
    short = "A b c d e. " * 200
    map_ = TokenMap(long + short, WORDS)
    assert abs(map_.place(map_.tokens_at(len(map_.text)) / 2) - len(long)) < 0.01 * len(map_.text)


def test_chinese_needles():
    task = create_task("needles", language="zh")
    for seed in range(300):
        item = task.make(Random(seed), Room(600, CharTokenizer(), ChineseProse()))
        assert task.verify(item.check, item.answer) and task.solve(item) == item.answer
        wrong = task.corrupt(item, Random(seed))
        assert wrong != item.answer and not task.verify(item.check, wrong)
        for start, end in item.evidence:
            assert item.context.count(item.context[start:end]) == 1
            assert item.context[:start].rstrip()[-1:] in ("。", "")
        assert not re.search("[a-z]", item.prompt)


def test_names_that_the_haystack_holds_are_drawn_again():
    first = Needles(kinds=["single"]).make(Random(5), room(600))
    held = first.context[slice(*first.evidence[0])]

    class Known(Prose):
        def text(self, rng, tokens):
            return f"{held} {super().text(rng, tokens)}"

    second = Needles(kinds=["single"]).make(Random(5), Room(600, WORDS, Known()))
    assert second.question != first.question and second.context.count(held) == 1


def test_a_haystack_that_is_too_small_is_an_error():
    class Small:
        def text(self, rng, tokens):
            return "Only a few words are here."

    with pytest.raises(ValueError, match="no task of 600 tokens"):
        Needles().make(Random(1), Room(600, WORDS, Small()))


# ---------------------------------------------------------------- key-value threads


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_threads_run_in_their_direction_from_key_to_value(direction):
    for seed in range(50):
        task = create_task("kv_threads", {"kinds": ["thread"], "directions": [direction], "length": [4, 4]})
        item = task.make(Random(seed), room(600))
        pairs = list(json.loads(item.context).items())
        lines = [item.context[start:end] for start, end in item.evidence]
        steps = [next(iter(json.loads("{" + line + "}").items())) for line in lines]
        assert [after[0] for after in steps[1:]] == [before[1] for before in steps[:-1]]
        places = [pairs.index(step) for step in steps]
        assert places == sorted(places, reverse=direction == "backward")
        assert steps[-1][1] == item.answer and item.answer not in dict(pairs)


def test_a_short_text_gets_fewer_and_shorter_threads_instead_of_none():
    wide = {"kinds": ["thread", "threads"], "threads": [2, 50], "length": [2, 100]}
    for seed in range(50):
        item = create_task("kv_threads", wide).make(Random(seed), room(600))
        threads, length = item.details["threads"], item.details["thread_length"]
        assert min(threads, length) >= 2 and threads * length <= 150  # of pairs of two words
    with pytest.raises(ValueError, match="the shortest has"):
        create_task("kv_threads", {**wide, "threads": [50, 50], "length": [9, 9]}).make(Random(1), room(600))


def test_the_context_is_json_with_different_keys_and_marked_ones_only_where_asked():
    for seed in range(50):
        item = create_task("kv_threads").make(Random(seed), room(600))
        keys = list(json.loads(item.context))
        marked = [key for key in keys if len(key) == 37]
        assert len(keys) == item.details["pairs"] == len(set(keys))
        assert len(marked) == (item.details["asked"] if item.details["kind"] == "conditional" else 0)


# ---------------------------------------------------------------- ancestors


def test_questions_ask_for_people_inside_the_chain_too():
    made = [create_task("ancestors", {"kinds": ["ancestor"]}).make(Random(seed), room(600)) for seed in range(200)]
    assert {item.details["steps"] for item in made} >= set(range(1, 12))
    assert sum(item.details["steps"] < item.details["people"] - 1 for item in made) > 150


def test_sentences_of_families_are_joined_with_spaces():
    item = create_task("ancestors").make(Random(1), room(600))
    assert item.context.count(". ") == item.details["sentences"] - 1 and not re.search(r"\.\S", item.context)


# ---------------------------------------------------------------- exam


def test_golds_agree_with_other_ways_to_work_them_out():
    other = {
        "sums": lambda q: str(eval(q)),
        "products": lambda q: str(eval(q.replace("x", "*"))),
        "weekdays": lambda q: datetime.datetime.strptime(q, "%d %B %Y").strftime("%A"),
        "largest": lambda q: str(sorted(map(int, q.split(", ")))[-1]),
        "alphabet": lambda q: sorted(q.split(", "))[0],
        "roman": lambda q: q if _roman(gold("roman", q)) == int(q) else "wrong",
    }
    for subject, work_out in other.items():
        for seed in range(200):
            question = SUBJECTS[subject].ask(Random(seed), "train")
            assert work_out(question) == (question if subject == "roman" else gold(subject, question))
    assert gold("units", "3 weeks in days") == "21 days" and gold("units", "2 dozens in pieces") == "24 pieces"
    assert gold("dates", "28 February 2024, 2 days later") == "1 March 2024"
    assert gold("letters", "letter 2 of kravon") == "r" and gold("roman", "1994") == "MCMXCIV"


def _roman(text):
    values = [dict(zip("IVXLCDM", (1, 5, 10, 50, 100, 500, 1000), strict=True))[letter] for letter in text]
    return sum(-a if a < b else a for a, b in pairwise([*values, 0]))


def test_about_a_tenth_of_the_answers_is_wrong_and_at_least_one():
    for seed in range(100):
        item = create_task("exam").make(Random(seed), room(600))
        assert item.details["wrong"] == max(1, round(0.1 * item.details["items"])) == len(item.check["numbers"])
    assert create_task("exam", {"wrong": 0.0}).make(Random(1), room(600)).details["wrong"] == 1


def test_a_wrong_answer_does_not_give_itself_away():
    for subject in ("alphabet", "largest"):
        item = create_task("exam", {"subjects": [subject], "forms": ["gist"]}).make(Random(4), room(600))
        for start, end in item.evidence:
            question, _, given = item.context[start:end].partition(" Answer given: ")
            assert given in question.partition(". ")[2].split(", ")


def test_the_instruction_stands_once_or_in_every_question():
    for form, count in (("gist", 1), ("list", None)):
        item = create_task("exam", {"forms": [form], "mixed": 0.0}).make(Random(3), room(600))
        instruction = SUBJECTS[item.details["subject"]].instruction
        assert item.context.count(instruction) == (count or item.details["items"])


# ---------------------------------------------------------------- label rounds


def test_a_round_holds_every_label_once_in_an_order_of_its_own():
    item = create_task("label_rounds", {"labels": [20, 20]}).make(Random(2), room(2000))
    labels = re.findall(r"^Label: (.+)$", item.context, re.MULTILINE)
    rounds = [labels[max(0, end - 20) : end] for end in range(len(labels), 0, -20)]
    assert all(len(set(one)) == len(one) for one in rounds) and all(len(one) == 20 for one in rounds[:-1])
    assert rounds[0] != rounds[1] and set(rounds[0]) == set(rounds[1])
    since = labels[::-1].index(item.answer)
    assert item.details["examples_since_label"] == since and item.details["labels"] == 20


def test_the_message_asked_about_is_no_example():
    for seed in range(100):
        item = create_task("label_rounds").make(Random(seed), room(600))
        assert item.question.splitlines()[2] not in item.context.splitlines()


def test_label_counts_reach_the_published_range_where_there_is_room():
    counts = [create_task("label_rounds").make(Random(s), room(8000)).details["labels"] for s in range(60)]
    assert min(counts) >= 20 and 140 < max(counts) <= 170


# ---------------------------------------------------------------- pools


def test_the_pools_of_training_and_evaluation_share_nothing():
    """extras 13, test 3."""
    assert not set(all_words("train")) & set(all_words("eval"))
    for language in ("en", "zh"):
        (first, second), (other_first, other_second) = (_name_parts(split, language) for split in SPLITS)
        assert not set(second) & set(other_second)
        assert language == "zh" or not set(first) & set(other_first)
    ones = {split: {uuid(Random(n), split) for n in range(2000)} for split in SPLITS}
    assert len(ones["train"]) == len(ones["eval"]) == 2000
    assert {bin(int(one.replace("-", ""), 16)).count("1") % 2 for one in ones["train"]} == {0}
    assert {bin(int(one.replace("-", ""), 16)).count("1") % 2 for one in ones["eval"]} == {1}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_no_made_up_word_of_one_split_stands_in_a_task_of_the_other(name):
    for split, other in (SPLITS, SPLITS[::-1]):
        forbidden = {*all_words(other), *_name_parts(other, "en")[1]}
        try:
            task = create_task(name, split=split)
        except UserError:
            pytest.skip("this task has no split")
        for seed in range(30):
            item = task.make(Random(seed), room(3000 if name == "golden_thread" else 1000))
            found = set(re.findall(r"[A-Za-z]+", item.prompt)) | set(re.findall(r"[a-z]+", item.prompt.lower()))
            assert not found & forbidden


def test_uuids_are_of_version_4():
    for n in range(500):
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", uuid(Random(n), "eval")
        )


def test_words_and_names_drawn_together_differ():
    assert len(set(words(Random(1), "eval", 850))) == 850
    assert len(set(names(Random(1), "eval", 5000))) == 5000
    assert all(len(name) == 3 for name in names(Random(1), "train", 500, "zh"))


# ---------------------------------------------------------------- answers, options


def test_how_answers_are_read():
    assert normal(' "Ærø  Land". ') == "ærø land" and normal("Ｘ１") == "x1"
    assert normal_list("a; B,\nc、d，") == ["a", "b", "c", "d"]
    assert numbers("3, 017 and 5.") == ["3", "17", "5"] and numbers("none") == numbers("") == numbers("1, 2x") == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("needle", {}, "no task 'needle', did you mean 'needles'\\?"),
        ("xyzzy", {}, "no task 'xyzzy'; known: ancestors, "),
        ("needles", {"kind": ["single"]}, "task 'needles': no option 'kind', did you mean 'kinds'\\?"),
        ("needles", {"split": "eval"}, "no option 'split'"),
        ("needles", {"kinds": ["triple"]}, "kinds: a list of some of chained, multiple, single, not \\['triple'\\]"),
        ("needles", {"kinds": "single"}, "kinds: a list"),
        ("needles", {"needles": [5, 2]}, "needles: two whole numbers"),
        ("needles", {"depths": [120]}, "depths: a list of numbers from 0 to 100"),
        ("needles", {"others": 0}, "others"),
        ("exam", {"wrong": 1.5}, "wrong: a share from 0 to 1, not 1.5"),
        ("exam", {"wrong": "x"}, "task 'exam'"),
        ("label_rounds", {"labels": [20, 2000]}, "labels: two whole numbers"),
        ("kv_threads", {"length": 4}, "length: two whole numbers"),
    ],
)
def test_faults_in_options_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        create_task(name, options)


def test_languages_and_splits_a_task_lacks_are_refused():
    with pytest.raises(UserError, match="task 'exam' has no language 'zh'"):
        create_task("exam", language="zh")
    assert task_class("needles") is Needles
