"""Countdown (LongProc, arXiv 2501.05414): reach a number from four others, with the whole depth-first search as trace."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from random import Random
from typing import Any, ClassVar

from generators.tasks.base import Item, Room, VerifiableTask
from generators.tasks.filling import fill, tagged

LARGEST_NUMBER = 49
TARGETS = (10, 50)
LIMIT = 2000  # results stay below it
_TRIES = 2000  # puzzles drawn for one of the wanted trace length

TASK = (
    "Combine the numbers {numbers} with +, -, * and / to get {target}. Each number is used exactly once; every result on "
    "the way is a whole number, at least 0 and below 2000."
)
EQUATION = (
    "Give the solution as one equation between <equation> and </equation>, with parentheses where they are needed and "
    "the target after the equals sign, like <equation>(8 + 2) * 5 - 1 = 49</equation>."
)
SEARCH = (
    "First write down the search between <search> and </search>. Keep the numbers in falling order. Take the pairs of "
    "them in order: first and second, first and third, and so on, then second and third, and so on. With a pair a and b "
    "(a before b) try a + b, a - b, a * b and a / b in this order; leave out a division by 0 or with a remainder, and a "
    "result of 2000 or more. Write each try on a line of its own: two spaces for every try that it builds on, the "
    "calculation, then the numbers that are left, as in `8 + 2 = 10 | 10 5 1`. While more than one number is left go on "
    "with these before the next try; stop at the first try that leaves only the target."
)
EXAMPLE = "Puzzle: get {target} from {numbers}."
_ASKED = re.compile(r"Combine the numbers ([\d, ]+) with .* to get (\d+)\.")
_CHARACTERS = re.compile(r"[\d+*/() -]{1,200}")


@dataclass(frozen=True, slots=True)
class Try:
    """One calculation of the search. `depth`: on how many others it builds. `solved`: the equation, where this is it."""

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


class Countdown(VerifiableTask):
    """`trace_tokens`: the shortest and the longest search, which is how hard the puzzle is. `trace`: whether the answer
    shows the search. Worked puzzles fill the prompt."""

    name: ClassVar[str] = "countdown"

    def __init__(self, trace_tokens: tuple[int, int] = (300, 2100), trace: bool = True) -> None:
        if not 1 <= trace_tokens[0] <= trace_tokens[1]:
            raise ValueError(f"trace_tokens: {trace_tokens[0]} to {trace_tokens[1]} is no range")
        self.trace_tokens, self.trace = trace_tokens, trace

    def make(self, rng: Random, room: Room) -> Item:
        numbers, target, tries = self._puzzle(rng, room, set())
        task = TASK.format(numbers=", ".join(map(str, numbers)), target=target)
        question = " ".join([task, *([SEARCH] if self.trace else []), EQUATION])
        seen = {(tuple(sorted(numbers)), target)}
        examples = self._examples(rng, room, room.tokens - room.tokenizer.count(question), seen)
        # Puzzles without their search are short enough to fill what is left.
        short = [_solved(rng, seen) for _ in range(self._most_short(room))]

        def context(more: int) -> str:
            return "\n\n".join([*short[:more], *examples])

        more = fill(lambda n: f"{context(n)}\n\n{question}" if n or examples else question, room, len(short))
        return Item(
            context=context(more),
            question=question,
            answer=_answer(tries, self.trace),
            check={"numbers": numbers, "target": target, "trace": self.trace},
            details={"tries": len(tries), "examples": more + len(examples)},
        )

    def _puzzle(self, rng: Random, room: Room, seen: set[Any]) -> tuple[list[int], int, list[Try]]:
        """A puzzle that is not in `seen`, and its search of the wanted length."""
        low, high = self.trace_tokens
        for _ in range(_TRIES):
            numbers, target = [rng.randint(1, LARGEST_NUMBER) for _ in range(4)], rng.randint(*TARGETS)
            tries = list(islice(search(numbers, target), high // 5))  # no line has fewer than five tokens
            if not tries or tries[-1].solved is None or (tuple(sorted(numbers)), target) in seen:
                continue
            if low <= room.tokenizer.count(_trace(tries)) <= high:
                seen.add((tuple(sorted(numbers)), target))
                return numbers, target, tries
        raise ValueError(f"no puzzle found whose search has {low} to {high} tokens")

    def _example(numbers: list[int], target: int, answer: str) -> str:
    return f"{EXAMPLE.format(numbers=', '.join(map(str, numbers)), target=target)}\n{answer}"


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
