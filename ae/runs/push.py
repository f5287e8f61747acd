"""Push a model to the Hugging Face Hub, with a card."""

from pathlib import Path

from ae.runs.card import card
from ae.utils.errors import InputError, one_line
from ae.utils.validation import checked_arguments
from ae.weights import read_metadata
from ae.weights.build import weights_in
from ae.weights.hub import PREFIX, client, endpoint, repository

_MOST_PICTURES = 8


@checked_arguments
def push(run: Path | str, name: str, private: bool = False, license: str | None = None) -> str:
    """Push the model of a run's folder, or a file of weights, to the repository `user/name`; returns its address.

    The repository, which is made if it does not exist, gets `model.safetensors`, the prior over the indices of a
    quantizer if there is one, the run's pictures, and a card: what the model is, how to load it, its metrics and
    settings. Paths of this machine and the run's settings of W&B are not pushed. Load it by `ae.load("hf:user/name")`.
    Raises InputError where the Hub can't be reached, or refuses.
    """
    hub = client(name)
    repo, revision = repository(name)
    if revision is not None:
        raise InputError(f"a model is pushed to {PREFIX}{repo} without a revision, got {name}")
    weights = weights_in(Path(run))
    folder = weights.parent
    files = {"model.safetensors": weights}
    if (folder / "prior.safetensors").exists():
        files["prior.safetensors"] = folder / "prior.safetensors"
    pictures = sorted(folder.glob("*.png"))[:_MOST_PICTURES] if Path(run).is_dir() else []
    files |= {picture.name: picture for picture in pictures}
    text = card(repo, folder, read_metadata(weights), [picture.name for picture in pictures], license)
    operations = [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()]
    operations.append(hub.CommitOperationAdd("README.md", text.encode()))
    api = hub.HfApi(endpoint=endpoint(), library_name="ae")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, operations, commit_message="Push by ae")
    except hub.errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        hint = ": log in by `hf auth login`, or set HF_TOKEN to a token that may write" if status in (401, 403) else ""
        raise InputError(f"the Hub refuses {PREFIX}{repo}{hint or f': {one_line(error)}'}") from error
    except Exception as error:  # of the network, and of the client
        raise InputError(f"can't push to {PREFIX}{repo}: {one_line(error)}") from error
    return str(commit.repo_url)
