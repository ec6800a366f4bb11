"""What each command does. Heavy libraries are imported inside, by the command that needs them."""

import asyncio
import json
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from flows.report import Report
from flows.tables import print_table
from pipelines.workspace import Workspace
from schemas.errors import UserError
from schemas.export import Export
from schemas.loading import load_recipe

PREVIEW_ROWS = 1000  # of each source, from which preview takes its few
SHOWN = 700  # characters of a long text that preview shows at each end


def run(arguments: Namespace) -> None:
    from flows.progress import for_stdout

    recipe = load_recipe(arguments.recipe)
    workspace = Workspace(arguments.workspace, arguments.ledger)
    progress, report = for_stdout(), Report(workspace)
    try:
        if arguments.no_prefect:
            from flows.tables import stage_table
            from pipelines.build import build

            manifests = asyncio.run(
                build(arguments.recipe, workspace, arguments.stage, arguments.limit, progress, ended=report)
            )
            table = stage_table(manifests)
        else:
            table = asyncio.run(_run_with_prefect(arguments, progress, report))
    finally:
        progress.close()
    print_table(list(table[0]), [list(row.values()) for row in table])
    if report.written:
        print(f"\nreport: {report.path}")
    else:
        print(f"longloom: {report.fault}", file=sys.stderr)
    if recipe.export and arguments.stage in (None, "export"):
        from pipelines.export import exported_rows

        export = recipe.export[0]
        rows = exported_rows(workspace, export.name)
        config = next((one for one in export.configs if rows.get(one)), export.configs[-1])
        _suggest(arguments.workspace, export, config)


async def _run_with_prefect(arguments: Namespace, progress: Any, report: Report) -> list[dict[str, Any]]:
    import os

    # Our own progress speaks on the terminal, and one sentence says what went wrong; Prefect's log is in its UI.
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    from flows.build import run_flow

    return await run_flow(
        progress,
        report,
        recipe=str(arguments.recipe),
        workspace=str(arguments.workspace),
        stage=arguments.stage,
        limit=arguments.limit,
        ledger=str(arguments.ledger) if arguments.ledger else None,
    )


def _suggest(workspace: Path, export: Export, config: str) -> None:
    option = "" if workspace == Path("workspace") else f" --workspace {workspace}"
    print("\nTry next:")
    print(f"  longloom status{option}")
    question = "SELECT method, count(*), avg(response_tokens) FROM samples GROUP BY method"
    if config in ("preference", "longpo"):
        question = "SELECT method, count(*), avg(length(chosen[1].content)) FROM preferences GROUP BY method"
    print(f'  longloom sql{option} "{question}"')
    folder = workspace / "exports" / export.name
    if export.format in ("mds", "megatron"):
        print(f"  cat {folder / 'README.md'}")
        return
    load = f"import datasets; print(datasets.load_dataset('{folder}', '{config}')['train'][0])"
    print(f'  python -c "{load}"')


