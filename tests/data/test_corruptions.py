"""Corruptions of images, and masks of the loss."""

import pytest
import torch

from ae import Images, InputError
from ae.data.corruptions import GaussianNoise, PatchMask, SaltAndPepper


def test_gaussian_noise_has_its_standard_deviation_and_range() -> None:
    images = torch.full((20, 1, 30, 30), 0.5)
    noisy, mask = GaussianNoise(0.1)(images)
    assert mask is None
    assert (noisy - images).std().item() == pytest.approx(0.1, rel=0.03)
    wild, _ = GaussianNoise(5.0)(images)
    assert wild.min() == 0
    assert wild.max() == 1


def test_salt_and_pepper_sets_all_channels_to_black_or_white() -> None:
    images = torch.full((20, 3, 30, 30), 0.5)
    spoilt, mask = SaltAndPepper(0.2)(images)
    assert mask is None
    assert (spoilt == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (spoilt == 1).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(spoilt[:, 0], spoilt[:, 2])


@pytest.mark.parametrize(("side", "patch", "patches"), [(28, 4, 49), (28, 7, 16), (13, 4, 16), (5, 9, 1)])
def test_patch_mask_hides_whole_patches_equally_many_per_image(side: int, patch: int, patches: int) -> None:
    images = torch.rand(6, 2, side, side + 0) + 0.1
    shown, mask = PatchMask(patch, 0.5)(images)
    assert mask.shape == (6, 1, side, side)
    assert torch.equal(shown == 0, mask.expand_as(shown))
    assert torch.equal(shown[~mask.expand_as(shown)], images[~mask.expand_as(shown)])
    for image in mask[:, 0]:
        squares = [square for rows in image.split(patch) for square in rows.split(patch, dim=1)]
        assert len(squares) == patches
        assert all(square.all() or not square.any() for square in squares)
        assert sum(bool(square.all()) for square in squares) == round(0.5 * patches)
    assert not torch.equal(mask[0], mask[1]) or patches == 1


def test_corruptions_are_reproducible_by_seed(noise: Images) -> None:
    images = noise.batch(slice(None)).images
    for corruption in (GaussianNoise(), SaltAndPepper(), PatchMask()):
        corrupted = []
        for _ in range(2):
            torch.manual_seed(3)
            corrupted.append(corruption(images)[0])
        assert torch.equal(*corrupted)
        assert not torch.equal(corrupted[0], images)
        assert corruption(images[:0])[0].shape == (0, 3, 9, 13)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: GaussianNoise(-1.0), "std must be 0 or more, got -1.0"),
        (lambda: SaltAndPepper(1.5), "fraction must be from 0 to 1, got 1.5"),
        (lambda: PatchMask(0), "patch must be positive, got 0"),
    ],
)
def test_corruptions_refuse_settings_out_of_range(make: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        make()  # type: ignore[operator]
