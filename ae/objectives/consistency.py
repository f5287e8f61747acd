"""Semi-supervised learning by consistency regularisation: FixMatch and mean teacher."""

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
from ae.functional import LABEL
from ae.models.autoencoder import Autoencoder
from ae.objectives.joint import Joint, Loss, only_head
from ae.utils import global_batch
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Fraction, Positive, Settings, checked_arguments

_FREQUENCY_DECAY = 0.99  # of the moving average of class frequencies, a step
_STRONG = Augment(shift=2, rotate=20.0, scale=0.15, shear=15.0, elastic=1.0)


@dataclass(frozen=True)
class TeacherConfig(Settings):
    """Settings of the teacher, the average of the model's weights by `Recipe.ema`, and of its loss.

    `pseudo-labels`: the teacher's most likely class for the weakly augmented image, if confident, is the label of the
    strongly augmented image (Sohn et al. 2020, FixMatch, equation 4). `mean-teacher`: squared distance between the
    class probabilities of model and teacher (Tarvainen & Valpola 2017, equation 1). The teacher's predictions are
    aligned with a uniform distribution of classes (Berthelot et al. 2020, ReMixMatch, section 3.1), so that no class is
    lost. The alignment decays to none, since the true distribution is not exactly uniform.
    """

    method: Literal["pseudo-labels", "mean-teacher"] = "pseudo-labels"
    weight: AtLeast0[float] = 1.0  # of the teacher's term; 0: no term, and images are weakly augmented
    ramp: AtLeast0[int] = 0  # steps of the linear warm-up of the weight from 0
    confidence: Fraction = 0.8  # threshold of the teacher's probability for a pseudo-label, and for `taught`
    align: AtLeast0[int] = 2000  # steps in which the distribution alignment decays to none
    weak: Augment = Augment(shift=2)
    strong: Augment = _STRONG
    hide: PatchMask = PatchMask(4, 0.1)  # masks patches of the strongly augmented images


class Consistency(nn.Module):
    """`Joint` on augmented images, plus the teacher's term on unlabelled images.

    Labelled images are weakly augmented. Unlabelled images are strongly augmented and masked; the target of their
    reconstruction is unmasked. The teacher sees weakly augmented images, which also give its batch norm statistics:
    these images are closer than strongly augmented images to those of evaluation. The teacher, `averaged`, is updated
    by `fit` after each step with the decay `Recipe.ema`; before the first step, it equals the model. It is validated
    and saved, and replaces the model's weights at the end of `fit`. Terms: `consistency`, the mean over unlabelled
    images, and `taught`, the fraction of unlabelled images on which the teacher was confident. In evaluation, the loss
    is that of `Joint` on images without augmentation.
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
        self.register_buffer("frequencies", torch.full((classes,), 1 / classes))  # moving average, of the teacher
        self.train()

    def train(self, mode: bool = True) -> "Consistency":
        """Set the mode as in `nn.Module`; of a teacher that sees images, batch norm is put in training mode."""
        super().train(mode)
        self.averaged.eval()
        for module in self.averaged.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode and self.teaching.weight > 0)
        return self

    def forward(self, model: Autoencoder, batch: Batch, step: int) -> Loss:
        """The loss of `model` on `batch`."""
        if not model.training:
            return self.joint(model, batch, step)
        teaching, unlabelled = self.teaching, batch.labels < 0
        weak = teaching.weak(batch.images)
        if not teaching.weight:
            return self.joint(model, batch.with_images(weak), step)
        augmented = teaching.strong(batch.images)
        masked, _ = teaching.hide(augmented)
        is_strong = unlabelled[:, None, None, None]
        code = model.encode(torch.where(is_strong, masked, weak))
        loss = self.joint.of(model, batch.with_images(torch.where(is_strong, augmented, weak)), code, step)
        values, confident = self._values(
            only_head(model.predict(code)), self._teacher_probabilities(weak, unlabelled, step)
        )
        term = batch.mean(values, LABEL, missing=True)
        weight = teaching.weight * (min(1.0, (step + 1) / teaching.ramp) if teaching.ramp else 1.0)
        terms = {"consistency": term.detach(), "taught": batch.mean(confident.float(), LABEL, missing=True)}
        counts = dict.fromkeys(terms, batch.count(LABEL, missing=True))
        weights = {**loss.weights, "consistency": weight}
        return Loss(loss.total + weight * term, {**loss.terms, **terms}, {**loss.counts, **counts}, weights)

    def _values(
        self, logits: Float[Tensor, "b classes"], teacher: Float[Tensor, "b classes"]
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """The loss of each image against the teacher's prediction, and whether the teacher was confident."""
        confidence, label = teacher.max(1)
        confident = confidence >= self.teaching.confidence
        if self.teaching.method == "mean-teacher":
            return (logits.softmax(1) - teacher).square().sum(1), confident
        return torch.where(confident, F.cross_entropy(logits, label, reduction="none"), 0), confident

    @torch.no_grad()
    def _teacher_probabilities(
        self, weak: Float[Tensor, "b c h w"], unlabelled: Bool[Tensor, " b"], step: int
    ) -> Float[Tensor, "b classes"]:
        """The teacher's class probabilities after distribution alignment."""
        probabilities = only_head(self.averaged.predict(self.averaged.encode(weak))).float().softmax(1)
        if step >= self.teaching.align:
            return probabilities
        sums = torch.cat([torch.where(unlabelled[:, None], probabilities, 0).sum(0), unlabelled.sum()[None]])
        sums = global_batch.all_sum(sums)
        means = torch.where(sums[-1] > 0, sums[:-1] / sums[-1].clamp(min=1), self.frequencies)
        self.frequencies.lerp_(means, 1 - _FREQUENCY_DECAY)
        aligned = probabilities / self.frequencies.clamp(min=1e-6) ** (1 - step / self.teaching.align)
        return aligned / aligned.sum(1, keepdim=True)
