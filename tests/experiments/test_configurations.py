"""Random configurations: valid ones train; invalid ones raise one line that names field or flag."""

import importlib
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ae import DivergedError, Images, InputError, Recipe, Splits, fit
from ae.cli import flags, parse, to_args
from ae.runs.folder import to_json
from ae.utils.seeding import generator
from ae.utils.validation import Range, checked, field_types
from experiments import joint

pytestmark = pytest.mark.usefixtures("unhooked")

NAMES = ["joint", "reconstruct", "classify", "vae", "iwae", "semi", "ladder", "vqvae", "vqgan", "gan", "aae", "wae"]
NAMES += ["sparse", "denoise", "masked", "mae", "encode", "probe", "compare", "sweep", "segment"]
CONFIGS = {name: importlib.import_module(f"experiments.{name}").Config for name in NAMES}
FEW = settings(max_examples=25)
MANY = settings(FEW, max_examples=2000)
TRAINED = settings(FEW, max_examples=250)
WORDS = ["", "x", "adamW", "1e-4", "nan", "-1", "None", "é", "a b", "--x"]


def valid(hint: Any) -> st.SearchStrategy[Any]:
    """Strategy of small valid values of a field's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = [limit for limit in arguments[1:] if isinstance(limit, Range)]
        return valid(arguments[0]).filter(lambda value: all(value in limit for limit in limits))
    if origin in (Union, types.UnionType):
        return st.one_of(*(valid(part) for part in arguments if get_origin(part) is not get_origin(CALLABLE)))
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(valid(arguments[0]), min_size=1, max_size=2).map(tuple)
    if origin is Mapping:
        return st.dictionaries(valid(arguments[0]), valid(arguments[1]), min_size=1, max_size=2)
    if origin is tuple:
        return st.tuples(*(valid(part) for part in arguments))
    if isinstance(hint, type) and is_dataclass(hint):
        return configurations(hint)
    plain = {
        int: st.integers(0, 6),
        float: st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(1e-6, 100.0)),
        bool: st.booleans(),
        str: st.sampled_from(["a", "b c"]),
        Path: st.sampled_from([Path("there"), Path("a b/ü")]),
        type(None): st.none(),
    }
    return plain[hint]


CALLABLE = field_types(Recipe)["optimizer"].__args__[-1]


def configurations(kind: Any) -> st.SearchStrategy[Any]:
    """Strategy of configurations with some random fields; incompatible combinations are filtered out."""
    drawn = {name: valid(hint) for name, hint in field_types(kind).items() if get_origin(hint) is not type(CALLABLE)}
    changes = st.lists(st.sampled_from(sorted(drawn)), max_size=3, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: drawn[name] for name in names})
    )
    return changes.map(lambda change: _construct(kind, change)).filter(lambda config: config is not None)


def _construct(kind: Any, change: dict[str, Any]) -> Any:
    """Construct a configuration; None where its fields are incompatible."""
    configs: list[Any] = []
    assert "\n" not in refusal(lambda: configs.append(kind(**change)))
    return configs[0] if configs else None


def refusal(work: Callable[[], Any]) -> str:
    """Return the error message of `work`; empty without an error."""
    try:
        work()
    except (InputError, DivergedError) as error:
        return str(error)
    return ""


def wrong(hint: Any) -> st.SearchStrategy[Any]:
    """Strategy of invalid values of a field's type."""
    values: list[Any] = [*WORDS, None, True, 0, -1, 0.5, 2.0, float("nan"), float("inf"), -float("inf"), 1j, b"x"]
    values += [(), (0,), ("x",), [], {}, {"a": 1}, object(), int, np.array([1.5]), np.float64("nan"), torch.ones(2)]
    return st.sampled_from([value for value in values if _refuses(hint, value)] or [_NOTHING])


_NOTHING = object()


def _refuses(hint: Any, value: Any) -> bool:
    return bool(refusal(lambda: checked(value, hint, "x")))


def all_fields(kind: Any) -> list[tuple[Any, str, Any]]:
    """List every field of a configuration, nested ones too, as (class, name, type)."""
    entries = []
    for name, hint in field_types(kind).items():
        entries.append((kind, name, hint))
        if isinstance(hint, type) and is_dataclass(hint):
            entries += all_fields(hint)
    return entries


