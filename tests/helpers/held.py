"""For tests that look at the pixels of what `Data` loads."""

from ae import Images
from ae.data import ImageSet


def held(images: ImageSet | None) -> Images:
    """These images, held in memory as they must be."""
    assert isinstance(images, Images)
    return images
