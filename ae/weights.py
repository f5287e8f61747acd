"""Weights in files that say what they are: written, read, and made a model again. Nothing in a file is ever executed.

The file is safetensors. Its header has one key, `ae`: sorted JSON with `format`, `model` (each module's class and its
constructor's arguments) and, from format 2 on, `image` [c h w], `classes`, `metrics` and `versions`. Format 3 has the
names of version 0.2 (`ae.models.renamed`).
"""

import inspect
import json
import math
import platform
import struct
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ae.models import bottlenecks
from ae.models.autoencoder import Autoencoder
from ae.models.decoders import DeconvDecoder, DenseDecoder
from ae.models.encoders import ConvEncoder, DenseEncoder
from ae.models.heads import Classifier
from ae.models.lazy import check_materialised, is_uninitialized
from ae.models.renamed import renamed_description
from ae.models.wrappers import plain_names, plain_state, unwrapped, with_names_of, without_wrappers
from ae.tracking.server import download_weights
from ae.utils.errors import InputError, one_line
from ae.utils.files import check_regular, exists, write_whole
from ae.utils.validation import Positive, checked, checked_arguments

FORMAT = 3
_BOTTLENECKS = (getattr(bottlenecks, name) for name in bottlenecks.__all__)
_KNOWN: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (ConvEncoder, DenseEncoder, DeconvDecoder, DenseDecoder, Classifier, *_BOTTLENECKS)
    if issubclass(kind, nn.Module)  # Code is none
}
_LARGEST_HEADER = 2**20  # bytes
_LONGEST_LIST = 1024  # of a constructor's arguments
_LONGEST_START = 64  # bytes that tell what a file is
_Shape = tuple[Positive[int], Positive[int], Positive[int]]
_PARTS = ("encoder", "bottleneck", "decoder")


@dataclass(frozen=True)
class Metadata:
    """Description of a model in its file of weights.

    model     each module's class, and the arguments of its constructor where the class is one of `ae`
    image     [c h w] of the images that it was trained on; None where the file does not say
    classes   the names of its classes
    metrics   what was measured of these weights
    versions  of Python, ae and torch
    format    of the file
    tied      groups of names of one and the same tensor, as in a decoder that shares the encoder's weights
    """

    model: dict[str, Any]
    image: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    tied: tuple[tuple[str, ...], ...] = ()


@checked_arguments
def save_weights(
    path: Path | str,
    model: nn.Module,
    image: Sequence[Positive[int]] | None = None,
    classes: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the model's weights and what is to be known of them.

    The bytes are a function of what is given and of the versions alone: no time, path or id is in them. Names are those
    without wrappers (`torch.compile`, `DataParallel`, `DistributedDataParallel`); weights that are shared are written
    under each of their names. Raises InputError for a lazy module that was never called.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: give a file in it, as in {Path(path) / 'model.safetensors'}")
    model = unwrapped(model)
    check_materialised(model)
    state = plain_state(model)
    versions = {"python": platform.python_version(), **{name: version(name) for name in ("ae", "torch")}}
    about = Metadata(
        describe(model),
        None if image is None else tuple(image),
        tuple(classes),
        {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},  # JSON has no others
        versions,
        tied=_tied(model),
    )
    said = {name: value for name, value in asdict(about).items() if name != "tied" or value}
    write_whole(Path(path), save(_apart(state), {"ae": json.dumps(said, sort_keys=True)}))


def _tied(model: nn.Module) -> tuple[tuple[str, ...], ...]:
    """The names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    plain = plain_names(model)
    return tuple(tuple(plain[name] for name in group) for group in names.values() if len(group) > 1)


def _tie(model: nn.Module, groups: Sequence[Sequence[str]]) -> None:
    """Make the parameters of each group one; raises InputError where the model has none of such names and shapes."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for first, *others in groups:
        for name in others:
            if first not in parameters or name not in parameters or parameters[first].shape != parameters[name].shape:
                raise InputError(f"its weights {first} and {name} can't be shared, as they should be")
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, parameters[first])


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, each in memory of its own."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if place in seen else own
        seen.add(place)
    return tensors