FIELDS = {(kind, name): hint for config in CONFIGS.values() for kind, name, hint in all_fields(config)}
WRONG = st.sampled_from(sorted(FIELDS, key=str)).flatmap(lambda at: st.tuples(st.just(at), wrong(FIELDS[at])))


def check_wrong_value(at: tuple[Any, str], value: Any) -> None:
    (kind, name), hints = at, field_types(at[0])
    if value is _NOTHING:
        return
    have_none = [each.name for each in fields(kind) if each.default is each.default_factory]  # MISSING, both
    needed = {each: next(value for value in (1, "x", ("x",)) if not _refuses(hints[each], value)) for each in have_none}
    with pytest.raises(InputError, match=rf"^{kind.__name__}\.{name}\b.* must be ") as caught:
        kind(**{**needed, name: value})
    assert "\n" not in str(caught.value)


@FEW
@given(WRONG)
def test_settings_refuse_invalid_values(drawn: tuple[tuple[Any, str], Any]) -> None:
    check_wrong_value(*drawn)


@pytest.mark.slow
@MANY
@given(WRONG)
def test_settings_refuse_many_invalid_values(drawn: tuple[tuple[Any, str], Any]) -> None:
    check_wrong_value(*drawn)


BAD_WORDS = st.tuples(st.sampled_from(sorted(CONFIGS)), st.randoms(use_true_random=False), st.sampled_from(WORDS))


def check_bad_word(name: str, random: Any, word: str) -> None:
    """Parse a flag with any word: the result is a configuration, or one line that names the flag."""
    config = CONFIGS[name]
    flag = random.choice(sorted(flag for flag, hint in flags(config).items() if hint is not None))
    needed = {"encode": ["run", "--to", "there"], "probe": ["run"], "sweep": ["file"]}.get(name, [])
    message = refusal(lambda: parse(config, [*needed, f"{flag}={word}"]))
    assert "\n" not in message
    assert not message or flag in message.replace("_", "-") or "no run in" in message


@settings(FEW, max_examples=10)
@given(BAD_WORDS)
def test_parse_names_the_flag_of_an_invalid_word(drawn: tuple[str, Any, str]) -> None:
    check_bad_word(*drawn)


@pytest.mark.slow
@settings(FEW, max_examples=400)  # a command line takes a fifth of a second
@given(BAD_WORDS)
def test_parse_names_the_flag_of_many_invalid_words(drawn: tuple[str, Any, str]) -> None:
    check_bad_word(*drawn)


def tiny() -> Splits:
    """Return 24 random training images and 8 validation images."""
    pixels = torch.randint(0, 256, (32, 1, 12, 12), dtype=torch.uint8, generator=generator("tiny"))
    images = Images(pixels, torch.arange(32) % 3, ("a", "b", "c"))
    return Splits(images.select(slice(24)), images.select(slice(24, 32)))


def check_trains(config: joint.Config) -> None:
    """Round-trip a valid configuration by its command line; train two steps, or expect an error of one line."""
    paths = (config.data.root, config.data.targets, config.run.dir)
    root, targets, folder = (None if path is None else path.absolute() for path in paths)
    run = replace(config.run, dir=folder, resume=None, fork=None)  # no run to resume or fork exists
    config = replace(config, data=replace(config.data, root=root, targets=targets), run=run)
    assert parse(joint.Config, to_args(joint.Config, to_json(config))) == config
    data = replace(tiny(), augment=config.data.augment, labelled_per_batch=config.data.labelled_per_batch)
    data = replace(data, binarise=config.data.binarise)
    recipe = replace(config.recipe, steps=2, batch_size=min(config.recipe.batch_size, 24), compile=False)
    torch.manual_seed(0)
    results: dict[str, float] = {}
    message = refusal(lambda: results.update(fit(joint.build(config.model, data), config.objective, data, recipe)))
    assert "\n" not in message
    assert message or results["seconds"] > 0


@settings(FEW, max_examples=6)
@given(configurations(joint.Config))
def test_fit_trains_valid_configurations(config: joint.Config) -> None:
    check_trains(config)


@pytest.mark.slow
@TRAINED
@given(configurations(joint.Config))
def test_fit_trains_many_valid_configurations(config: joint.Config) -> None:
    check_trains(config)
