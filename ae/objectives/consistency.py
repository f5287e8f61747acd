"""Learning from few labels: what is predicted of an unlabelled image is to hold under augmentation."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ae.data import Augment, Batch
from ae.data.corruptions import PatchMask
from ae.functional import masked_mean
from ae.models.autoencoder import Autoencoder
from ae.models.ema import average_
from ae.objectives.joint import Joint, Loss, only_head
from ae.utils import distributed
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, BelowOne, Fraction, Positive, Settings, checked_arguments

_STRONG = Augment(shift=2, rotate=20.0, scale=0.15, shear=15.0, elastic=1.0)


@dataclass(frozen=True)
class TeacherConfig(Settings):
    """How a teacher, an average of the model's weights, teaches what it sees in a weakly augmented image.

    `pseudo-labels`: its most likely class, where it is confident, is the strongly augmented image's label (Sohn et al.
    2020, FixMatch, equation 4). `mean-teacher`: the squared distance of their class probabilities (Tarvainen & Valpola
    2017, equation 1). At first its predictions are aligned with classes that are equally frequent (Berthelot et al.
    2020, ReMixMatch, section 3.1), so that none is forgotten; as no class is quite that frequent, not for ever.
    """

    method: Literal["pseudo-labels", "mean-teacher"] = "pseudo-labels"
    weight: AtLeast0[float] = 1.0  # of the teacher's term; 0: it is an average only
    ramp: AtLeast0[int] = 0  # steps in which the weight grows from 0, linearly
    decay: BelowOne = 0.99  # of the average, a step
    confidence: Fraction = 0.8  # of the teacher, from which it labels an image, and is counted as `taught`
    align: AtLeast0[int] = (
        2000  # steps in which its predictions are aligned with equally frequent classes, less and less
    )
    weak: Augment = Augment(shift=2)
    strong: Augment = _STRONG
    hide: PatchMask = PatchMask(4, 0.1)  # hides part of the strongly augmented images


class Consistency(nn.Module):
    """A `Joint` on augmented images, and a teacher's term on those without a label.

    Labelled images are augmented weakly, the others strongly, with parts hidden that reconstructions are to restore;
    the teacher sees those weakly augmented, and its batch norm takes its statistics of these: they are nearer than the
    model's to the images that it is made for. It is what is validated and saved (`averaged`), and what the model is at
    the end of `fit`. Terms: `consistency`, a mean over all unlabelled images, and `taught`, the fraction of them
    that the teacher was sure of. In evaluation it is the `Joint` alone, on images as they are.
    """

    frequencies: Tensor

    @checked_arguments
    def __init__(
        self,
        model: Autoencoder,
        classes: Positive[int],
        joint: Joint | None = None,
        teaching: TeacherConfig | None = None,
    ) -> None:
        super().__init__()
        self.joint = joint or Joint(reconstruction=0.0)
        if self.joint.corruption is not None:
            raise InputError(
                "a teacher's images are hidden in part by TeacherConfig.hide: leave the corruption out of Joint"
            )
        self.teaching = teaching or TeacherConfig()
        self.averaged = deepcopy(model).requires_grad_(False)
        self.register_buffer("frequencies", torch.full((classes,), 1 / classes))  # of classes in what it predicts
        self.train()

    def train(self, mode: bool = True) -> "Consistency":
        """As any module's; but of the teacher only batch norm is ever in training mode."""
        super().train(mode)
        self.averaged.eval()
        for module in self.averaged.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`; the first step's teacher is the model."""
        if not model.training:
            return self.joint(model, batch, step)
        teaching, unlabelled = self.teaching, batch.labels < 0
        average_(self.averaged, model, step, teaching.decay, statistics=not teaching.weight)  # else it takes its own
        weak = teaching.weak(batch.images)
        if not teaching.weight:
            return self.joint(model, Batch(weak, batch.labels), step)
        moved = teaching.strong(batch.images)
        hidden, _ = teaching.hide(moved)
        is_strong = unlabelled[:, None, None, None]
        code = model.encode(torch.where(is_strong, hidden, weak))
        loss = self.joint.of(model, Batch(torch.where(is_strong, moved, weak), batch.labels), code, step)
        values, sure = self._values(only_head(model.classify(code)), self._taught(weak, unlabelled, step))
        term = masked_mean(values, unlabelled)
        weight = teaching.weight * (min(1.0, (step + 1) / teaching.ramp) if teaching.ramp else 1.0)
        terms = {"consistency": term.detach(), "taught": masked_mean(sure.float(), unlabelled)}
        counts = dict.fromkeys(terms, torch.as_tensor(distributed.mean_count(unlabelled.sum())))
        weights = {**loss.weights, "consistency": weight}
        return Loss(loss.total + weight * term, {**loss.terms, **terms}, {**loss.counts, **counts}, weights)

    def _values(
        self, logits: Float[Tensor, "b classes"], taught: Float[Tensor, "b classes"]
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """How far each image's prediction is from what was taught, and whether the teacher was sure."""
        confidence, label = taught.max(1)
        sure = confidence >= self.teaching.confidence
        if self.teaching.method == "mean-teacher":
            return (logits.softmax(1) - taught).square().sum(1), sure
        return torch.where(sure, F.cross_entropy(logits, label, reduction="none"), 0), sure

    @torch.no_grad()
    def _taught(
        self, weak: Float[Tensor, "b c h w"], unlabelled: Bool[Tensor, " b"], step: int
    ) -> Float[Tensor, "b classes"]:
        """The teacher's class probabilities, aligned."""
        probabilities = only_head(self.averaged.classify(self.averaged.encode(weak))).float().softmax(1)
        if step >= self.teaching.align:
            return probabilities
        sums = torch.cat([torch.where(unlabelled[:, None], probabilities, 0).sum(0), unlabelled.sum()[None]])
        sums = distributed.all_sum(sums)
        means = torch.where(sums[-1] > 0, sums[:-1] / sums[-1].clamp(min=1), self.frequencies)
        self.frequencies.lerp_(means, 1 - self.teaching.decay)
        aligned = probabilities / self.frequencies.clamp(min=1e-6) ** (1 - step / self.teaching.align)
        return aligned / aligned.sum(1, keepdim=True)
