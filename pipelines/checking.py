"""What `longloom check` looks at: inputs, engines, windows, this machine. Nothing is generated."""

import shutil
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

from generators.base import PROMPT_RESERVE
from pipelines.build import make_stages
from pipelines.engine_pool import EnginePool
from pipelines.runs import versions
from pipelines.score import scored_model
from pipelines.sources import inputs
from pipelines.stages import Context
from schemas.engines import OpenAIEngine
from schemas.errors import UserError
from schemas.scores import Evidence, Gateau, Judge


def check_machine(workspace: Path) -> list[str]:
    """Facts about this machine, one sentence each."""
    free = shutil.disk_usage(next(path for path in (workspace, *workspace.parents) if path.exists())).free
    found = versions()
    gpu = Path("/dev/nvidiactl").exists()
    return [
        f"python {found['python']}, longloom {found.get('longloom', 'not installed as a package')}",
        f"{free / 1e9:.1f} GB of disk free for {workspace}",
        "an NVIDIA GPU is visible" if gpu else "no NVIDIA GPU is visible",
        *(
            f"engine {name}: {'can be used' if find_spec(needs) else f'{needs} is not installed'}"
            for name, needs in (("vllm", "vllm"), ("transformers", "torch"), ("openai", "aiohttp"))
        ),
    ]


async def check_recipe(context: Context, engines: EnginePool) -> AsyncIterator[str]:
    """One sentence for each thing found in order; UserError for the first that is not."""
    make_stages(context.recipe, engines)  # some methods have more to say about their settings
    for kind in ("documents", "instructions"):
        for source in getattr(context.recipe, kind):
            files = inputs(source, context.base_dir)
            size = sum(file.size for file in files)
            yield f"{kind} {source.name!r}: {len(files)} inputs, {size / 1e6:.1f} MB"
    for name in sorted({g.engine_of(step) for g in context.recipe.generate for step in g.steps}):
        engine = engines.engine(name)
        window = await engines.window(name)
        served = ""
        if isinstance(context.recipe.engines[name], OpenAIEngine):
            info = await engine.start()
            served = f", answers ({info.version})"
            if info.max_model_len < window:
                raise UserError(
                    f"engines.{name}.max_model_len: {window}, but the server's window is {info.max_model_len}"
                )
        yield f"engine {name!r}: model {engine.identity.model}, window {window} tokens{served}"
    for generator in context.recipe.generate:
        reserve = PROMPT_RESERVE + generator.least_document
        for name in sorted({generator.engine_of(step) for step in generator.steps}):
            window = await engines.window(name)
            served_steps = [s for s in generator.steps if generator.engine_of(s) == name]
            longest = max(generator.steps[step].max_tokens for step in served_steps)
            if longest + reserve > window:
                raise UserError(
                    f"generate {generator.name!r}: answers of up to {longest} tokens and {reserve} tokens of prompt do "
                    f"not fit the window of {window} tokens of engine {name!r}; lower sampling.*.max_tokens"
                )
            yield f"generate {generator.name!r}: answers of up to {longest} tokens fit the window"
        if generator.input == "documents" or not generator.steps:
            engines.tokenizer(generator.engine)
    for score in context.recipe.score:
        if isinstance(score, Evidence):
            yield f"score {score.name!r}: no model"
            continue
        if isinstance(score, Judge):
            yield f"score {score.name!r}: asks engine {score.engine!r}"
            continue
        if find_spec("torch") is None:
            raise UserError(f"score {score.name!r} needs torch: install longloom[cpu] or longloom[gpu]")
        if isinstance(score, Gateau):
            yield f"score {score.name!r}: from {score.hmg!r} and {score.cam!r}, no model"
            continue
        names = dict.fromkeys(scored_model(score, engines, one.engine).name for one in score.passes())
        yield f"score {score.name!r}: model {' and '.join(names)}, read by torch in a process of its own"
