"""The command line. Commands are imported when they are used, so that `longloom --help` answers at once."""

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from schemas.errors import RunError, UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence instead of the usage text."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="longloom", description="Make, curate and pack long-context training data.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, help_: str, recipe: str | None = None, ledger: bool = False) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=help_, description=help_)
        one.add_argument(
            "--workspace", type=Path, default=Path("workspace"), metavar="DIR", help="default: ./workspace"
        )
        if recipe is not None:
            one.add_argument("recipe", type=Path, nargs=recipe or None, metavar="RECIPE", help="the recipe's YAML file")
        if ledger:
            one.add_argument("--ledger", type=Path, metavar="FILE", help="a ledger shared with other workspaces")
        return one

    run = command("run", "Run all stages of a recipe; what is done already is not done again.", "", ledger=True)
    run.add_argument("--stage", metavar="NAME", help="only this stage, or all of a kind (ingest, generate, export)")
    run.add_argument("--limit", type=_positive, metavar="N", help="at most N rows of each source and each generator")
    run.add_argument("--no-prefect", action="store_true", help="run the stages without Prefect (starts at once)")
    plan = command("plan", "Show what would run and what it would cost; spends nothing.", "", ledger=True)
    plan.add_argument("--limit", type=_positive, metavar="N", help="as for run")
    preview = command("preview", "Make a few rows end to end and show them.", "", ledger=True)
    preview.add_argument("-n", type=_positive, default=3, metavar="N", help="rows of each generator (default 3)")
    command("check", "Check a recipe, its inputs, its engines and this machine.", "?")
    status = command("status", "Show stages, states, tokens and the last run of a workspace.")
    status.add_argument("--verify", action="store_true", help="first read every table and export, checksums included")
    status.add_argument("--watch", action="store_true", help="show it again and again until the run ends")
    sql = command("sql", "Ask the catalog in SQL (DuckDB, read-only).")
    sql.add_argument("query", metavar="QUERY", help="a SELECT, or @NAME of docs/queries.md")
    sql.add_argument("--format", choices=("table", "json", "csv"), default="table")
    report = command("report", "Write one HTML page on what was made, how, and what was lost.")
    report.add_argument("--to", type=Path, metavar="FILE", help="default: report.html in the workspace")
    command("recover", "Make a sound ledger from what can be read of a damaged one, which is kept.", ledger=True)
    serve = command("serve", "Run a recipe on a schedule, with Prefect, until it is stopped.", "", ledger=True)
    serve.add_argument("--cron", required=True, metavar="LINE", help="when, such as '0 2 * * *': every night at two")
    serve.add_argument("--timezone", metavar="ZONE", help="of the cron line, such as Europe/Berlin (default UTC)")
    serve.add_argument("--name", help="of the deployment in Prefect (default: the recipe's name)")
    serve.add_argument("--stage", metavar="NAME", help="as for run")
    serve.add_argument("--limit", type=_positive, metavar="N", help="as for run")
    export = command("export", "Copy a finished export into a folder, or put it on a Hugging Face hub.")
    export.add_argument("name", metavar="RECIPE/NAME", help="a recipe file (or its name), a slash, the export's name")
    export.add_argument("--to", type=Path, metavar="DIR", help="a new or empty folder, or an older export")
    export.add_argument("--push", metavar="ORG/NAME", help="a dataset of the hub; the token is taken from HF_TOKEN")
    export.add_argument("--private", action="store_true", help="with --push: only you and ORG see it")
    return top


def entry() -> int:
    """The program `longloom`, in whatever surroundings it was started."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        # A locale without UTF-8 could name no file that is not in it, nor show most texts.
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})
    for name in ("stdout", "stderr"):  # closed by whoever started us: `>&-`
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    # Child processes import nothing from the current folder, which may be someone else's: `python -m pip` would run a
    # pip.py that lies there.
    os.environ["PYTHONSAFEPATH"] = "1"
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the input was wrong."""
    arguments = parser().parse_args(argv)
    from flows import commands

    stopped = _stop_gently()
    try:
        getattr(commands, arguments.command)(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _fail(2, error)
    except RunError as error:
        return _fail(1, error)
    except KeyboardInterrupt:
        print("longloom: stopped; the same command continues where it was", file=sys.stderr)
        return 128 + (stopped[0] if stopped else signal.SIGINT)
    except OSError as error:  # a full disk, a folder that cannot be written; BrokenPipeError is one too
        drop_unwritable()
        return 0 if isinstance(error, BrokenPipeError) else _fail(1, _told(error))  # 0: `longloom sql ... | head`
    return 0


def _told(error: OSError) -> Exception:
    """The file first, and what to do where the disk is full."""
    if error.errno is None:
        return error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "; make room and run the same command again, which continues" if full else ""
    return RunError(f"{error.filename or 'standard output'}: {error.strerror}{advice}")


def _stop_gently() -> list[int]:
    """From now on SIGTERM ends a command as Ctrl-C does. Returns a list that will hold the signal."""
    stopped: list[int] = []

    def stop(number: int, _: object) -> None:
        stopped.append(number)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background by a shell
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    return stopped


def drop_unwritable() -> None:
    """What is still buffered for a stdout that takes no more goes nowhere, or Python would complain at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(code: int, error: Exception) -> int:
    print(f"longloom: {' '.join(str(error).split())}", file=sys.stderr)
    return code
