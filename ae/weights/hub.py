"""Files of models on the Hugging Face Hub: `hf:user/name`, or `hf:user/name@revision`."""

import os
import re
from pathlib import Path
from typing import Any

from ae.utils.errors import InputError, one_line
from ae.utils.extras import extra

PREFIX = "hf:"
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_on_hub(path: object) -> bool:
    """Whether a path names a repository on the Hub."""
    return str(path).startswith(PREFIX)


def download(path: str, file: str) -> Path:
    """Download a file of a repository, or find it in the Hub's cache; raises InputError where it can't be had.

    The environment's HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE hold, as for the Hub's own client.
    """
    downloaded = _download(path, file)
    if downloaded is None:
        raise InputError(f"no {file} in {path}: it is no model of ae, which is pushed by ae.push")
    return downloaded


def download_if_there(path: str, file: str) -> Path | None:
    """Download a file of a repository; None if the repository has no such file."""
    return _download(path, file)


def client(path: str) -> Any:
    """The Hub's client library; raises InputError where it is not installed."""
    with extra("hub", path):
        import huggingface_hub
    return huggingface_hub


def endpoint() -> str | None:
    """The address of the Hub; None is the public one."""
    return os.environ.get("HF_ENDPOINT")


def repository(path: str) -> tuple[str, str | None]:
    """The name and the revision of `hf:user/name@revision`; raises InputError for another form."""
    match = _NAME.fullmatch(path.removeprefix(PREFIX))
    if match is None:
        raise InputError(f"{path} names no repository: it must be {PREFIX}user/name, or {PREFIX}user/name@revision")
    return match["name"], match["revision"]


def _download(path: str, file: str) -> Path | None:
    hub = client(path)
    name, revision = repository(path)
    try:
        return Path(hub.hf_hub_download(name, file, revision=revision, endpoint=endpoint()))
    except hub.errors.LocalEntryNotFoundError as error:  # offline, or without an answer, and not in the cache
        raise InputError(f"can't reach the Hub, and its cache does not have {file} of {path}") from error
    except hub.errors.RemoteEntryNotFoundError:
        return None
    except hub.errors.RepositoryNotFoundError as error:
        hint = "a private one needs a token, by `hf auth login` or HF_TOKEN"
        raise InputError(f"no repository {path} on the Hub: {hint}") from error
    except hub.errors.RevisionNotFoundError as error:
        raise InputError(f"no revision {revision} of {PREFIX}{name}") from error
    except Exception as error:  # of the network, and of the client
        raise InputError(f"can't load {path}: {one_line(error)}") from error
