"""The ledger: a durable store of all model calls, so that no answer is ever paid for twice.

SQLite in WAL mode. Reads happen on the caller's thread; writes are queued to one writer thread that commits
everything waiting in one transaction (group commit), and `put` returns once the answer is committed. A killed process
therefore loses at most calls whose answers nobody has seen. Several processes and workspaces may share one
ledger file: the first answer recorded under a key stands, and every reader gets that one.
"""

import asyncio
import errno
import queue
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from generators.engines.base import ChatRequest, Identity
from schemas.errors import RunError, UserError
from schemas.ids import digest

_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
  request_id TEXT PRIMARY KEY,
  method TEXT NOT NULL, step TEXT NOT NULL,
  model TEXT NOT NULL, revision TEXT,
  sampling TEXT NOT NULL, prompt TEXT NOT NULL,
  response TEXT NOT NULL, finish_reason TEXT NOT NULL,
  prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER, completion_tokens INTEGER NOT NULL,
  seconds REAL NOT NULL, engine TEXT NOT NULL, created REAL NOT NULL, checksum TEXT
)"""
_COLUMNS = (
    "request_id, method, step, model, revision, sampling, prompt, response, finish_reason, "
    "prompt_tokens, cached_tokens, completion_tokens, seconds, engine"
)
_INSERT = f"INSERT OR IGNORE INTO requests ({_COLUMNS}, created, checksum) VALUES ({', '.join('?' * 16)})"
_SELECT = f"SELECT {_COLUMNS}, checksum FROM requests WHERE request_id = ?"
LAYOUT_VERSION = 1
_ADVICE = "'longloom recover' with the same --workspace (and --ledger) keeps every answer that can be read"


def checksum(request_id: str, response: str, finish_reason: str) -> str:
    """What tells a damaged answer: 16 hex digits. Rows of older ledgers have none."""
    return digest([request_id, response, finish_reason])[:16]


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded call. `sampling` and `prompt` are canonical JSON; `prompt` names the template and gives long
    fields as hash and length, never the text again. `engine` is recorded, not part of the key."""

    request_id: str
    method: str
    step: str
    model: str
    revision: str | None
    sampling: str
    prompt: str
    response: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int
    seconds: float
    engine: str

    def row(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def checksum(self) -> str:
        return checksum(self.request_id, self.response, self.finish_reason)


def request_key(identity: Identity, request: ChatRequest, sample_index: int = 0) -> str:
    """The ledger key: a hash of everything that changes the answer, and of nothing else.

    `group` is left out (it only steers scheduling). With greedy decoding the seed is left out too, since it
    changes nothing: equal greedy calls of different rows are one call.
    """
    sampling = request.sampling.to_dict()
    if sampling["temperature"] == 0:
        sampling.update(seed=0, top_p=1.0, top_k=0)
    return (
        "req-"
        + digest(
            {
                "model": identity.model,
                "revision": identity.revision,
                "template": None if request.raw else identity.template,
                "settings": identity.settings,
                "messages": [[message.role, digest(message.content)] for message in request.messages],
                "raw": request.raw,
                "sampling": sampling,
                "index": sample_index,
            }
        )[:40]
    )


# The future's value: was it this entry that was recorded, and not an earlier one under the same key?
_Waiter = tuple[Entry, asyncio.Future[bool], asyncio.AbstractEventLoop]


class Ledger:
    """Open a ledger file, creating it if needed. Raises UserError when the file is no ledger of this version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._queue: queue.SimpleQueue[_Waiter | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            if not self._version():
                self._create()
            if self._version() != LAYOUT_VERSION:
                raise UserError(
                    f"{path}: ledger layout {self._version()}, and this Longloom reads layout {LAYOUT_VERSION}"
                )
            self._reader.execute(f"SELECT {_COLUMNS} FROM requests LIMIT 0")  # fails for another program's table
            self._add_checksums()
        except (sqlite3.DatabaseError, OSError) as error:
            if _is_full(error):
                raise self._failure("written", error) from error
            advice = "; move it away or name another with --ledger" if isinstance(error, sqlite3.DatabaseError) else ""
            advice += f"; if it was a ledger, {_ADVICE}" if _is_damage(error) else ""
            raise UserError(f"{path}: cannot be used as a ledger: {error}{advice}") from error
        self._thread = threading.Thread(target=self._write_loop, args=(self._connect(),), name="ledger", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        deadline = time.monotonic() + 60
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # SQLite's own timeout does not hold here: two processes that open a new file meet at this statement.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        # NORMAL in WAL mode: safe against a killed process; a power cut may lose the last commits, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _version(self) -> int:
        return int(self._reader.execute("PRAGMA user_version").fetchone()[0])

    def _create(self) -> None:
        """Make a new file a ledger; another process may be doing the same. A file with other tables is left alone."""
        self._reader.execute("BEGIN IMMEDIATE")
        with self._reader:
            if self._version():
                return
            if self._reader.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise UserError(f"{self.path}: an SQLite file of another program, no ledger")
            self._reader.execute(_TABLE)
            self._reader.execute(f"PRAGMA user_version = {LAYOUT_VERSION}")

    def _add_checksums(self) -> None:
        """A ledger of an older Longloom gets the column; another process may be adding it too."""

        def lacks() -> bool:
            return "checksum" not in [row[1] for row in self._reader.execute("PRAGMA table_info(requests)")]

        if lacks():
            self._reader.execute("BEGIN IMMEDIATE")
            with self._reader:
                if lacks():
                    self._reader.execute("ALTER TABLE requests ADD COLUMN checksum TEXT")

    def get(self, request_id: str) -> Entry | None:
        try:
            row = self._reader.execute(_SELECT, (request_id,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise self._failure("read", error) from error
        if row is None:
            return None
        entry = Entry(*row[:-1])
        if row[-1] not in (None, entry.checksum()):
            raise RunError(f"{self.path}: the answer {request_id} is not what was written; {_ADVICE}")
        return entry

    def _failure(self, verb: str, error: Exception) -> RunError:
        told = f"{self.path}: the ledger could not be {verb}: {error}"
        if _is_damage(error):
            return RunError(f"{told}; {_ADVICE}")
        if _is_full(error):
            return RunError(f"{told}; see that its disk has room and run the same command again")
        return RunError(told)

    async def put(self, entry: Entry) -> Entry:
        """Record an answer; returns what stands in the ledger (another process may have been first)."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        self._queue.put((entry, done, loop))
        if await done:
            return entry
        stored = self.get(entry.request_id)
        assert stored is not None, "a committed entry is readable"
        return stored

    def _write_loop(self, connection: sqlite3.Connection) -> None:
        closing = False
        while not closing:
            batch: list[_Waiter] = []
            item = self._queue.get()
            while True:
                if item is None:
                    closing = True
                else:
                    batch.append(item)
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(connection, batch)
        connection.close()

    def _commit(self, connection: sqlite3.Connection, batch: list[_Waiter]) -> None:
        error: Exception | None = None
        before, new = connection.total_changes, False
        try:
            now = time.time()
            with connection:
                connection.executemany(_INSERT, [(*entry.row(), now, entry.checksum()) for entry, _, _ in batch])
            new = connection.total_changes - before == len(batch)
        except sqlite3.Error as failure:
            error = self._failure("written", failure)
        except Exception as failure:  # a value that SQLite cannot hold: one entry's fault, not its neighbours'
            if len(batch) > 1:
                for one in batch:
                    self._commit(connection, [one])
                return
            error = ValueError(f"the answer cannot be recorded: {failure}")

        def resolve(waiters: list[asyncio.Future[bool]]) -> None:
            for done in waiters:
                if done.cancelled():
                    continue
                if error is None:
                    done.set_result(new)
                else:
                    done.set_exception(error)

        loops = {loop for _, _, loop in batch}
        for loop in loops:
            waiters = [done for _, done, its in batch if its is loop]
            if not loop.is_closed():
                loop.call_soon_threadsafe(resolve, waiters)

    def count(self) -> int:
        return int(self._reader.execute("SELECT count(*) FROM requests").fetchone()[0])

    def close(self) -> None:
        """Commit what is queued and close. May be called twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._reader.close()


def _is_damage(error: Exception) -> bool:
    """And not a full disk, a locked file, another program's table."""
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


def _is_full(error: Exception) -> bool:
    """SQLite says of a full disk that it is full, or that input or output failed."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what went wrong in particular
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def is_sound(path: Path) -> bool:
    """Reads a ledger as a whole, and changes nothing in it."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        with closing(connection):
            rows = connection.execute("SELECT request_id, response, finish_reason, checksum FROM requests")
            if not all(stated in (None, checksum(*values)) for *values, stated in rows):
                return False
            return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
    except sqlite3.DatabaseError as error:
        if _is_damage(error):
            return False
        if _is_full(error):
            raise RunError(f"{path}: the ledger could not be read: {error}; see that its disk has room") from error
        raise UserError(f"{path}: cannot be used as a ledger: {error}") from error
