"""Optional packages: extras of the installation."""

from collections.abc import Iterator
from contextlib import contextmanager

from ae.utils.errors import InputError, one_line


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Raise InputError that says that `what` needs the extra `name`, where an import in the block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(f"{what} needs the extra `{name}`: pip install 'ae[{name}]'") from error
    except ImportError as error:  # such as of a package that needs a newer version of another
        raise InputError(f"{what} needs the extra `{name}`, which can't be imported: {one_line(error)}") from error
