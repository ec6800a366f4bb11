"""The recipe: the YAML file that says what to build, as pydantic models told apart by literals.

Paths in a recipe are relative to the recipe's own folder. Unknown keys are refused with a suggestion.
"""

from pydantic import model_validator

from schemas.curation import Curate
from schemas.engines import EngineConfig, OpenAIEngine
from schemas.export import Export
from schemas.methods import MethodConfig
from schemas.mix import Mix
from schemas.model import Model, Slug, suggestion
from schemas.pack import Pack
from schemas.scores import (
    DocumentScorer,
    Evidence,
    Gateau,
    Judge,
    JudgeScorer,
    ModelScorer,
    OneModel,
    RefLogps,
    ScoreConfig,
)
from schemas.select import Select, place_of
from schemas.sources import AnySource
from schemas.tokenise import Tokenise

_WEIGHTS = ("model", "revision", "adapter")  # keys of an engine that say which weights answer


class Recipe(Model):
    """What to build. Stages run in this order: ingest, curate, generate, score, select (each in turn), tokenise, mix,
    pack, export."""

    name: Slug
    description: str = ""
    seed: int = 0
    tokenizer: str | None = None  # counts documents.tokens: a model reference or tiktoken:NAME; null: not counted
    documents: tuple[AnySource, ...] = ()
    instructions: tuple[AnySource, ...] = ()
    curate: Curate | None = None
    engines: dict[Slug, EngineConfig] = {}
    generate: tuple[MethodConfig, ...] = ()
    score: tuple[ScoreConfig, ...] = ()
    select: tuple[Select, ...] = ()
    tokenise: tuple[Tokenise, ...] = ()
    mix: tuple[Mix, ...] = ()
    pack: tuple[Pack, ...] = ()
    export: tuple[Export, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if not self.documents and not self.instructions and all(g.input != "nothing" for g in self.generate):
            raise ValueError("needs at least one source under 'documents' or 'instructions'")
        for what, names in (
            ("source", [s.name for s in (*self.documents, *self.instructions)]),
            ("generate", [g.name for g in self.generate]),
            ("score", [s.name for s in self.score]),
            ("select", [s.name for s in self.select]),
            ("tokenise", [t.name for t in self.tokenise]),
            ("mix", [m.name for m in self.mix]),
            ("pack", [p.name for p in self.pack]),
            ("export", [e.name for e in self.export]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"the {what} name {twice[0]!r} is used twice")
        self._check_curate()
        for generator in self.generate:
            self._check_engines(generator)
            self._check_sources(generator)
        for number, score in enumerate(self.score):
            self._check_score(score, self.score[:number])
        for select in self.select:
            self._check_select(select)
        for tokenise in self.tokenise:
            self._check_tokenise(tokenise)
        for mix in self.mix:
            self._check_reads_tokens(mix)
        for pack in self.pack:
            self._check_reads_tokens(pack)
        methods = {generator.method for generator in self.generate}
        for export in self.export:
            for method in export.methods or ():
                if method not in methods:
                    raise ValueError(
                        f"export {export.name!r}: no step under 'generate' has the method {method!r}"
                        f"{suggestion(method, methods)}"
                    )
            self._check_indicator(export)
            self._check_selection(export)
            self._check_tokens(export)
            if "longpo" in export.configs and "longpo" not in (export.methods or methods):
                what = "'generate'" if export.methods is None else "its 'methods'"
                raise ValueError(f"export {export.name!r}: the config 'longpo' needs the method 'longpo' under {what}")
        return self

    def token_entries(self, of: tuple[str, ...]) -> tuple[str, ...]:
        """The names of the `tokenise` entries that an entry's `of` means: without any, all."""
        return of or tuple(entry.name for entry in self.tokenise)

    def _check_curate(self) -> None:
        if self.curate is None:
            return
        if not self.documents:
            raise ValueError("'curate' judges documents, and the recipe has none")
        for rule in self.curate.rules:
            self._check_offered(f"curate, rule {rule.rule!r}", "documents", rule.sources)

    def _check_select(self, select: Select) -> None:
        if select.ranking is None:
            return
        try:
            place_of(select.ranking.by, select.rows, {score.name: score.scorer for score in self.score})
        except ValueError as error:
            what, word, known = error.args
            raise ValueError(f"select {select.name!r}: {what}{suggestion(word, known)}") from error

    def _check_tokenise(self, entry: Tokenise) -> None:
        who = f"tokenise {entry.name!r}"
        if entry.tokenizer is None and self.tokenizer is None:
            raise ValueError(f"{who}: needs a 'tokenizer', its own or the recipe's")
        if entry.rows == "documents":
            self._check_offered(who, "documents", entry.sources)
            return
        made = {str(generator.method) for generator in self.generate}
        if not made:
            raise ValueError(f"{who} reads samples, and the recipe generates none")
        for method in entry.methods or ():
            if method not in made:
                raise ValueError(f"{who}: no step under 'generate' has the method {method!r}{suggestion(method, made)}")
        chosen = {select.name for select in self.select if select.rows == "samples"}
        if entry.select is not None and entry.select not in chosen:
            close = suggestion(entry.select, chosen)
            raise ValueError(f"{who}: no selection of samples {entry.select!r} under 'select'{close}")

    def _check_reads_tokens(self, entry: Mix | Pack) -> None:
        who = f"{type(entry).__name__.lower()} {entry.name!r}"
        if not self.tokenise:
            raise ValueError(f"{who} reads tokens, and the recipe has nothing under 'tokenise'")
        known = {one.name: one for one in self.tokenise}
        for name in entry.of:
            if name not in known:
                raise ValueError(f"{who}: no entry {name!r} under 'tokenise'{suggestion(name, known)}")
        read = [known[name] for name in entry.of or known]
        if isinstance(entry, Mix):
            self._check_mixed(entry, read)
        elif entry.mix is not None and entry.mix not in {mix.name for mix in self.mix}:
            close = suggestion(entry.mix, [mix.name for mix in self.mix])
            raise ValueError(f"{who}: no mix {entry.mix!r} under 'mix'{close}")

    def _check_mixed(self, mix: Mix, read: list[Tokenise]) -> None:
        """Every source and method that a mix names is tokenised."""
        sources = {source.name for source in self.documents}
        methods = {str(generator.method) for generator in self.generate}
        offered = {
            "source": {name for one in read if one.rows == "documents" for name in one.sources or sources},
            "method": {name for one in read if one.rows == "samples" for name in one.methods or methods},
        }
        for part in mix.plan:
            for kind, names in (("source", part.sources), ("method", part.methods)):
                for name in names:
                    if name not in offered[kind]:
                        close = suggestion(name, offered[kind])
                        raise ValueError(f"mix {mix.name!r}: no {kind} {name!r} among what is tokenised{close}")

    def _check_selection(self, export: Export) -> None:
        if export.select is None:
            return
        known = {select.name: select.rows for select in self.select}
        if export.select not in known:
            close = suggestion(export.select, known)
            raise ValueError(f"export {export.name!r}: no selection {export.select!r} under 'select'{close}")
        kind = known[export.select]
        config = {"samples": "sft", "preferences": "preference"}[kind]
        other = sorted(set(export.configs) - {"documents", config})
        if other or config not in export.configs:
            raise ValueError(
                f"export {export.name!r}: {export.select!r} selects {kind}, for the config {config!r}"
                f"{f', not {other[0]!r}' if other else ''}"
            )

    def _check_tokens(self, export: Export) -> None:
        packs = {pack.name for pack in self.pack}
        if "packed" in export.configs and export.pack not in packs:
            close = suggestion(export.pack or "", packs)
            raise ValueError(
                f"export {export.name!r}: no entry {export.pack!r} under 'pack' for the config 'packed'{close}"
            )
        known = {one.name for one in self.tokenise}
        if "tokenised" in export.configs and not known:
            raise ValueError(f"export {export.name!r}: the config 'tokenised' needs an entry under 'tokenise'")
        for name in export.of:
            if name not in known:
                raise ValueError(f"export {export.name!r}: no entry {name!r} under 'tokenise'{suggestion(name, known)}")

    def _check_indicator(self, export: Export) -> None:
        if export.indicator is None:
            return
        known = [score.name for score in self.score if score.scorer == "context_dependency"]
        if export.indicator.score not in known:
            wanted = export.indicator.score
            raise ValueError(
                f"export {export.name!r}: its indicator needs a score entry {wanted!r} with the scorer "
                f"'context_dependency'{suggestion(wanted, known)}"
            )
        if "sft" not in export.configs:
            raise ValueError(f"export {export.name!r}: an indicator is for the config 'sft'")

    def _check_engines(self, generator: MethodConfig) -> None:
        for step, sampling in generator.steps.items():
            name = generator.engine_of(step)
            if name not in self.engines:
                close = suggestion(name, self.engines)
                raise ValueError(f"generate {generator.name!r}: no engine {name!r} under 'engines'{close}")
            served = self.engines[name]
            if isinstance(served, OpenAIEngine) and getattr(generator, "train", None) is not None:
                raise ValueError(
                    f"generate {generator.name!r}: trains its model, which must be an engine of this machine (vllm, "
                    f"transformers or auto); {name!r} is a server"
                )
            if not isinstance(served, OpenAIEngine) or served.server != "openai":
                continue
            if sampling.top_k or sampling.repetition_penalty != 1.0:
                raise ValueError(
                    f"generate {generator.name!r}: sampling.{step} asks for top_k or repetition_penalty, which "
                    f"engine {name!r} (server: openai) cannot do"
                )
            if generator.continues:
                raise ValueError(
                    f"generate {generator.name!r}: method {generator.method!r} continues answers that it begins, which "
                    f"engine {name!r} (server: openai) cannot do"
                )

    def _check_score(self, score: ScoreConfig, earlier: tuple[ScoreConfig, ...]) -> None:
        if isinstance(score, Gateau):
            for kind, wanted in (("hmg", score.hmg), ("cam", score.cam)):
                known = [other.name for other in earlier if other.scorer == kind]
                if wanted not in known:
                    raise ValueError(
                        f"score {score.name!r}: no entry {wanted!r} with the scorer {kind!r} before it"
                        f"{suggestion(wanted, known)}"
                    )
            return
        if isinstance(score, Evidence):
            return
        if isinstance(score, Judge):
            self._check_judge(score)
        else:
            self._check_score_engines(score)
        if isinstance(score, DocumentScorer):
            self._check_offered(f"score {score.name!r}", "documents", score.sources)
            return
        made = {generator.method for generator in self.generate}
        for method in score.methods or ():
            if method not in made:
                raise ValueError(
                    f"score {score.name!r}: no step under 'generate' has the method {method!r}"
                    f"{suggestion(method, made)}"
                )
        if isinstance(score, RefLogps):
            self._check_reference(score, [other for other in earlier if isinstance(other, RefLogps)])

    def _check_judge(self, score: JudgeScorer) -> None:
        for step, sampling in score.steps.items():
            name = score.step_engines.get(step, score.engine)
            if name not in self.engines:
                close = suggestion(name, self.engines)
                raise ValueError(f"score {score.name!r}: no engine {name!r} under 'engines'{close}")
            served = self.engines[name]
            hosted = isinstance(served, OpenAIEngine) and served.server == "openai"
            if hosted and (sampling.top_k or sampling.repetition_penalty != 1.0):
                raise ValueError(
                    f"score {score.name!r}: sampling.{step} asks for top_k or repetition_penalty, which engine "
                    f"{name!r} (server: openai) cannot do"
                )

    def _check_score_engines(self, score: ModelScorer) -> None:
        leading = (score.engine,) if isinstance(score, OneModel) else ()
        for name in (*leading, *score.local_engines):
            if name not in self.engines:
                close = suggestion(name, self.engines)
                raise ValueError(f"score {score.name!r}: no engine {name!r} under 'engines'{close}")
        for name in score.local_engines:
            if isinstance(self.engines[name], OpenAIEngine):
                raise ValueError(f"score {score.name!r}: engine {name!r} must be of this machine, not a server")
        if not isinstance(score, OneModel):
            return
        engine = self.engines[score.engine]
        if isinstance(engine, OpenAIEngine) and score.model is None:
            raise ValueError(
                f"score {score.name!r}: engine {score.engine!r} is a server, which gives no log-probabilities of given "
                "answers; name the model it serves under 'model' (a folder, a hub name or wheel:NAME)"
            )
        if not isinstance(engine, OpenAIEngine) and score.model is not None:
            raise ValueError(
                f"score {score.name!r}: 'model' is for engines that are servers; engine {score.engine!r} names its own"
            )

    def _check_reference(self, score: RefLogps, earlier: list[RefLogps]) -> None:
        for other in earlier:  # a preference has one pair of numbers
            if score.methods is None or other.methods is None or set(score.methods) & set(other.methods):
                raise ValueError(f"score {score.name!r} and {other.name!r} score the same preferences")
        for generator in self.generate:
            writer = None if generator.engine is None else self.engines[generator.engine]
            if score.reads(generator.method) and (
                writer is None or not same_weights(writer, self.engines[score.engine])
            ):
                raise ValueError(
                    f"score {score.name!r}: the reference must be the model that wrote the answers: generate "
                    f"{generator.name!r} uses engine {generator.engine!r}, not {score.engine!r}"
                )

    def _check_sources(self, generator: MethodConfig) -> None:
        kind = "documents" if generator.input == "nothing" else generator.input  # to hide things in, if anything
        optional = generator.input == "nothing"
        self._check_offered(f"generate {generator.name!r}", kind, generator.sources, optional)
        try:
            generator.check_sources(self.documents, self.instructions)
        except ValueError as error:
            raise ValueError(f"generate {generator.name!r}: {error}") from error

    def _check_offered(self, who: str, kind: str, sources: tuple[str, ...] | None, optional: bool = False) -> None:
        """Has the recipe what this entry reads?"""
        offered = {s.name for s in getattr(self, kind)}
        if not offered and not optional:
            raise ValueError(f"{who} reads {kind}, and the recipe has none")
        for name in sources or ():
            if name not in offered:
                raise ValueError(f"{who}: no source {name!r} under {kind!r}{suggestion(name, offered)}")


def same_weights(one: EngineConfig, other: EngineConfig) -> bool:
    return all(getattr(one, key, None) == getattr(other, key, None) for key in _WEIGHTS)
