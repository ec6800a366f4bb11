"""The servers behind an OpenAI client: their URLs, whether they answer, and which one a request goes to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from yarl import URL

from schemas.errors import UserError


@dataclass(slots=True, eq=False)
class Replica:
    """One base URL. `window` (tokens) is None until the server has been seen to serve the model; `up` is False
    while it is left out after an error, for `wait` seconds and longer each time (None: it has answered since). Paths
    of the API are built once: parsing URLs is slow."""

    root: URL
    in_flight: int = 0
    window: int | None = None
    up: bool = False
    wait: float | None = None
    models: URL = field(init=False)
    chat: URL = field(init=False)
    completions: URL = field(init=False)
    tokenize: URL = field(init=False)

    def __post_init__(self) -> None:
        self.models = self.root / "v1/models"
        self.chat = self.root / "v1/chat/completions"
        self.completions = self.root / "v1/completions"
        self.tokenize = self.root / "tokenize"

    def __str__(self) -> str:
        return str(self.root)


def parse_base_urls(base_urls: Sequence[str]) -> list[Replica]:
    """With or without a trailing /v1 or slash; a URL given twice is one replica. Raises UserError."""
    roots: dict[URL, Replica] = {}
    for text in base_urls:
        try:
            url = URL(text.rstrip("/").removesuffix("/v1"))
        except ValueError as error:
            raise UserError(f"base_urls: {text!r} is not a URL: {error}") from error
        if url.user or url.password:
            raise UserError("base_urls: no user name or password in a URL; name a variable with api_key_env instead")
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError(f"base_urls: {text!r} is not an http:// or https:// URL")
        roots.setdefault(url, Replica(url))
    return list(roots.values())


def choose(replicas: Sequence[Replica], group: str | None) -> Replica:
    """Where a request goes: requests of a group to one replica, others to the least busy one.

    Replicas that are left out get nothing while another one is up. When all of them are, they are tried all the same:
    an early try costs less than a late one.
    """
    candidates = [replica for replica in replicas if replica.up]
    if not candidates:
        candidates = [replica for replica in replicas if replica.window is not None]
    if len(candidates) == 1:
        return candidates[0]
    if group is None:
        return min(candidates, key=lambda replica: replica.in_flight)
    # Rendezvous hashing: when a replica goes, only its own groups move, and they come back with it.
    return max(candidates, key=lambda replica: _weight(replica.root, group))


def _weight(root: URL, group: str) -> bytes:
    return blake2b(f"{root}\n{group}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
