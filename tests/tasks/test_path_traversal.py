"""Path traversal: one road out of each city, one route, exact and prefix score."""

import itertools
import re
from collections import Counter
from random import Random

import pytest

from generators.tasks.base import Item
from generators.tasks.path_traversal import PathTraversal
from generators.tasks.registry import create_task
from schemas.errors import UserError
from tests.tasks.support import room

ROADS = """A bus runs from Ulm to Bonn.
A ferry sails from Bonn to Kiel.
A bus runs from Kiel to Jena.
A bus runs from Jena to Ulm."""
QUESTION = "Starting in Ulm, which cities does one pass on the way to Kiel?"
ROUTE = ["Ulm", "Bonn", "Kiel"]


def test_the_route_of_four_roads_followed_by_hand():
    item = Item(ROADS, QUESTION, "", {"route": ROUTE})
    assert PathTraversal().solve(item) == "<route>\nUlm\nBonn\nKiel\n</route>"


@pytest.mark.parametrize(
    ("answer", "right", "score"),
    [
        ("<route>\nUlm\nBonn\nKiel\n</route>", True, 1.0),
        ("I follow the roads.\n<route>\n Ulm\n\nBonn \nKiel\n</route>\nThat is all.", True, 1.0),
        ("<route>\nUlm\nBonn\nJena\n</route>", False, 2 / 3),
        ("<route>\nUlm\nKiel\n</route>", False, 1 / 3),
        ("<route>\nUlm\nBonn\nKiel\nJena\n</route>", False, 1.0),  # it goes on past the goal
        ("<route>\nBonn\nKiel\n</route>", False, 0.0),
        ("Ulm\nBonn\nKiel", False, 0.0),  # without the tags
        ("<route>\nUlm\nBonn\nKiel\n</route><route>\nUlm\n</route>", False, 0.0),  # two answers
        ("<route>\nUlm\nBonn\nKiel", False, 0.0),
        ("", False, 0.0),
    ],
)
def test_exact_and_prefix_score(answer, right, score):
    task = PathTraversal()
    assert task.verify({"route": ROUTE}, answer) is right
    assert task.prefix_score({"route": ROUTE}, answer) == pytest.approx(score)


@pytest.mark.parametrize("seed", range(100))
def test_no_city_has_two_roads_out_so_that_the_route_is_the_only_one(seed):
    item = PathTraversal().make(Random(seed), room(600))
    roads = re.findall(r"from (\w+) to (\w+)\.", item.context)
    assert len(roads) == len(item.context.splitlines()) == item.details["roads"]
    assert max(Counter(start for start, _ in roads).values()) == 1
    out, route = dict(roads), item.check["route"]
    assert all(out[here] == there for here, there in itertools.pairwise(route))
    assert len(set(route)) == len(route) == item.details["steps"] + 1
    assert route[-1] in out  # the goal is no dead end
    assert set(out.values()) - set(route)  # and there are cities beside the route


def test_evidence_is_the_roads_of_the_route_in_order():
    item = PathTraversal(steps=(5, 5)).make(Random(3), room(300))
    route = item.check["route"]
    said = [item.context[start:end] for start, end in item.evidence]
    assert [re.search(r"from (\w+) to (\w+)\.$", line).groups() for line in said] == list(itertools.pairwise(route))
    assert all(line in item.context.splitlines() for line in said)


def test_the_route_has_the_steps_asked_for_and_the_prompt_sets_the_roads():
    for tokens in (600, 4000):
        steps = [PathTraversal(steps=(8, 12)).make(Random(seed), room(tokens)).details for seed in range(60)]
        assert {one["steps"] for one in steps} == {8, 9, 10, 11, 12}
    assert min(one["roads"] for one in steps) > 400


def test_train_and_evaluation_cities_have_nothing_in_common():
    made = {
        split: {
            city
            for seed in range(40)
            for pair in re.findall(
                r"from (\w+) to (\w+)\.", PathTraversal(split=split).make(Random(seed), room(600)).context
            )
            for city in pair
        }
        for split in ("train", "eval")
    }
    assert len(made["train"]) > 1000 and len(made["eval"]) > 1000 and not made["train"] & made["eval"]


@pytest.mark.parametrize("steps", [(2, 5), (9, 5), "many", (5,)])
def test_steps_that_are_no_range_are_refused(steps):
    with pytest.raises(UserError, match="task 'path_traversal': steps"):
        create_task("path_traversal", {"steps": steps})
