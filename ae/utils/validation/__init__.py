"""Validation of settings, of arguments and of tensors; every refusal is an InputError of one line."""

from ae.utils.validation.hints import (
    AtLeast0,
    AtLeast1,
    AtLeast2,
    BelowOne,
    Fraction,
    Positive,
    Range,
    checked,
    describe,
    nearest,
)
from ae.utils.validation.settings import Settings, check_unread, checked_arguments, field_types
from ae.utils.validation.tensors import check_channels, check_images, check_shape, checks_range, unchecked_range

__all__ = [
    "AtLeast0",
    "AtLeast1",
    "AtLeast2",
    "BelowOne",
    "Fraction",
    "Positive",
    "Range",
    "Settings",
    "check_channels",
    "check_images",
    "check_shape",
    "check_unread",
    "checked",
    "checked_arguments",
    "checks_range",
    "describe",
    "field_types",
    "nearest",
    "unchecked_range",
]
