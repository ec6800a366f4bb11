"""The recipe's augmentations: presets, and mistakes named."""

from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from schemas.augment import Augment, Cip, Offset, Pose, Slices

PARSE = TypeAdapter(Augment).validate_python
KNOTS = [f"<|reserved_special_token_{number}|>" for number in range(4)]
UTK = {"augment": "utk_low", "knots": KNOTS, "backtrace": ["<D>", "</D>", "<S>", "<s>", "</S>"]}


@pytest.mark.parametrize("name, p", [("utk_low", 0.3), ("utk_high", 0.8)])
def test_presets_are_the_papers_doses_in_three_parts(name, p):
    config = PARSE({**UTK, "augment": name})
    assert (config.p, config.parts) == (p, (0, 0, 1))
    assert PARSE(config.model_dump()) == config


def test_the_documented_section_is_right():
    page = (Path(__file__).parents[2] / "docs" / "augment.md").read_text("utf-8")
    assert PARSE(yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])).p == 0.3


def test_each_kind_is_told_by_its_name():
    assert PARSE({"augment": "cip"}) == Cip(augment="cip", parts=2)
    for kind in (Pose, Offset, Slices):
        name = kind.__name__.lower()
        assert PARSE({"augment": name, "target_length": 131072}) == kind(augment=name, target_length=131072)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"p": 0.5}, "utk_low has p = 0.3: leave p out"),
        ({"augment": "utk"}, "p\n  Field required"),
        ({"augment": "utk", "p": 1.2}, "less than or equal to 1"),
        ({"parts": [0.5, 0.4, 0]}, "sum to 0.9, not to 1"),
        ({"parts": [0, 1]}, "up to 2 parts need 2 knots, not 4"),
        ({"knots": [1, 2, 3, "<D>"]}, "token '<D>' stands twice"),
        ({"knots": [1, 2, 3, -4]}, "greater than or equal to 0"),
        ({"backtrace": ["<D>"]}, "at least 5 items"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValidationError, match=message):
        PARSE({**UTK, **change})
