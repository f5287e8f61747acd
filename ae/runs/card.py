"""The card of a model: what it is, how to load it, its metrics, pictures and data, and what trained it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ae.runs.folder import CONFIG, read_config, read_summary
from ae.runs.report import table
from ae.utils.files import exists
from ae.weights import Metadata

_PARTS = ("encoder", "bottleneck", "decoder", "likelihood")
_PLACES = ("root", "targets")  # of the data, on the machine of the training


def card(name: str, folder: Path, metadata: Metadata, pictures: Sequence[str], license: str | None = None) -> str:
    """Write the card of a repository user/name, as Markdown with the Hub's YAML header.

    It says what the run in `folder` knows: metrics of its test, settings without those of the run and without places.
    Of a file of weights without a run, metrics are those of its description.
    """
    config = read_config(folder) if exists(folder / CONFIG) else None
    summary = (read_summary(folder) or {}) if config is not None else {}
    title = name.split("/")[-1]
    experiment = "model" if config is None else f"run of `experiments.{config['experiment']}`"
    sections = [
        f"# {title}",
        f"A model of the Python package ae ({experiment}), in a file of safetensors that describes its modules.",
        _loading(name, metadata),
        _modules(metadata),
        _metrics(metadata, summary),
        *(f"## {_title_of(picture)}\n\n![{_title_of(picture)}]({picture})" for picture in pictures),
    ]
    if config is not None:
        sections.append(_training(config))
    return f"---\n{_header(metadata, config, license)}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _header(metadata: Metadata, config: Mapping[str, Any] | None, license: str | None) -> str:
    tags = ["autoencoder", "pytorch", *([] if config is None else [str(config["experiment"])])]
    header: dict[str, Any] = {"library_name": "ae", "tags": tags}
    if license is not None:
        header["license"] = license
    return yaml.safe_dump(header, sort_keys=False)


def _loading(name: str, metadata: Metadata) -> str:
    """Three lines that load the encoder, or the generator, with the shapes of images."""
    shape = " ".join(map(str, metadata.image or ("c", "h", "w")))
    if metadata.model.get("class") == "Generator":
        lines = ["import ae", "", f'images = ae.sample("hf:{name}", 16)  # [16 {shape}] in [0, 1]']
    else:
        own = metadata.model.get("encoder", {})
        given = "" if "." not in str(own.get("class")) else ", MyEncoder()"
        lines = [
            "import ae",
            "",
            f'encoder = ae.load_part("hf:{name}", "encoder"{given})  # in evaluation mode',
            f"features = encoder(images)  # images [b {shape}] in [0, 1]",
            f'model = ae.load("hf:{name}")  # the whole model: model.encode, model.decode, model.heads',
        ]
    return "\n".join(["## Load", "", "```python", *lines, "```"])


def _modules(metadata: Metadata) -> str:
    """A table of the parts, with the class and arguments of each."""
    rows = []
    parts = {key: metadata.model[key] for key in _PARTS if isinstance(metadata.model.get(key), dict)}
    parts |= {f"heads.{key}": part for key, part in (metadata.model.get("heads") or {}).items()}
    if not parts:
        parts = {"model": metadata.model}
    for key, part in parts.items():
        arguments = ", ".join(f"{name}={value}" for name, value in part.items() if name != "class")
        rows.append(f"| `{key}` | `{part.get('class')}({arguments})` |")
    classes = f"\n\nClasses: {', '.join(metadata.classes)}." if metadata.classes else ""
    return "\n".join(["## Modules", "", "| part | |", "|---|---|", *rows]) + classes


def _metrics(metadata: Metadata, summary: Mapping[str, Any]) -> str:
    text = (
        table(dict(summary)) if summary else "\n".join(f"{key}  {value:.5g}" for key, value in metadata.metrics.items())
    )
    return f"## Metrics\n\n```\n{text}\n```" if text else ""


def _training(config: Mapping[str, Any]) -> str:
    """The settings that differ by experiment, as YAML."""
    settings = {key: value for key, value in config["config"].items() if key != "run"}
    if isinstance(settings.get("data"), Mapping):
        settings["data"] = {key: value for key, value in settings["data"].items() if key not in _PLACES}
    data = settings.get("data", {})
    of = f" on the data set `{data['name']}`" if isinstance(data, Mapping) and "name" in data else ""
    content = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None).strip()
    command = f"python -m experiments.{config['experiment']}"
    sentence = f"Trained by `{command}`{of}, version {config.get('version', '0.1')}, with"
    return f"## Training\n\n{sentence}\n\n```yaml\n{content}\n```"


def _title_of(picture: str) -> str:
    return picture.removesuffix(".png").replace("-", " ").capitalize()
