"""A batch: images and their targets."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from ae.functional import LABEL, is_known, masked_mean
from ae.utils import global_batch
from ae.utils.errors import InputError


class Batch:
    """Images [b c h w] in [0, 1], and targets by name: a tensor [b ...] each, with a value for every image.

    Targets are integers, such as classes, with -1 where missing, or floats, with NaN where missing. A tensor in place
    of the mapping is the class target, `label`. Objectives take their means by `mean`, so that they are right for a
    shard and for a part of a batch (`ae.utils.global_batch`).
    """

    def __init__(
        self,
        images: Float[Tensor, "b c h w"],
        targets: Mapping[str, Tensor] | Int64[Tensor, " b"],
        whole: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.images = images
        self.targets: Mapping[str, Tensor] = {LABEL: targets} if isinstance(targets, Tensor) else targets
        self._whole = self.targets if whole is None else whole  # of the batch that this is a part of

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        targets = {name: list(target.shape) for name, target in self.targets.items()}
        return f"Batch(images {list(self.images.shape)}, targets {targets})"

    @property
    def labels(self) -> Int64[Tensor, " b"]:
        """The class target `label`; -1 everywhere without one."""
        if LABEL in self.targets:
            return self.targets[LABEL]
        return torch.full((len(self),), -1, device=self.images.device)

    def with_images(self, images: Float[Tensor, "b c h w"], targets: Mapping[str, Tensor] | None = None) -> "Batch":
        """Other images, such as augmented ones, with the same targets, or with `targets` that moved with them."""
        if targets is None:
            return Batch(images, self.targets, self._whole)
        return Batch(images, targets, None if self._whole is self.targets else self._whole)

    def target(self, name: str) -> Shaped[Tensor, "b *shape"]:
        """The target of this name; raises InputError if the data have none."""
        if name not in self.targets:
            raise InputError(f"the data have no target {name}, but {', '.join(self.targets) or 'none'}")
        return self.targets[name]

    def mean(self, values: Float[Tensor, " b"], target: str | None = None, missing: bool = False) -> Tensor:
        """Average `values` over all images, or over those with a known `target`, or with `missing` over the others.

        Of a batch that is a shard or a part, the average of the results over shards and parts is the mean over the
        global batch. 0 with zero gradient if there are no such images.
        """
        if target is None:
            return masked_mean(values)
        mask = is_known(self.target(target))
        return masked_mean(values, ~mask if missing else mask, self._count(target, missing))

    def count(self, target: str, missing: bool = False) -> Tensor:
        """The number of examples in `mean`, over the number of shards and parts, as `Loss.counts` are."""
        return torch.as_tensor(global_batch.mean_count(self._count(target, missing)))

    def _count(self, target: str, missing: bool) -> Int64[Tensor, ""]:
        known = is_known(self._whole[target])
        return (~known if missing else known).sum()

    def parts(self, count: int) -> list["Batch"]:
        """Divide into `count` parts, whose sizes differ by 1 at most; some are empty if there are fewer images."""
        if count == 1:
            return [self]
        divided = {name: target.tensor_split(count) for name, target in self.targets.items()}
        return [
            Batch(images, {name: parts[i] for name, parts in divided.items()}, self._whole)
            for i, images in enumerate(self.images.tensor_split(count))
        ]
