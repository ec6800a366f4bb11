"""Theory-of-mind tracking: who sees a move knows of it, nobody else does."""

import re
from random import Random

import pytest

from generators.tasks.base import Item
from generators.tasks.tom_tracking import TomTracking, World, read_rows, trace
from tests.tasks.support import room

STORY = """The coin is in the red box.
Ada is in the attic.
Bob is in the attic.
Cy is in the cellar.
1. Bob goes to the cellar.
2. Ada moves the coin from the red box to the old jar.
3. Cy goes to the attic.
4. Ada goes to the cellar.
5. Cy moves the coin from the old jar to the red box.
6. Bob goes to the attic.
7. Bob moves the coin from the red box to the blue tin."""
EVENTS = [
    ("go", "Bob", "cellar"),
    ("move", "Ada", "coin", "old jar"),
    ("go", "Cy", "attic"),
    ("go", "Ada", "cellar"),
    ("move", "Cy", "coin", "red box"),
    ("go", "Bob", "attic"),
    ("move", "Bob", "coin", "blue tin"),
]
# Worked out by hand.
ROWS = [
    (0, "red box", {"Ada": "red box", "Bob": "red box"}),
    (2, "old jar", {"Ada": "old jar", "Bob": "red box"}),  # Bob had gone
    (5, "red box", {"Ada": "old jar", "Bob": "red box"}),  # Ada had gone; Bob is right by chance
    (7, "blue tin", {"Ada": "old jar", "Bob": "blue tin"}),
]
ANSWER = """<trace>
step 0 | red box | Ada: red box | Bob: red box
step 2 | old jar | Ada: old jar | Bob: red box
step 5 | red box | Ada: old jar | Bob: red box
step 7 | blue tin | Ada: old jar | Bob: blue tin
</trace>"""
START = {"Ada": "attic", "Bob": "attic", "Cy": "cellar"}
CHECK = {
    "thing": "coin", "people": ["Ada", "Bob"], "where": START, "place": "red box",
    "events": [[n, *event] for n, event in enumerate(EVENTS, 1)],
}  # fmt: skip


def test_the_state_machine_follows_a_story_as_worked_out_by_hand():
    assert trace(World(dict(START), {"coin": "red box"}), enumerate(EVENTS, 1), "coin", ["Ada", "Bob"]) == ROWS


def test_the_solver_reads_the_same_story_from_its_text():
    item = Item(STORY, "Follow the coin, and where Ada and Bob think it is.", "", {})
    assert TomTracking().solve(item) == ANSWER


def test_the_verifier_wants_every_row_as_it_is():
    task = TomTracking()
    assert read_rows(ANSWER) == ROWS and task.verify(CHECK, ANSWER)
    assert task.verify(CHECK, f"Let me see.\n{ANSWER.replace(' | ', '|')}\nDone.")
    for wrong in (
        ANSWER.replace("step 5 | red box | Ada: old jar", "step 5 | red box | Ada: red box"),
        ANSWER.replace("step 5 |", "step 6 |"),
        "\n".join(line for line in ANSWER.splitlines() if not line.startswith("step 2")),
        ANSWER.replace(" | Bob: blue tin", ""),
        ANSWER.replace("<trace>", ""),
        ANSWER.replace("step 5 | red box |", "step 5 | red box | Ada: blue tin |"),  # two beliefs, the last one right
        f"{ANSWER}\n{ANSWER}",
        ANSWER.replace("step 7", "step seven"),
        ANSWER.replace("step 0", "step " + "9" * 5000),
        "<trace></trace>",
        "",
    ):
        assert not task.verify(CHECK, wrong), wrong


@pytest.mark.parametrize("seed", range(60))
def test_a_story_obeys_its_own_rules(seed):
    """Whoever moves a thing is in its room; what is moved comes from where it is; nobody walks to where he is."""
    item = TomTracking().make(Random(seed), room(1200))
    rooms = {}
    for name, listed in re.findall(r"^In the (\w+) there are the (.+)\.$", item.context, re.M):
        rooms |= dict.fromkeys(re.split(r", the | and the ", listed), name)
    place = dict(re.findall(r"^The (\w+) is in the ([\w ]+)\.$", item.context, re.M))
    where = dict(re.findall(r"^(\w+) is in the (\w+)\.$", item.context, re.M))
    assert len(rooms) == 12 and set(place.values()) <= set(rooms) and set(where.values()) <= set(rooms.values())
    steps = re.findall(r"^(\d+)\. (\w+) (.+)\.$", item.context, re.M)
    assert [int(number) for number, _, _ in steps] == list(range(1, item.details["steps"] + 1))
    for _, person, did in steps:
        if goes := re.fullmatch(r"goes to the (\w+)", did):
            assert where[person] != goes[1]
            where[person] = goes[1]
        else:
            thing, old, new = re.fullmatch(r"moves the (\w+) from the ([\w ]+) to the ([\w ]+)", did).groups()
            assert place[thing] == old != new and where[person] == rooms[old] == rooms[new]
            place[thing] = new


def test_most_tasks_hold_false_beliefs_and_moves_stay_few_in_long_stories():
    made = [TomTracking(moves=(6, 10)).make(Random(seed), room(3000)).details for seed in range(30)]
    assert all(4 <= one["moves"] <= 10 and one["steps"] > 200 for one in made)
    assert sum(one["false_beliefs"] > 2 for one in made) >= 25


def test_evidence_alone_gives_the_answer():
    """The lines that count, and no others, lead the solver to the same trace."""
    for seed in range(40):
        item = TomTracking().make(Random(seed), room(1200))
        lines = [item.context[start:end] for start, end in item.evidence]
        assert all(line in item.context.splitlines() for line in lines)
        thing = item.check["thing"]
        for line in lines:
            assert thing in line or any(person in line for person in item.check["people"])
        # Others who move the thing are in its room by ways that are no evidence: put them there.
        home = next(c["where"] for c in [item.check])
        starts = [f"{person} is in the {at}." for person, at in home.items() if person not in item.check["people"]]
        left = Item("\n".join([*starts, *lines]), item.question, "", {})
        assert TomTracking().solve(left) == item.answer
