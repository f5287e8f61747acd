"""Access to the pixels of an in-memory data set."""

from ae import Images
from ae.data import ImageSet


def held(images: ImageSet | None) -> Images:
    """Narrow a data set to `Images`, which holds its pixels in memory."""
    assert isinstance(images, Images)
    return images