def describe(module: nn.Module) -> dict[str, Any]:
    """The module's class, and for a class of `ae` its constructor's arguments, kept in attributes of their names."""
    module = unwrapped(module)
    kind = type(module)
    if kind.__module__.split(".")[0] != "ae":
        return {"class": f"{kind.__module__}.{kind.__qualname__}"}
    named = [p.name for p in inspect.signature(kind).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return {"class": kind.__qualname__, **{name: _describe_value(getattr(module, name)) for name in named}}


def _describe_value(value: Any) -> Any:
    match value:
        case nn.ModuleDict():
            return {name: describe(module) for name, module in value.items()}
        case nn.Module():
            return describe(value)
        case Tensor():
            return value.flatten().tolist()
    return value


@checked_arguments
def read_metadata(path: Path | str) -> Metadata:
    """Read the description in a file of weights; raises InputError where it is broken, or has none that can be read."""
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        content = json.loads(metadata["ae"])
        if not isinstance(content, dict):
            raise TypeError("its description is of the wrong kind")
        if type(content["format"]) is not int or not isinstance(content["model"], dict):
            raise TypeError("format or model is of the wrong kind")
    except KeyError as error:
        cure = "read it with load_weights(path, module)"
        raise InputError(f"{path} does not say what model it holds (no {error} in its header): {cure}") from error
    except (SafetensorError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"can't read {path}: {one_line(error)}") from error
    if content["format"] > FORMAT:
        wanted = f"a version of ae that writes format {FORMAT} or older"
        raise InputError(f"{path} is of format {content['format']}, newer than this version of ae: it needs {wanted}")
    try:
        image = content.get("image")
        return Metadata(
            model=content["model"] if content["format"] >= 3 else renamed_description(content["model"]),
            image=None if image is None else checked(image, _Shape, "image"),
            classes=checked(content.get("classes", []), tuple[str, ...], "classes"),
            metrics=_checked_values(content.get("metrics", {}), int | float, "metrics"),
            versions=_checked_values(content.get("versions", {}), str, "versions"),
            format=checked(content["format"], Positive[int], "format"),
            tied=checked(content.get("tied", []), tuple[tuple[str, ...], ...], "tied"),
        )
    except InputError as error:
        raise InputError(f"can't read {path}: {_short(error)}") from error


def _checked_values(content: Any, kind: Any, name: str) -> dict[str, Any]:
    """A mapping of text to values of a kind; numbers may be NaN or infinite."""
    if not isinstance(content, dict) or not all(isinstance(value, kind) for value in content.values()):
        raise InputError(f"{name} is of the wrong kind")
    return content


@checked_arguments
def load_weights(path: Path | str, module: nn.Module, part: str | None = None, strict: bool = True) -> None:
    """Read a file's weights into a module: all of them, or those of one `part` of the model, as in `encoder`.

    With `strict`, the module must have the same tensors; without, those that both have are read. Raises InputError
    that names the tensors which are missing, unexpected, or of another shape or dtype; the module is then as it was.
    """
    found = without_wrappers(_read_tensors(path))
    if part is not None:
        prefix = f"{part}."
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        if not found:
            raise InputError(f"no weights of {part} in {path}")
    expected = plain_state(module)
    names = plain_names(module)
    own_names = {plain: name for name, plain in names.items()}
    found = {names.get(name, name): tensor for name, tensor in with_names_of(module, found).items()}
    wrong = [
        f"{name} is {_kind(found[name])}, must be {_kind(tensor)}"
        for name, tensor in expected.items()
        if name in found and not is_uninitialized(tensor) and _kind(found[name]) != _kind(tensor)
    ]
    missing = [name for name in expected if name not in found] if strict else []
    unexpected = [name for name in found if name not in expected] if strict else []
    problems = [("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)]
    said = "; ".join(f"{name}: {_some(names)}" for name, names in problems if names)
    if said:
        is_parametrized = any(".parametrizations." in f".{name}" for name in unexpected)
        cure = "; modules with parametrizations are given as they were built" if is_parametrized else ""
        raise InputError(f"the weights in {path} don't fit: {said}{cure}")
    if not found.keys() & expected.keys():
        raise InputError(f"the weights in {path} don't fit: no tensor has a name that the module knows")
    are_built_empty = any(tensor.is_meta for tensor in expected.values())
    fitting = {own_names[name]: tensor for name, tensor in found.items() if name in expected}
    module.load_state_dict(fitting, strict=False, assign=are_built_empty)


def load(
    path: str | Path,
    *,
    encoder: nn.Module | None = None,
    bottleneck: nn.Module | None = None,
    decoder: nn.Module | None = None,
    heads: Mapping[str, nn.Module] | None = None,
) -> Autoencoder:
    """The model of a run's folder, a file of weights, or `wandb:entity/project/artifact:alias`, in evaluation mode.

    Only `ae`'s own classes are built from what the file says; a module of another class is given, as in
    `encoder=MyEncoder(...)`, and gets its weights. Raises InputError for a file that is broken or newer than this
    version, and names what does not fit.
    """
    given = {"encoder": encoder, "bottleneck": bottleneck, "decoder": decoder}
    with tempfile.TemporaryDirectory() as folder:
        file = _find(path, Path(folder))
        about = read_metadata(file)
        try:
            model = _build(about, given, heads or {})
        except InputError as error:
            raise InputError(f"can't load {path}: {error}") from error
        load_weights(file, model)
        try:
            _tie(model, about.tied)
        except InputError as error:
            raise InputError(f"can't load {path}: {error}") from error
    model.image_shape = about.image
    return model.to(memory_format=torch.channels_last).eval()  # as it was trained; on CPUs four times as fast


def _build(about: Metadata, given: Mapping[str, nn.Module | None], heads: Mapping[str, nn.Module]) -> Autoencoder:
    """The model that is described, of the modules given and of new ones that have no weights yet."""
    if about.model.get("class") != "Autoencoder":
        raise InputError(f"it holds no Autoencoder but {about.model.get('class')}: read it with load_weights")
    parts = {}
    for name in _PARTS:
        said = about.model.get(name)
        parts[name] = given[name] if given[name] is not None else None if said is None else _make(said, name)
    said_heads = about.model.get("heads", {})
    if not isinstance(said_heads, dict):
        raise InputError("its heads are not described as they should be")
    if len(said_heads) > _LONGEST_LIST:
        raise InputError(f"it has {len(said_heads)} heads, which can't be right")
    unknown = [name for name in heads if name not in said_heads]
    if unknown:
        raise InputError(f"it has no head {unknown[0]}, but {', '.join(said_heads) or 'none'}")
    made = {name: heads[name] if name in heads else _make(said, name) for name, said in said_heads.items()}
    if parts["encoder"] is None:
        raise InputError("it does not describe its encoder")
    return Autoencoder(parts["encoder"], parts["decoder"], parts["bottleneck"], made)


def _make(said: Any, name: str) -> nn.Module:
    """A module of one of `ae`'s classes, on the meta device: it takes no memory, whatever its sizes are said to be."""
    if not isinstance(said, dict):
        raise InputError(f"its {name} is not described as it should be")
    kind = _KNOWN.get(str(said.get("class")))
    if kind is None:
        how = f"{name}=..." if name in _PARTS else f"heads={{{name!r}: ...}}"
        raise InputError(
            f"its {name} is of class {said.get('class')}, not one of ae's: give it, as in load(path, {how})"
        )
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items() if k != "class"}
    for key, value in arguments.items():
        values = value if isinstance(value, tuple) else [value]
        if len(values) > _LONGEST_LIST or not all(isinstance(each, int | float) for each in values):
            raise InputError(f"its {name} has an argument {key} that can't be right: {_short(value)}")
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (InputError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise InputError(f"its {name} can't be built: {_short(one_line(error))}") from error


def _find(path: str | Path, folder: Path) -> Path:
    """The file of weights; one from W&B is downloaded to `folder`."""
    if isinstance(path, str) and path.startswith("wandb:"):
        return download_weights(path.removeprefix("wandb:"), folder)
    place: Path = checked(path, Path, "path")
    if not place.is_dir():
        return place
    if (place / "model.safetensors").exists():
        return place / "model.safetensors"
    best = place / "best.safetensors"
    hint = f"its training did not end; the best weights so far are in {best}" if best.exists() else "it is no run"
    raise InputError(f"no model.safetensors in {place}: {hint}")


def _read_tensors(path: str | Path) -> dict[str, Tensor]:
    _check_header(path)
    try:
        return load_file(path)
    except Exception as error:  # safetensors has an exception of its own for each way to be broken
        raise InputError(f"can't read {path}: {one_line(error)}") from error


def _check_header(path: str | Path) -> None:
    """Raise InputError unless the file begins as safetensors does, with a header that it can hold."""
    path = Path(path)
    if not exists(path):
        raise InputError(f"no weights {path}")
    check_regular(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(_LONGEST_START)
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 0 < length <= min(_LARGEST_HEADER, size - 8):
        raise InputError(f"{path} is no whole safetensors file{_explained(path, start)}")


def _explained(path: Path, start: bytes) -> str:
    """The end of a message that says what a file is instead, and the way out."""
    if not start:
        return ": it is empty"
    if start.startswith(b"version https://git-lfs"):
        return ", but a pointer of Git LFS: git lfs pull gets the file"
    if start.lstrip()[:1] == b"<":
        return ", but a page of HTML or XML: download the file itself"
    if start.startswith(b"PK\x03\x04"):
        return _explained_zip(path)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return ", but a pickle, which could run anything: save the state dict as safetensors"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return ", but a compressed file: unpack it first"
    if start.startswith(b"\x89HDF"):
        return ", but HDF5, as Keras writes it"
    if start.lstrip()[:1] in (b"{", b"["):
        return ", but JSON"
    return ""


def _explained_zip(path: Path) -> str:
    """Describe a zip by its names and by the first bytes of what `torch.save` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not pickled:
                return ", but a zip: unpack it first"
            with archive.open(pickled[0]) as file:
                content = file.read(_LARGEST_HEADER)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return ", but a zip that is broken"
    if b"trained" in content and b"position" in content:
        return ", but the state of a training: load the folder that it is in, or continue the run"
    return ", but what torch.save writes: load it with torch.load(..., weights_only=True) and model.load_state_dict"


def _kind(tensor: Tensor) -> str:
    """Shape and dtype, as a message says them."""
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _some(names: Sequence[str], count: int = 8) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
