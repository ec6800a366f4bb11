"""The stages of Self-Lengthen: instructions, answers, extensions, training data, training; again; demands on length.

Iteration t asks the models that iteration t-1 has trained. New instructions and demands on length are always the
recipe's own model's: a model that was trained to write at length is no better judge.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from filters.lengthening import keep_chances, pieces
from filters.near_duplicates import NearDuplicates
from generators.base import Cost
from generators.prompts import render
from generators.runner import Outcome, Runner, Task
from generators.self_lengthen import Draft, Finished, SelfLengthen, Slot
from pipelines.code_version import code_version
from pipelines.engine_pool import EnginePool
from pipelines.generate import GenerateStage, messages_column
from pipelines.manifest import UnitRecord
from pipelines.rows import Candidate, Draw, candidates, draw
from pipelines.shards import Part, Row, open_part, read_part, write_rows
from pipelines.stages import Context, Stage, Unit
from pipelines.train_stage import TrainStage, model_folder, trained_engine
from schemas.errors import UserError
from schemas.ids import canonical_json, content_id, derive_seed, digest
from schemas.methods.self_lengthen import SelfLengthen as Config
from schemas.rows import Instruction
from schemas.states import State


def stages(config: Config, engines: EnginePool) -> list[Stage]:
    found: list[Stage] = []
    for iteration in range(1, config.iterations + 1):
        found += [kind(config, engines, iteration) for kind in (InstructionsStage, AnswersStage, ExtendStage)]
        found.append(DataStage(config, iteration))
        if config.train is not None:
            found.append(TrainStage(config, engines, iteration))
    if config.length_control is not None:
        found.append(LengthStage(config, engines, config.iterations))
    return found


class _Stage(GenerateStage):
    """One step of one iteration. `kind` ends its name; `role`: which trained model it asks, if any."""

    late = True
    kind: ClassVar[str]
    role: ClassVar[str | None] = None
    config: Config
    generator: SelfLengthen

    def __init__(self, config: Config, engines: EnginePool, iteration: int) -> None:
        super().__init__(config, engines)
        self.iteration = iteration
        self.name = self.stage_name(self.kind)
        self._recipe_config = config
        if self.role is not None and iteration > 1:
            self.config = config.model_copy(update={"engine": f"{config.name}.{iteration}.{self.role}"})

    def stage_name(self, kind: str, iteration: int | None = None) -> str:
        return f"generate.{self.config.name}.{iteration or self.iteration}.{kind}"

    def settings(self, context: Context) -> dict[str, Any]:
        if self.role is not None and self.iteration > 1:
            context.upstream(f"train.{self.config.name}.{self.iteration - 1}")
            base = self.engines.recipe.engines[self._recipe_config.engine]
            folder = model_folder(context.workspace, self.config.name, self.iteration - 1, self.role)
            self.engines.configs[self.config.engine] = trained_engine(base, folder)
        found = super().settings(context)
        # A trained model tells by its revision how it was trained, and the rows tell how many there are.
        for name in ("train", "iterations", "instructions"):
            del found[name]
        own = code_version("pipelines/self_lengthen.py", "pipelines/train_stage.py")
        return {**found, "iteration": self.iteration, "stage_code": own}

    def expected(self) -> tuple[int, Cost]:
        return self.generator.cost_of(self.kind, self.iteration)


class InstructionsStage(_Stage):
    """New instructions. One unit: whether one is a near-duplicate depends on all before it."""

    kind = "instructions"

    def settings(self, context: Context) -> dict[str, Any]:
        known = [one.instruction_id for one in self._known(context)]
        return {**super().settings(context), "known": digest(known)}

    def _known(self, context: Context, with_earlier: bool = True) -> list[Instruction]:
        """The seeds, and what earlier iterations have found."""
        sources = set(self.config.sources) if self.config.sources is not None else None
        found = _instructions(context, context.upstream("ingest").parts("instructions"), sources)
        for iteration in range(1, self.iteration) if with_earlier else ():
            parts = context.upstream(self.stage_name(self.kind, iteration)).parts("instructions")
            found += _instructions(context, parts, None)
        return found

    def draws(self, context: Context) -> list[Draw]:
        if len(self._known(context, with_earlier=False)) < 2:
            raise UserError(f"generate {self.config.name!r}: needs at least two instructions to start from")
        slots = min(count for count in (self.config.instructions, context.limit) if count is not None)
        place = Candidate(f"{self.config.name}.{self.iteration}", self.config.name, "", 0, "", 0)
        return [Draw(place, number) for number in range(slots)]

    def tasks(self, draws: list[Any], context: Context) -> Iterator[Task]:
        pool: dict[str, list[Instruction]] = {}
        for one in self._known(context, with_earlier=False):
            pool.setdefault(one.language, []).append(one)
        for one in draws:
            yield Task(one.row_id, Slot(pool, self.iteration, self.config.name))

    def settle(self, outcomes: list[Outcome], context: Context) -> None:
        seen = NearDuplicates(self.config.near_duplicate)
        for one in self._known(context):
            seen.is_new(one.text)
        for outcome in outcomes:
            for sample in outcome.samples:
                text = sample.messages[0][1]
                if not seen.is_new(text):
                    outcome.state, outcome.reason, outcome.detail = State.FILTERED, "near_duplicate", text
                    outcome.records = []

    def write(self, unit: Unit, outcomes: list[Outcome], runner: Runner, context: Context) -> UnitRecord:
        found = [_instruction_row(sample, self.config.name) for o in outcomes for sample in o.samples]
        for outcome in outcomes:
            outcome.records = []  # an instruction is no sample
        record = super().write(unit, outcomes, runner, context)
        record.parts += write_rows(context.workspace.root, "instructions", f"{self.name}-{unit.key}", found)
        return record


class AnswersStage(_Stage):
    """Initial answers to the instructions of this iteration."""

    kind = "answers"
    role = "generator"

    def draws(self, context: Context) -> list[Draw]:
        parts = context.upstream(self.stage_name("instructions")).parts("instructions")
        found = candidates(context.workspace.root, parts, "instruction_id", None)
        return draw(found, self.config.answers, None, False, 0)


@dataclass(frozen=True, slots=True)
class Job(Draw):
    dropped: bool = False


class ExtendStage(_Stage):
    """Extensions of the initial answers, without the short ones."""

    kind = "extend"
    role: ClassVar[str | None] = "extender"
    row: ClassVar[type[Draft]] = Draft

    def draws(self, context: Context) -> list[Draw]:
        found = _samples(context, context.upstream(self.stage_name("answers")).parts("samples"))
        kept = keeps(found, self.config, derive_seed(context.recipe.seed, self.name))
        jobs: list[Draw] = []
        for one, keep in zip(found, kept, strict=True):
            jobs += [Job(one, number) for number in range(self.config.extensions)] if keep else [Job(one, 0, True)]
        return jobs

    def facts_of(self, one: Draw) -> list[Any]:
        return [*super().facts_of(one), isinstance(one, Job) and one.dropped]

    def tasks(self, draws: list[Any], context: Context) -> Iterator[Task]:
        for one, row in _load_samples(context, draws):
            (_, instruction), (_, text) = ((m["role"], m["content"]) for m in row["messages"])
            candidate = one.candidate
            dropped = isinstance(one, Job) and one.dropped
            fields = (candidate.row_id, instruction, text, candidate.source, candidate.language, row["details"])
            yield Task(one.row_id, self.row(*fields, dropped))


class LengthStage(ExtendStage):
    """Copies of all samples whose requests demand their length."""

    kind = "length"
    role = None
    row = Finished

    def stage_name(self, kind: str, iteration: int | None = None) -> str:
        if kind == "length":
            return f"generate.{self.config.name}.length"
        return super().stage_name(kind, iteration)

    def draws(self, context: Context) -> list[Draw]:
        names = [self.stage_name(k, t) for t in range(1, self.iteration + 1) for k in ("answers", "extend")]
        parts = [part for name in names for part in context.upstream(name).parts("samples")]
        found = {one.row_id: one for one in _samples(context, parts)}  # a text made twice is one row
        return [Draw(one, 0) for one in found.values()]


class DataStage(Stage):
    """What the two roles are trained on: (request -> extended text) and (request, outline -> extended text)."""

    def __init__(self, config: Config, iteration: int) -> None:
        self.config, self.iteration = config, iteration
        self._prefix = f"generate.{config.name}.{iteration}"
        self.name = f"{self._prefix}.data"

    def settings(self, context: Context) -> dict[str, Any]:
        files = ("pipelines/self_lengthen.py", "filters/*.py", "generators/prompts/self_lengthen/extend.j2")
        return {
            "drop_short": self.config.drop_short,
            "keep_lines": self.config.keep_lines,
            "seed": context.recipe.seed,
            "code": code_version(*files, "schemas/tables.py"),
        }

    def units(self, context: Context) -> list[Unit]:
        found = _samples(context, context.upstream(f"{self._prefix}.extend").parts("samples"))
        facts = [[one.row_id, one.source, one.language] for one in found]
        return [Unit("all", digest([self.settings(context), facts]), len(found), found)]

    async def run(self, number: int, unit: Unit, context: Context) -> UnitRecord:
        found: list[Candidate] = unit.work
        seed = derive_seed(context.recipe.seed, self.name)
        kept = dict(zip((one.row_id for one in found), keeps(found, self.config, seed), strict=True))
        initial = context.upstream(f"{self._prefix}.answers").parts("samples")
        texts = {row["sample_id"]: row["messages"][1]["content"] for _, _, row in _read(context, initial)}
        states: dict[str, int] = {}
        ended: list[Row] = []
        seen: set[str] = set()

        def rows() -> Iterator[Row]:
            for one, row in _load_samples(context, [Draw(one, 0) for one in found]):
                name = one.candidate.row_id
                reason = "drop_short" if not kept[name] else "duplicate_sample" if name in seen else ""
                seen.add(name)
                state = State.FILTERED if reason else State.OK
                states[state.value] = states.get(state.value, 0) + 1
                ended.append({"row_id": name, "stage": self.name, "state": state.value, "reason": reason, "detail": ""})
                if not reason:
                    yield from self._training_rows(row, texts[row["details"]["initial_id"]], seed)
                context.progress.advance(1)

        root, name = context.workspace.root, f"{self.name}-{unit.key}"
        parts: list[Part] = [*write_rows(root, "training", name, rows())]
        parts += write_rows(root, "row_states", name, ended)
        return UnitRecord(unit.fingerprint, parts, len(found), dict(sorted(states.items())))

    def _training_rows(self, row: dict[str, Any], initial: str, seed: int) -> Iterator[Row]:
        request, text = (message["content"] for message in row["messages"])
        outline = thinned(initial, self.config.keep_lines, Random(derive_seed(seed, row["sample_id"])))
        prompts = {
            "generator": request,
            "extender": render("self_lengthen", "extend", {"instruction": request, "outline": outline}),
        }
        for role, prompt in prompts.items():
            messages = messages_column((("user", prompt), ("assistant", text)))
            yield {
                "training_id": content_id("trn", [role, self.iteration, messages]),
                "row_id": row["sample_id"],
                "stage": self.name,
                "role": role,
                "iteration": self.iteration,
                "messages": messages,
                "language": row["language"],
                "details": canonical_json({"initial_id": row["details"]["initial_id"]}),
            }


def thinned(text: str, share: float, rng: Random) -> str:
    """An outline: each piece of a text is kept with that chance, so that the extender learns to add what is missing."""
    lines, joint = pieces(text)
    return joint.join(line for line in lines if rng.random() < share)


def keeps(found: list[Candidate], config: Config, seed: int) -> list[bool]:
    """Which texts drop_short keeps. `tokens` of these candidates are the characters of the answer. Chance is a hash of
    seed and row, so the same texts are kept in every run."""
    if not config.drop_short:
        return [True] * len(found)
    chances = keep_chances([one.tokens for one in found], [one.language for one in found])
    return [derive_seed(seed, one.row_id) / 2**31 < chance for one, chance in zip(found, chances, strict=True)]


# ---------------------------------------------------------------- reading tables


def _read(context: Context, parts: Iterable[Part]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """The samples of some parts with the file and row group they stand in; one row group is in memory at a time."""
    columns = ["sample_id", "source", "language", "messages", "details"]
    for part in parts:
        file = open_part(context.workspace.root / part.file)
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, columns).to_pylist():
                yield part.file, group, {**row, "details": json.loads(row["details"])}


def _samples(context: Context, parts: Iterable[Part]) -> list[Candidate]:
    """Samples as candidates; their `tokens` are characters of the answer."""
    return [
        Candidate(row["sample_id"], row["source"], row["language"], len(row["messages"][-1]["content"]), file, group)
        for file, group, row in _read(context, parts)
    ]


def _load_samples(context: Context, draws: Iterable[Draw]) -> Iterator[tuple[Draw, dict[str, Any]]]:
    """The draws, which stand in the order of their files, with their samples."""
    place: tuple[str, int] | None = None
    held: dict[str, dict[str, Any]] = {}
    for one in draws:
        if place != (one.candidate.file, one.candidate.group):
            place = (one.candidate.file, one.candidate.group)
            columns = ["sample_id", "language", "messages", "details"]
            table = open_part(context.workspace.root / place[0]).read_row_group(place[1], columns)
            held = {row["sample_id"]: {**row, "details": json.loads(row["details"])} for row in table.to_pylist()}
        yield one, held[one.candidate.row_id]


def _instructions(context: Context, parts: Iterable[Part], sources: set[str] | None) -> list[Instruction]:
    rows = [row for part in parts for row in read_part(context.workspace.root / part.file).to_pylist()]
    return [
        Instruction(row["instruction_id"], row["text"], row["source"], row["language"], json.loads(row["metadata"]))
        for row in rows
        if sources is None or row["source"] in sources
    ]


def _instruction_row(sample: Any, source: str) -> Row:
    text = sample.messages[0][1]
    return {
        "instruction_id": content_id("ins", text),
        "text": text,
        "source": source,
        "language": sample.language,
        "metadata": canonical_json(sample.details),
    }
