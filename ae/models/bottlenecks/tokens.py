"""Tokens as maps: a quantizer's methods, written for maps [b c h w], take tokens [b n c], too."""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from ae.models.bottlenecks.code import Code
from ae.utils.errors import InputError

Method = TypeVar("Method", bound=Callable[..., Any])


def or_tokens(method: Method) -> Method:
    """Let a method of maps [b c h w], or of indices [b h w], take and give tokens [b n c], or indices [b n], too."""

    @wraps(method)
    def wrapper(self: Any, x: Tensor) -> Any:
        is_index = not x.is_floating_point()
        if x.ndim != (2 if is_index else 3):
            return method(self, x)
        result = method(self, rearrange(x, "b n -> b n 1" if is_index else "b n c -> b c n 1"))
        if isinstance(result, Code):
            indices = None if result.indices is None else _as_tokens(result.indices)
            return replace(result, z=_as_tokens(result.z), mean=_as_tokens(result.mean), indices=indices)
        return _as_tokens(result)

    return wrapper  # type: ignore[return-value]


def check_channels(features: Tensor, channels: int) -> None:
    """Raise InputError unless features are a map of `channels` channels; tokens are one of width 1 here."""
    if features.ndim != 4 or features.shape[1] != channels:
        got = list(features.shape)
        raise InputError(f"features must be [b {channels} h w] or [b n {channels}], got {got}")


def _as_tokens(x: Shaped[Tensor, "b ..."]) -> Shaped[Tensor, "b n ..."]:
    """A map of width 1 [b c n 1] -> tokens [b n c]; indices [b n 1] -> [b n]."""
    return rearrange(x, "b c n 1 -> b n c" if x.ndim == 4 else "b n 1 -> b n")
