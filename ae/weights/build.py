"""Build a model from the description in its file of weights."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ae.models import bottlenecks, decoders, encoders
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.models.encoders import ImageEncoder, PyramidEncoder, Stage
from ae.models.generator import Generator
from ae.models.heads import Classifier, MultiLabel, Regressor
from ae.models.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    SquaredError,
)
from ae.models.priors import GaussianMixture, PixelCNN, StandardNormal, TopDownGaussian, UniformSphere
from ae.models.segmenter import Segmenter
from ae.tracking.server import download_weights
from ae.utils.errors import InputError, one_line
from ae.utils.validation import checked, checked_arguments
from ae.weights.file import load_weights
from ae.weights.hub import download, download_if_there, is_on_hub
from ae.weights.metadata import Metadata, read_metadata, shortened

_NAMED = (getattr(package, name) for package in (encoders, bottlenecks, decoders) for name in package.__all__)
_NOT_BUILT = {Code, Stage, ImageEncoder, PyramidEncoder}  # not built from a description: a backbone is the user's own
_LIKELIHOODS = (
    SquaredError,
    BernoulliLikelihood,
    GaussianLikelihood,
    DiscretizedLogisticLikelihood,
    CategoricalLikelihood,
)
_PRIORS = (StandardNormal, UniformSphere, GaussianMixture, TopDownGaussian)
_MODULES = (
    Classifier,
    Regressor,
    MultiLabel,
    Segmenter,
    Generator,
)
_CLASSES: dict[str, type[nn.Module]] = {
    kind.__name__: kind for kind in (*_MODULES, *_NAMED, *_LIKELIHOODS, *_PRIORS) if kind not in _NOT_BUILT
}
_LONGEST_LIST = 1024  # values of a constructor's argument, or heads
_LONGEST_TEXT = 100  # characters of a constructor's argument
_PARTS = ("encoder", "bottleneck", "decoder", "likelihood")


class UnknownClassError(InputError):
    """A part of a model in a file, `part`, is of a class that is not one of `ae`: the user gives the module."""

    def __init__(self, message: str, part: str) -> None:
        super().__init__(message)
        self.part = part


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    bottleneck: nn.Module | None = None,
    decoder: nn.Module | None = None,
    heads: Mapping[str, nn.Module] | None = None,
    likelihood: nn.Module | None = None,
) -> Autoencoder:
    """Load a model in evaluation mode from a run's folder, a file of weights, W&B, or the Hugging Face Hub.

    `path` is a folder, a file, `wandb:entity/project/artifact:alias`, `hf:user/name` or `hf:user/name@revision`. Only
    classes of `ae` are built from the description. Pass a module of another class, as in `encoder=MyEncoder(...)`;
    its weights are loaded. Raises InputError for a broken file, a newer format, and tensors that don't fit.
    """
    modules = {"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder, "likelihood": likelihood}
    with tempfile.TemporaryDirectory() as folder:
        file = _find(path, Path(folder))
        metadata = read_metadata(file)
        try:
            model = _build(metadata, modules, heads or {})
        except InputError as error:
            error.args = (f"can't load {path}: {error}",)
            raise
        load_weights(file, model)
        try:
            _tie(model, metadata.tied)
        except InputError as error:
            raise InputError(f"can't load {path}: {error}") from error
    model.image_shape = metadata.image
    return model.to(memory_format=torch.channels_last).eval()  # as in training; on CPUs four times as fast


@checked_arguments
def load_part(path: str | Path, part: str, module: nn.Module | None = None) -> nn.Module:
    """Load one part of a model in evaluation mode: `encoder`, `bottleneck`, `decoder`, `likelihood`, or a head.

    `path` is as in `load`; a head is named as in `heads.digit`. The other parts are not built, whatever their classes.
    A part of another class than those of `ae` is given as `module`. Raises InputError if the model has no such part.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = _find(path, Path(folder))
        description: Any = read_metadata(file).model
        for name in part.split("."):
            known = [key for key, value in description.items() if isinstance(value, dict)]
            if name not in known:
                raise InputError(f"{path} has no part {part}: {name} is none of {', '.join(known) or 'its parts'}")
            description = description[name]
        if module is None and description.get("class") not in _CLASSES:
            given = f"not of ae: give it, as in load_part(path, {part!r}, module)"
            raise InputError(f"can't load {path}: its {part} is of class {description.get('class')}, {given}")
        try:
            built = _module(description, part) if module is None else module
        except InputError as error:
            raise InputError(f"can't load {path}: {error}") from error
        if built.state_dict():
            load_weights(file, built, part)
    return built.to(memory_format=torch.channels_last).eval()


def load_generator(path: str | Path) -> Generator | Autoencoder:
    """Load a generator, or an autoencoder, in evaluation mode; `path` is as in `load`."""
    with tempfile.TemporaryDirectory() as folder:
        file = _find(path, Path(folder))
        metadata = read_metadata(file)
        if metadata.model.get("class") != "Generator":
            return load(path)
        try:
            generator = _module(metadata.model, "generator")
        except InputError as error:
            raise InputError(f"can't load {path}: {error}") from error
        load_weights(file, generator)
    assert isinstance(generator, Generator)
    generator.image_shape = metadata.image
    return generator.to(memory_format=torch.channels_last).eval()


