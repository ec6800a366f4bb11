"""What a model folder of others may not do here: bring code that runs, or reach out of the sandbox of its template."""

from pathlib import Path
from typing import Any

from schemas.errors import UserError


def load(kind: Any, folder: Path | str, **options: Any) -> Any:
    """`kind.from_pretrained(folder, ...)` of a class of transformers, which never runs Python files of the folder.
    Raises UserError for a model that does not work without them."""
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        what = "works only with Python code of its own (trust_remote_code), which Longloom does not run"
        raise UserError(f"model {str(folder)!r}: {what}") from error


def blame_template(error: BaseException | None, model: str) -> None:
    """Raises UserError when a chat template failed because it is no Jinja, or does what transformers' sandbox forbids.
    Other errors are about the messages: templates raise on roles and orders that they do not know."""
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    if isinstance(error, SecurityError | TemplateSyntaxError):
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"model {model!r}: its chat template cannot be used: {reason}") from error