def plan(arguments: Namespace) -> None:
    import yaml

    from pipelines.build import opened
    from pipelines.planning import make_plan

    async def work() -> None:
        workspace = Workspace(arguments.workspace, arguments.ledger)
        async with opened(arguments.recipe, workspace, arguments.limit) as (context, engines):
            plans = await make_plan(context, engines)
            shown = yaml.safe_dump(context.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        print("# the recipe with all defaults\n" + shown)
        names = ["stage", "units to do", "rows to do", "requests", "prompt tokens", "of these cached", "answer tokens"]
        rows = []
        for one in plans:
            row: list[Any] = [one.name, f"{one.todo} of {one.units}"]
            if (estimate := one.estimate) is not None:
                cost = estimate.cost
                answers = f"~{cost.answer_tokens} (at most {cost.answer_tokens_max})"
                row += [f"{estimate.new_rows} of {estimate.rows}", f"~{cost.requests}", f"~{cost.prompt_tokens}"]
                row += [f"~{cost.cached_tokens}", answers]
            rows.append(row + [""] * (len(names) - len(row)))
        print_table(names, rows)
        for one in plans:
            for line in one.why:
                print(f"{one.name}: {line}")
        disk = sum(one.estimate.disk_bytes for one in plans if one.estimate is not None)
        print(f"\nabout {disk / 1e6:.1f} MB of new tables; '~' marks estimates; calls the ledger knows cost nothing")

    asyncio.run(work())


def preview(arguments: Namespace) -> None:
    from pipelines.build import PREVIEW, build
    from pipelines.catalog import query

    recipe = load_recipe(arguments.recipe)
    if not recipe.generate:
        raise UserError(f"{arguments.recipe}: has nothing under 'generate' to preview")
    # The calls go to the real ledger: a run afterwards does not pay for them again.
    ledger = Workspace(arguments.workspace, arguments.ledger).ledger
    with tempfile.TemporaryDirectory(prefix="longloom-preview-") as folder:
        workspace = Workspace(Path(folder), ledger)
        for stage in ("ingest", *(("curate",) if recipe.curate is not None else ())):
            asyncio.run(build(arguments.recipe, workspace, stage, PREVIEW_ROWS))
        asyncio.run(build(arguments.recipe, workspace, PREVIEW, arguments.n))
        names, rows = query(workspace, "SELECT stage, row_id, messages, details FROM samples ORDER BY stage, row_id")
        for row in rows:
            sample = dict(zip(names, row, strict=True))
            _show(sample, [(message["role"], message["content"]) for message in sample["messages"]])
        names, rows = query(workspace, "SELECT * FROM preferences ORDER BY stage, row_id, len(prompt)")
        for row in rows:
            pair = dict(zip(names, row, strict=True))
            sides = ("short_prompt", "prompt", "chosen", "rejected")
            messages = [(side, message) for side in sides for message in pair[side] or ()]
            _show(pair, [(f"{side}: {message['role']}", message["content"]) for side, message in messages])
        names, rows = query(
            workspace,
            "SELECT stage, row_id, state, reason, detail FROM row_states "
            "WHERE starts_with(stage, 'generate') AND state <> 'ok' ORDER BY ALL",
        )
    if rows:
        print("rows without a record:")
        print_table(names, rows)


def _show(record: dict[str, Any], texts: list[tuple[str, str]]) -> None:
    """A record with its (title, text) parts; long texts are shortened."""
    print(f"=== {record['stage']}  {record['row_id']}")
    for title, text in texts:
        if len(text) > 2 * SHOWN:
            text = f"{text[:SHOWN]}\n[... {len(text) - 2 * SHOWN} characters ...]\n{text[-SHOWN:]}"
        print(f"--- {title}\n{text}")
    print(f"--- details\n{record['details']}\n")


def check(arguments: Namespace) -> None:
    from pipelines.build import opened
    from pipelines.checking import check_machine, check_recipe

    for line in check_machine(arguments.workspace.absolute()):
        print(f"ok  {line}")
    if arguments.recipe is None:
        return

    async def work() -> None:
        async with opened(arguments.recipe, Workspace(arguments.workspace)) as (context, engines):
            async for line in check_recipe(context, engines):
                print(f"ok  {line}")

    asyncio.run(work())


def status(arguments: Namespace) -> None:
    from flows.status import status as show

    show(arguments)


def serve(arguments: Namespace) -> None:
    from flows.serve import serve as work

    work(arguments)


def sql(arguments: Namespace) -> None:
    from pipelines.catalog import query

    question = arguments.query
    if question.startswith("@"):
        question = _named_query(question.removeprefix("@"))
    names, rows = query(Workspace(arguments.workspace), question)
    if arguments.format == "json":
        if len(set(names)) < len(names):
            raise UserError("two columns have the same name, and a JSON object holds one: rename them with AS")
        text = json.dumps([dict(zip(names, row, strict=True)) for row in rows], ensure_ascii=False, default=str)
        if "NaN" in text or "Infinity" in text:  # no JSON: such a number is null
            text = json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)
        print(text)
    elif arguments.format == "csv":
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    else:
        print_table(names, rows)


def report(arguments: Namespace) -> None:
    from pipelines.report.page import write_report

    print(write_report(Workspace(arguments.workspace), arguments.to))


def recover(arguments: Namespace) -> None:
    from pipelines.recover import recover as work

    print(work(Workspace(arguments.workspace, arguments.ledger)))


def _named_query(name: str) -> str:
    """A query of docs/queries.md: a heading of its name, and SQL below."""
    import re

    from schemas.model import suggestion

    page = Path(__file__).parent.parent / "docs" / "queries.md"
    if not page.is_file():
        raise UserError(f"{page}: is missing; named queries are part of a checkout")
    known: dict[str, str] = dict(
        re.findall(r"^### (\S+)\n.*?^```sql\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)
    )
    if name not in known:
        raise UserError(f"{page}: no query {name!r}{suggestion(name, known)}; it has {', '.join(known)}")
    return known[name]


def export(arguments: Namespace) -> None:
    from pipelines.export import copy_export
    from pipelines.hub import push
    from pipelines.manifest import load_manifest

    if arguments.to is None and arguments.push is None:
        raise UserError("say where the export goes: --to DIR, or --push ORG/NAME")
    if arguments.private and arguments.push is None:
        raise UserError("--private is for --push ORG/NAME")
    workspace = Workspace(arguments.workspace)
    recipe, _, name = arguments.name.rpartition("/")
    if Path(arguments.name).is_file():  # only a recipe: its one export
        recipe = arguments.name
        exports = [one.name for one in load_recipe(Path(recipe)).export]
        if len(exports) != 1:
            raise UserError(f"{recipe}: has the exports {', '.join(exports) or 'none'}; say which: {recipe}/NAME")
        name = exports[0]
    elif (
        recipe and Path(recipe).is_file() and name not in (known := [e.name for e in load_recipe(Path(recipe)).export])
    ):
        raise UserError(f"{recipe}: has no export {name!r}; it has {', '.join(known) or 'none'}")
    folder = workspace.exports / name
    if recipe:
        named = load_recipe(Path(recipe)).name if Path(recipe).is_file() else recipe
        held = load_manifest(workspace.manifest(f"export.{name}"))
        if held is not None and held.recipe != named:
            raise UserError(f"{workspace.root}: holds recipe {held.recipe!r}, not {named!r}")
    if not name or not (folder / "README.md").is_file():
        raise UserError(f"{workspace.root}: holds no finished export {name!r}; run the recipe first")
    with workspace.lock():  # a run would put another export in its place on the way
        if arguments.to is not None:
            copy_export(folder, arguments.to)
            print(f"{arguments.to}: {name}")
        if arguments.push is not None:
            print(f"{push(folder, arguments.push, arguments.private)}: {name}")
