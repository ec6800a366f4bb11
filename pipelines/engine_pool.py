"""The engines of a run: started when first needed, kept while stages use them, one local model at a time."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from generators.base import Tokenizer
from generators.engines import create_engine
from generators.engines.base import Engine
from generators.engines.none import NoEngine
from generators.ledger import Ledger
from generators.models import load_tokenizer, model_window, resolve_model
from generators.runner import Runner
from pipelines.scorer_process import ScorerConfig, ScorerProcess
from schemas.engines import EngineConfig, LocalEngine, OpenAIEngine
from schemas.errors import UserError
from schemas.recipe import Recipe

MakeEngine = Callable[[EngineConfig, Path, Path | None], Engine]


class EnginePool:
    """Runners by the names that a recipe gives its engines. `make_engine` is exchanged by tests."""

    def __init__(
        self,
        recipe: Recipe,
        base_dir: Path,
        ledger_path: Path,
        log_dir: Path | None = None,
        make_engine: MakeEngine = create_engine,
    ) -> None:
        self.recipe, self.base_dir, self.log_dir = recipe, base_dir, log_dir
        self.configs = dict(recipe.engines)  # a stage may add engines that it has trained
        self._ledger_path, self._make_engine = ledger_path, make_engine
        self._ledger: Ledger | None = None
        self._engines: dict[str, Engine] = {}
        self._runners: dict[str | None, Runner] = {}
        self._scorer: ScorerProcess | None = None
        self._changing = asyncio.Lock()  # units of a stage ask for their runner at the same time

    def engine(self, name: str) -> Engine:
        """The engine, not yet started: enough to ask for its identity."""
        if name not in self._engines:
            self._engines[name] = self._make_engine(self.configs[name], self.base_dir, self.log_dir)
        return self._engines[name]

    def tokenizer(self, name: str | None) -> Tokenizer:
        """The tokenizer of an engine's model; without an engine the recipe's own."""
        if name is None:
            if self.recipe.tokenizer is None:
                raise UserError(
                    "tokenizer: methods without an engine measure texts in tokens, so the recipe must name one"
                )
            return load_tokenizer(self.recipe.tokenizer, self.base_dir)
        config = self.configs[name]
        if not isinstance(config, OpenAIEngine):
            # A pinned revision has its own tokenizer: that of its folder.
            pinned = config.revision is not None
            return load_tokenizer(str(self._folder(config)) if pinned else config.model, self.base_dir)
        if config.tokenizer is None:
            raise UserError(
                f"engines.{name}.tokenizer: documents are measured in tokens; name the served model's folder, its hub "
                "name, or tiktoken:o200k_base"
            )
        return load_tokenizer(config.tokenizer, self.base_dir)

    async def window(self, name: str) -> int:
        """Tokens of prompt and answer together. Asks the server only where neither recipe nor model says it."""
        config = self.configs[name]
        if config.max_model_len is not None:
            return config.max_model_len
        if isinstance(config, OpenAIEngine):
            return (await self.engine(name).start()).max_model_len
        return model_window(self._folder(config))

    def _folder(self, config: LocalEngine) -> Path:
        return resolve_model(config.model, self.base_dir, config.revision).path

    def facts(self, name: str | None) -> dict[str, Any]:
        """What of an engine changes the rows a stage makes; nothing is started or asked."""
        if name is None:
            return {"tokenizer": self.recipe.tokenizer}
        config, identity = self.configs[name], self.engine(name).identity
        facts = {"model": identity.model, "revision": identity.revision, "settings": identity.settings}
        if isinstance(config, OpenAIEngine):
            return {**facts, "tokenizer": config.tokenizer, "max_model_len": config.max_model_len}
        return {**facts, "max_model_len": config.max_model_len or model_window(self._folder(config))}

    async def runner(self, name: str | None, *beside: str) -> Runner:
        """The runner of an engine, or of none. Local engines other than this one and those `beside` it are closed
        first, since two models seldom fit one GPU."""
        async with self._changing:
            if name not in self._runners:
                if name is not None and self._is_local(name):
                    await self._close_local(keep={name, *beside})
                    await self._close_scorer()
                if self._ledger is None:
                    self._ledger = Ledger(self._ledger_path)
                engine = NoEngine() if name is None else self.engine(name)
                window = 0 if name is None else await self.window(name)
                self._runners[name] = Runner(engine, self._ledger, window, self.tokenizer(name), self.recipe.seed)
            return self._runners[name]

    async def runners(
        self, name: str | None, steps: Mapping[str, str], note: Callable[[str], None]
    ) -> tuple[Runner, dict[str, Runner]]:
        """The runner of an engine, and by step those of the steps that another one answers. `note` is told why their
        requests wait."""
        beside = set(steps.values())
        runner = await self.runner(name, *beside)
        keep = (*beside, *([name] if name is not None else []))
        others = {one: await self.runner(one, *keep) for one in sorted(beside)}
        for one in (runner, *others.values()):
            one.note = note
        return runner, {step: others[one] for step, one in steps.items()}

    async def scorer(self, config: ScorerConfig) -> ScorerProcess:
        """The scoring process of a model. All local engines and another model's scorer are closed first."""
        async with self._changing:
            await self._close_local(keep=set())
            if self._scorer is None or self._scorer.config != config or not self._scorer.alive:
                await self._close_scorer()
                self._scorer = ScorerProcess(config, self.log_dir)
            return self._scorer

    async def _close_scorer(self) -> None:
        if self._scorer is not None:
            scorer, self._scorer = self._scorer, None
            await scorer.close()

    async def release(self) -> None:
        """Close all local models: a training needs their memory. They start again when they are asked."""
        async with self._changing:
            await self._close_local(keep=set())
            await self._close_scorer()

    def _is_local(self, name: str) -> bool:
        return not isinstance(self.configs[name], OpenAIEngine)

    async def _close_local(self, keep: set[str]) -> None:
        for name in [name for name in self._runners if name is not None and name not in keep and self._is_local(name)]:
            del self._runners[name]
            await self._engines.pop(name).close()

    async def close(self) -> None:
        await self._close_scorer()
        for engine in self._engines.values():
            await engine.close()
        self._engines.clear()
        self._runners.clear()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
