"""Optional packages: extras of the installation."""

from collections.abc import Iterator
from contextlib import contextmanager

from ae.utils.errors import InputError


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Raise InputError that says that `what` needs the extra `name`, where an import in the block finds no package."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{what} needs the extra `{name}`: pip install 'ae[{name}]'") from error
