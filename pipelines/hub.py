"""Put a finished export on a Hugging Face hub (`HF_ENDPOINT` names another one than huggingface.co)."""

import os
from pathlib import Path

from pipelines.export_configs import CONFIGS
from schemas.errors import RunError, UserError


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder as the dataset ORG/NAME, in one commit: who loads the dataset meanwhile sees the old one or the
    new one. Shards of an earlier export go with the same commit, for `train-*` would match them too. What was sent
    before an interruption is not sent again. Returns the commit's address.

    UserError when the token, which comes from HF_TOKEN alone, is missing or may not write there, or when a dataset
    that is to be private is public already.
    """
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("--push needs a token that may write, in the environment variable HF_TOKEN")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    unreachable: type[Exception] = HfHubHTTPError.__bases__[0]  # of its HTTP client; which that is depends on versions
    api = HfApi(token=token)
    try:
        # None: as the organisation has it, which may be private.
        api.create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
        if private and not api.repo_info(repo, repo_type="dataset").private:
            raise UserError(f"{repo}: is a public dataset already, and --private was asked for")
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=repo,
            repo_type="dataset",
            commit_message=f"Longloom export {folder.name}",
            delete_patterns=[f"{config}/*" for config in CONFIGS],
        )
    except HFValidationError as error:
        raise UserError(f"{repo!r} is no name of a dataset, ORG/NAME: {error}") from error
    except HfHubHTTPError as error:
        wrong = UserError if error.response.status_code in (400, 401, 403, 404) else RunError
        raise wrong(f"{repo}: the hub said: {error}") from error
    except unreachable as error:
        raise RunError(f"{repo}: the hub cannot be reached: {error}") from error
    return str(commit.commit_url)