@checked_arguments
def load_prior(path: Path) -> PixelCNN:
    """Load a prior from a file of weights, in evaluation mode; raises InputError for a file of another module."""
    description = read_metadata(path).model
    if description.get("class") != "PixelCNN":
        raise InputError(f"{path} holds no PixelCNN but {description.get('class')}")
    arguments = {name: value for name, value in description.items() if name != "class"}
    try:
        with torch.device("meta"):  # takes no memory, whatever the sizes in the file
            prior = PixelCNN(**arguments)
    except (InputError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the prior in {path} can't be built: {one_line(error)}") from error
    load_weights(path, prior)
    return prior.eval()


def _build(metadata: Metadata, modules: Mapping[str, nn.Module | None], heads: Mapping[str, nn.Module]) -> Autoencoder:
    """Build the described model from the passed modules, and new modules on the meta device for the rest."""
    if metadata.model.get("class") != "Autoencoder":
        raise InputError(f"it holds no Autoencoder but {metadata.model.get('class')}: read it with load_weights")
    parts = {}
    for name in _PARTS:
        module, description = modules[name], metadata.model.get(name)
        parts[name] = _module(description, name) if module is None and description is not None else module
    head_descriptions = metadata.model.get("heads", {})
    if not isinstance(head_descriptions, dict):
        raise InputError("its heads are not described as they should be")
    if len(head_descriptions) > _LONGEST_LIST:
        raise InputError(f"it has {len(head_descriptions)} heads, which can't be right")
    unknown = [name for name in heads if name not in head_descriptions]
    if unknown:
        raise InputError(f"it has no head {unknown[0]}, but {', '.join(head_descriptions) or 'none'}")
    built_heads = {
        name: heads[name] if name in heads else _module(description, name)
        for name, description in head_descriptions.items()
    }
    if parts["encoder"] is None:
        raise InputError("it does not describe its encoder")
    return Autoencoder(parts["encoder"], parts["decoder"], parts["bottleneck"], built_heads, parts["likelihood"])


def _module(description: Any, name: str) -> nn.Module:
    """Build a module of a class of `ae` on the meta device, which takes no memory, whatever the described sizes."""
    if not isinstance(description, dict):
        raise InputError(f"its {name} is not described as it should be")
    kind_name = str(description.get("class"))
    kind = _CLASSES.get(kind_name)
    if kind is None:
        argument = f"{name}=..." if name in _PARTS else f"heads={{{name!r}: ...}}"
        of_class = f"its {name} is of class {description.get('class')}, not one of ae's"
        if kind_name in {kind.__name__ for kind in _NOT_BUILT}:
            of_class = f"its {name} is a {kind_name}, whose backbone is your own"
        raise UnknownClassError(f"{of_class}: give it, as in load(path, {argument})", name)
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in description.items() if k != "class"}
    for key, value in arguments.items():
        if isinstance(value, dict):  # a part of the module, such as a bottleneck's prior
            arguments[key] = _module(value, f"{name}'s {key}")
            continue
        values = value if isinstance(value, tuple) else [value]
        if len(values) > _LONGEST_LIST or not all(_is_plain(each) for each in values):
            raise InputError(f"its {name} has an argument {key} that can't be right: {shortened(value)}")
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (InputError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise InputError(f"its {name} can't be built: {shortened(one_line(error))}") from error


def _is_plain(value: Any) -> bool:
    """Whether a value of a constructor's argument is a number, short text, or None."""
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _LONGEST_TEXT)


def _find(path: str | Path, folder: Path) -> Path:
    """The path of the file of weights; an artifact of W&B is downloaded to `folder`, a file of the Hub to its cache."""
    if is_on_hub(path):
        return download(str(path), "model.safetensors")
    if str(path).startswith("wandb:"):
        return download_weights(str(path).removeprefix("wandb:"), folder)
    return weights_in(checked(path, Path, "path"))


def weights_in(location: Path) -> Path:
    """The file of weights in a run's folder, or the file itself; raises InputError for a run that has not ended."""
    if not location.is_dir():
        return location
    if (location / "model.safetensors").exists():
        return location / "model.safetensors"
    best = location / "best.safetensors"
    hint = f"its training did not end; the best weights so far are in {best}" if best.exists() else "it is no run"
    raise InputError(f"no model.safetensors in {location}: {hint}")


def find_prior(path: str | Path) -> Path | None:
    """The file of a prior over the indices of a quantizer, beside the file of weights; None if there is none."""
    if is_on_hub(path):
        return download_if_there(str(path), "prior.safetensors")
    if str(path).startswith("wandb:"):
        return None
    file = (Path(path) if Path(path).is_dir() else Path(path).parent) / "prior.safetensors"
    return file if file.exists() else None


def _tie(model: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Share the parameters of each group; raises InputError if a name is missing or the shapes differ."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for first, *others in groups:
        for name in others:
            if first not in parameters or name not in parameters or parameters[first].shape != parameters[name].shape:
                raise InputError(f"its weights {first} and {name} can't be shared, as they should be")
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, parameters[first])
