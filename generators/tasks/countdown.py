"""Countdown (LongProc, arXiv 2501.05414): reach a number from four others, with the depth-first search as trace."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.pools import check_split, in_split
from generators.tasks.shaping import check_range, grow, tagged

LARGEST_NUMBER = 49
TARGETS = (10, 50)
LIMIT = 2000  # results stay below it
_TRIES = 2000  # puzzles drawn for one of the wanted trace length

TASK = (
    "Combine the numbers {numbers} with +, -, * and / to get {target}. Each number is used exactly once; every result "
    "on the way is a whole number, at least 0 and below 2000."
)
EQUATION = (
    "Give the solution as one equation between <equation> and </equation>, with parentheses where they are needed and "
    "the target after the equals sign, like <equation>(8 + 2) * 5 - 1 = 49</equation>."
)
SEARCH = (
    "First write down the search between <search> and </search>. Keep the numbers in falling order. Take the pairs of "
    "them in order: first and second, first and third, and so on, then second and third, and so on. With a pair a and "
    "b (a before b) try a + b, a - b, a * b and a / b in this order; leave out a division by 0 or with a remainder, "
    "and a result of 2000 or more. Write each try on a line of its own: two spaces for every try that it builds on, "
    "the calculation, then the numbers that are left, as in `8 + 2 = 10 | 10 5 1`. While more than one number is left "
    "go on with these before the next try; stop at the first try that leaves only the target."
)
EXAMPLE = "Puzzle: get {target} from {numbers}."
_ASKED = re.compile(r"Combine the numbers ([\d, ]+) with .* to get (\d+)\.")
_CHARACTERS = re.compile(r"[\d+*/() -]{1,200}")


@dataclass(frozen=True, slots=True)
class Try:
    """One calculation of the search. `depth`: on how many others it builds. `solved`: the equation, if this is it."""

    depth: int
    text: str
    solved: str | None = None

    @property
    def line(self) -> str:
        return "  " * self.depth + self.text


Term = tuple[int, str]  # a number and how it was made


def search(numbers: list[int], target: int) -> Iterator[Try]:
    """The tries of the depth-first search that the prompt describes; the last one is the solution, if there is any."""
    yield from _deeper([(number, str(number)) for number in numbers], target, 0)


def _deeper(terms: list[Term], target: int, depth: int) -> Iterator[Try]:
    terms = sorted(terms, key=lambda term: -term[0])
    for i, j in combinations(range(len(terms)), 2):
        for text, term in _results(terms[i], terms[j]):
            left = sorted([term, *(terms[k] for k in range(len(terms)) if k not in (i, j))], key=lambda one: -one[0])
            line = f"{text} | {' '.join(str(number) for number, _ in left)}"
            if len(left) > 1:
                yield Try(depth, line)
                for found in _deeper(left, target, depth + 1):
                    yield found
                    if found.solved is not None:
                        return
            elif term[0] == target:
                yield Try(depth, line, _equation(term))
                return
            else:
                yield Try(depth, line)


def _results(a: Term, b: Term) -> Iterator[tuple[str, Term]]:
    """The calculations allowed on a pair with a >= b, each with the term it leaves."""
    (x, left), (y, right) = a, b
    results = {"+": x + y, "-": x - y, "*": x * y, "/": x // y if y and x % y == 0 else LIMIT}
    for sign, result in results.items():
        if result < LIMIT:
            yield f"{x} {sign} {y} = {result}", (result, f"({left} {sign} {right})")


@dataclass(frozen=True)
class Countdown(VerifiableTask):
    """`trace_tokens`: the shortest and the longest search, which is how hard the puzzle is. `trace`: whether the answer
    shows the search. Worked puzzles fill the prompt."""

    name: ClassVar[str] = "countdown"
    targets: ClassVar[tuple[str, ...]] = ("answer",)
    trace_tokens: Sequence[int] = (300, 2100)
    trace: bool = True
    split: str = "train"

    def __post_init__(self) -> None:
        check_range("trace_tokens", self.trace_tokens, 20, 100_000)
        check_split(self.split)

    def make(self, rng: Random, room: Room) -> Item:
        seen = set[str]()
        numbers, target, tries = self._puzzle(rng, room, seen)
        task = TASK.format(numbers=_listed(numbers), target=target)
        question = " ".join([task, *([SEARCH] if self.trace else []), EQUATION])
        worked = self._worked(rng, room, room.tokens - room.tokenizer.count(question), seen)
        short: list[str] = []  # puzzles without their search, to fill what is left

        def build(more: int, attempt: int) -> Item:
            while len(short) < more + attempt:
                short.append(self._solved(rng, seen))
            return Item(
                context="\n\n".join([*short[attempt : attempt + more], *worked]),
                question=question,
                answer=_answer(tries, self.trace),
                check={"numbers": numbers, "target": target, "trace": self.trace},
                details={"tries": len(tries), "examples": more + len(worked)},
            )

        return grow(build, room, least=0)

    def _puzzle(self, rng: Random, room: Room, seen: set[str]) -> tuple[list[int], int, list[Try]]:
        """A puzzle that is not in `seen`, and its search of the wanted length."""
        low, high = self.trace_tokens
        for _ in range(_TRIES):
            numbers, target = _numbers(rng), rng.randint(*TARGETS)
            tries = list(islice(search(numbers, target), high // 5))  # no line has fewer than five tokens
            if tries[-1].solved is None or not self._fresh(numbers, target, seen):
                continue
            if low <= room.tokenizer.count(_trace(tries)) <= high:
                return numbers, target, tries
        raise ValueError(f"no puzzle found whose search has {low} to {high} tokens")

    def _worked(self, rng: Random, room: Room, budget: int, seen: set[str]) -> list[str]:
        """Puzzles with their search, as many as fit."""
        worked: list[str] = []
        while self.trace and budget > self.trace_tokens[1] + 100:
            numbers, target, tries = self._puzzle(rng, room, seen)
            worked.append(_example(numbers, target, _answer(tries, True)))
            budget -= room.tokenizer.count(worked[-1])
        return worked

    def _solved(self, rng: Random, seen: set[str]) -> str:
        """A puzzle with its solution only, found by combining numbers at random."""
        while True:
            numbers = _numbers(rng)
            terms: list[Term] = [(number, str(number)) for number in numbers]
            while len(terms) > 1:
                x, y = sorted(rng.sample(range(len(terms)), 2), key=lambda at: -terms[at][0])
                made = rng.choice([term for _, term in _results(terms[x], terms[y])])  # a - b is always among them
                terms = [made, *(terms[at] for at in range(len(terms)) if at not in (x, y))]
            if TARGETS[0] <= terms[0][0] <= TARGETS[1] and self._fresh(numbers, terms[0][0], seen):
                return _example(numbers, terms[0][0], f"<equation>{_equation(terms[0])}</equation>")

    def _fresh(self, numbers: list[int], target: int, seen: set[str]) -> bool:
        """Is the puzzle of this split, and not in `seen`? Then it is from now on."""
        key = f"{sorted(numbers)} {target}"
        if key in seen or not in_split(key, self.split):
            return False
        seen.add(key)
        return True

    def verify(self, check: Mapping[str, Any], answer: str) -> bool:
        equation = tagged(answer, "equation")
        if equation is None or not valid_equation(equation, list(check["numbers"]), check["target"]):
            return False
        if not check["trace"]:
            return True
        lines = [line.rstrip() for line in (tagged(answer, "search") or "").splitlines()]
        return lines == [one.line for one in search(list(check["numbers"]), check["target"])]

    def corrupt(self, item: Item, rng: Random) -> str:
        tries = list(search(list(item.check["numbers"]), item.check["target"]))
        if item.check["trace"] and len(tries) > 1 and rng.random() < 0.5:
            del tries[rng.randrange(len(tries) - 1)]
            return _answer(tries, True)
        equation = tries[-1].solved
        assert equation is not None
        while True:
            at = rng.choice(list(re.finditer(r"\d+|[-+*/]", equation.partition("=")[0])))
            new = str(rng.randint(1, LARGEST_NUMBER)) if at[0].isdigit() else rng.choice("+-*/")
            changed = equation[: at.start()] + new + equation[at.end() :]
            if not valid_equation(changed, list(item.check["numbers"]), item.check["target"]):
                return _answer([*tries[:-1], Try(tries[-1].depth, tries[-1].text, changed)], item.check["trace"])

    def solve(self, item: Item) -> str:
        asked = _ASKED.search(item.question)
        assert asked is not None
        tries = list(search([int(number) for number in asked[1].split(", ")], int(asked[2])))
        return _answer(tries, "<search>" in item.question)


def _numbers(rng: Random) -> list[int]:
    return [rng.randint(1, LARGEST_NUMBER) for _ in range(4)]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _equation(term: Term) -> str:
    return f"{term[1].removeprefix('(').removesuffix(')')} = {term[0]}"


def _trace(tries: list[Try]) -> str:
    return "\n".join(one.line for one in tries)


def _answer(tries: list[Try], trace: bool) -> str:
    equation = f"<equation>{tries[-1].solved}</equation>"
    return f"<search>\n{_trace(tries)}\n</search>\n{equation}" if trace else equation


def _example(numbers: list[int], target: int, answer: str) -> str:
    return f"{EXAMPLE.format(numbers=_listed(numbers), target=target)}\n{answer}"


def valid_equation(text: str, numbers: list[int], target: int) -> bool:
    """Does `text`, like `(8 + 2) * 5 - 1 = 49`, make the target of exactly these numbers by allowed results?"""
    left, equals, right = text.partition("=")
    if not equals or right.strip() != str(target) or _CHARACTERS.fullmatch(left.strip()) is None:
        return False
    try:
        tree = ast.parse(left.strip(), mode="eval").body
        used: list[int] = []
        return _value(tree, used) == target and sorted(used) == sorted(numbers)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _value(node: ast.expr, used: list[int]) -> int:
    """The value of an expression; adds its numbers to `used`. ValueError: something in it is not allowed."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return node.value
    if not isinstance(node, ast.BinOp):
        raise ValueError("not a calculation")
    a, b = _value(node.left, used), _value(node.right, used)
    if isinstance(node.op, ast.Add):
        result = a + b
    elif isinstance(node.op, ast.Sub):
        result = a - b
    elif isinstance(node.op, ast.Mult):
        result = a * b
    elif isinstance(node.op, ast.Div) and b != 0 and a % b == 0:
        result = a // b
    else:
        raise ValueError("not an allowed calculation")
    if not 0 <= result < LIMIT:
        raise ValueError("out of bounds")
    return result
