"""Training of a prior over discrete codes, its negative log-likelihood, and its file."""

from collections.abc import Callable
from itertools import islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.data import ImageSet, Splits
from ae.evaluation.inference import evaluating
from ae.functional import masked_mean
from ae.models.priors import PixelCNN
from ae.objectives import Loss
from ae.training.meter import Meter
from ae.training.progress import Progress
from ae.training.recipe import Recipe
from ae.utils import distributed
from ae.utils.errors import DivergedError, InputError
from ae.utils.validation import Positive, checked_arguments, unchecked_range

Indices = Callable[[Float[Tensor, "b c h w"]], Int64[Tensor, "b h w"]]
"""Images -> indices of their codes."""


@checked_arguments
def fit_prior(
    prior: PixelCNN, indices: Indices, data: Splits, recipe: Recipe, steps: Positive[int] | None = None
) -> None:
    """Train the prior in place on the codes of the training images; `steps` overrides the recipe's length.

    Several processes share every batch, as in `fit`. Order, noise and learning rates are functions of seed and step, so
    that the same seed and images give the same prior. Raises InputError for a recipe with an average of the weights,
    and DivergedError when the loss becomes NaN or infinite.
    """
    if recipe.ema is not None:
        raise InputError("a prior is trained without an average of its weights: leave Recipe.ema out")
    device = next(prior.parameters()).device
    batches = data.to(device).batches(recipe.batch_size, recipe.seed)
    total_steps = steps or recipe.steps or recipe.epochs * len(batches)
    recipe.check_warmup(total_steps)
    optimizer = recipe.make_optimizer(list(prior.parameters()))
    forward, meter = distributed.data_parallel(_PriorLoss(prior)), Meter()
    prior.train()
    with Progress(total_steps) as progress, unchecked_range():
        for step, batch in enumerate(islice(batches.starting_at(0), total_steps)):
            lr = recipe.learning_rate(step, total_steps)
            for group in optimizer.param_groups:
                group["lr"] = lr
            with torch.no_grad():
                index = indices(batch.images)
            images = batches.size(step)
            with distributed.global_batch(images):
                loss = forward(index)
            optimizer.zero_grad()
            loss.backward()
            if recipe.grad_clip is not None:
                nn.utils.clip_grad_norm_(prior.parameters(), recipe.grad_clip)
            optimizer.step()
            meter.add(step, Loss(loss, {}), images)
            progress.step()
            if (step + 1) % recipe.log_every == 0 or step + 1 == total_steps:
                measured = meter.read()
                if meter.first_bad is not None:
                    bad_step = meter.first_bad[0]
                    lr = recipe.learning_rate(bad_step, total_steps)
                    raise DivergedError(
                        f"the prior's loss became NaN or infinite at step {bad_step}, learning rate {lr:.3g}"
                    )
                progress.show("prior", measured, (step + 1) / len(batches))
                meter.restart()


class _PriorLoss(nn.Module):
    """The mean of -log p(index) over the batch of all processes."""

    def __init__(self, prior: PixelCNN) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, index: Int64[Tensor, "b h w"]) -> Float[Tensor, ""]:
        return masked_mean(self.prior.negative_log_likelihood(index))


def nats(prior: PixelCNN, indices: Indices, images: ImageSet, batch_size: int = 256) -> float:
    """Return -log p of the codes in nats an image, the mean over a data set."""
    device = next(prior.parameters()).device
    with evaluating(prior):
        values = [
            prior.negative_log_likelihood(indices(batch.images)) for batch in images.to(device).in_order(batch_size)
        ]
    return torch.cat(values).double().mean().item()
