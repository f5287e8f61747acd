"""Push a model to the Hugging Face Hub, with a card.   ae push RUN user/name

The repository gets the weights, the prior over a quantizer's indices, the run's pictures, and a card: what the model
is, how to load it, its metrics and settings. Needs the extra `hub`, and `hf auth login` or the variable HF_TOKEN.
"""

from dataclasses import dataclass

from ae.cli import Positional
from ae.runs.push import push
from ae.utils.distributed import on_main
from ae.utils.validation import Settings


@dataclass(frozen=True)
class Config(Settings):
    """Model to push, and its repository."""

    run: Positional[str]  # a run's folder, or a file of weights
    name: Positional[str]  # the repository, user/name
    private: bool = False  # make a repository that only you can read, if it does not exist
    license: str | None = None  # identifier of the licence in the card, such as mit


@on_main
def main(config: Config) -> None:
    """Push the model, and print the address of its repository."""
    print(f"look {push(config.run, config.name, config.private, config.license)}")
