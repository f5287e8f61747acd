"""The loss of a step, the checks of objectives, and the joint objective."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ae import functional
from ae.data import Batch
from ae.functional import LABEL, at_least_float32, is_known, masked_mean
from ae.models.autoencoder import Autoencoder
from ae.models.bottlenecks import Code
from ae.models.heads import heads_of, prefix_of
from ae.models.likelihoods import Likelihood
from ae.utils.errors import InputError
from ae.utils.validation import AtLeast0, Positive, Settings, check_unread

Corruption = Callable[[Float[Tensor, "b c h w"]], tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b #c h w"] | None]]
"""Clean images -> (corrupted images, mask of the pixels in the loss, or None for all)."""


@dataclass
class Loss:
    """Output of an objective for a batch.

    total    scalar with gradient
    terms    detached, unweighted scalars, each a mean over examples
    counts   number of examples in the mean of a term, if it is not the batch size
    weights  weights in `total` of the terms in `counts`, to average `total` over batches with different counts. The
             rest of `total` is a mean over the whole batch
    """

    total: Float[Tensor, ""]
    terms: dict[str, Float[Tensor, ""]]
    counts: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float | Tensor] = field(default_factory=dict)

    def detached(self) -> "Loss":
        """The same values without gradients."""
        return replace(self, total=self.total.detach(), terms={k: v.detach() for k, v in self.terms.items()})

    @staticmethod
    def mean(parts: Sequence["Loss"], name: str | None = None) -> "Loss":
        """The loss of a batch from those of its parts, whose means are over the batch; its total is a term `name`."""
        first = parts[0]
        total, terms, counts = first.total, dict(first.terms), first.counts
        if len(parts) > 1:
            total = torch.stack([part.total for part in parts]).mean()
            counts = {key: torch.stack([torch.as_tensor(part.counts[key]) for part in parts]).sum() for key in counts}
            for key in terms:
                values = torch.stack([part.terms[key] for part in parts])
                if key in counts:
                    shares = torch.stack([torch.as_tensor(part.counts[key]) for part in parts])
                    terms[key] = (values * shares).sum() / counts[key].clamp(min=1e-12)
                else:
                    terms[key] = values.mean()
        return replace(first, total=total, terms=terms if name is None else {**terms, name: total}, counts=counts)

    @staticmethod
    def sum(losses: Sequence["Loss"]) -> "Loss":
        """The sum of several losses of a batch, with the terms of all."""
        if len(losses) == 1:
            return losses[0]
        terms, counts, weights = ({}, {}, {})  # type: ignore[var-annotated]
        for loss in losses:
            terms |= loss.terms
            counts |= loss.counts
            weights |= loss.weights
        return Loss(torch.stack([loss.total for loss in losses]).sum(), terms, counts, weights)


def check_objective(objective: Any) -> None:
    """Raise InputError unless `objective` can be called as `objective(model, batch, step)`."""
    signature_rule = "an objective is called as objective(model, batch, step)"
    if isinstance(objective, type):
        raise InputError(f"{signature_rule}: give an instance, {objective.__name__}(...), instead of the class")
    if not callable(objective) or getattr(type(objective), "forward", None) is nn.Module.forward:
        raise InputError(f"{signature_rule}, got {type(objective).__name__}, which can't be called")
    function: Callable[..., Any] = objective.forward if isinstance(objective, nn.Module) else objective
    try:
        signature = inspect.signature(function)
    except ValueError:  # builtin functions have no signature
        return
    try:
        signature.bind(None, None, 0)
    except TypeError as error:
        raise InputError(f"{signature_rule}, got one that takes {signature}: {error}") from error


def checked_loss(loss: Any, trains: bool = False) -> Loss:
    """Return `loss`; raises InputError unless it is a Loss of scalars, with a gradient in training."""
    if not isinstance(loss, Loss):
        raise InputError(f"an objective must give a Loss(total, terms), gave {_kind(loss)}")
    scalars = {"total": loss.total, **loss.terms}
    wrong = next((name for name, value in scalars.items() if not isinstance(value, Tensor) or value.ndim), None)
    if wrong is not None:
        name = wrong if wrong == "total" else f"term {wrong}"
        raise InputError(f"an objective's {name} must be a tensor without dimensions, got {_kind(scalars[wrong])}")
    unknown = [name for name in (*loss.counts, *loss.weights) if name not in loss.terms]
    uncounted = [name for name in loss.weights if name not in loss.counts]
    if unknown or uncounted:
        missing = f"{unknown[0]}, which is none of its terms" if unknown else f"{uncounted[0]}, which has no count"
        raise InputError(f"an objective's counts and weights are of its terms, got {missing}")
    if trains and not loss.total.requires_grad:
        raise InputError("an objective's total has no gradient: was it detached, or made of frozen parameters only?")
    return loss


def _kind(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__} {value!r:.60}"


Ramp = tuple[AtLeast0[float], Positive[int]]


@dataclass(frozen=True)
class WeightSchedule(Settings):
    """Linear schedules of the weights of terms: (initial weight, steps until the final weight)."""

    reconstruction: Ramp | None = None  # of the reconstruction term
    beta: Ramp | None = None  # of the rate; 0 1000: a VAE's warm-up (Bowman et al. 2016, section 3.1)
    aux: Ramp | None = None  # of the bottleneck's auxiliary losses
    classification: Ramp | None = None  # of the heads' losses


@dataclass(frozen=True)
class Joint(Settings):
    """A weighted sum of reconstruction, rate, auxiliary losses and the heads' losses; a weight of 0 skips its term.

    The reconstruction term is the negative log-likelihood of the clean image under the model's likelihood, mean over
    the batch; its key is the likelihood's name. The loss of each head is the mean over the images that have its target,
    such as the cross-entropy in nats over the labelled images. `Code.stats` and `Code.aux` are among the terms.
    Training and evaluation use the same reductions. Raises InputError if the model has no decoder, head or posterior
    for a term, or a rate is added to a likelihood that is not in nats.
    """

    corruption: Corruption | None = None
    reconstruction: AtLeast0[float] = 20.0  # weight of the reconstruction term
    beta: AtLeast0[float] = 0.0  # weight of the code's rate in nats (Higgins et al. 2017); needs a likelihood in nats
    free_bits: AtLeast0[float] = 0.0  # nats per latent without cost; needs a posterior, and a prior with `kl`
    aux: AtLeast0[float] = 1.0  # weight of the bottleneck's auxiliary losses, such as a quantizer's commitment
    classification: AtLeast0[float] = 1.0  # weight of the heads' losses, such as the cross-entropy
    heads: Mapping[str, AtLeast0[float]] | None = None  # weights of heads by name, times classification; default: 1
    weight_schedule: WeightSchedule = WeightSchedule()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.has("reconstruction") and not self.has("classification"):
            raise InputError("nothing to learn: Joint.reconstruction and Joint.classification are both 0")
        if not self.has("beta"):
            check_unread(self, ["free_bits"], "where the rate costs nothing: give Joint.beta a weight")
        for name, ramp in vars(self.weight_schedule).items():
            if ramp is not None and not self.has(name):
                raise InputError(f"WeightSchedule.{name} is of a term that never counts: give Joint.{name} a weight")

    def __call__(
        self, model: Autoencoder, batch: Batch, step: int, weights: Mapping[str, Tensor] | None = None
    ) -> Loss:
        """The loss of `model` on `batch`; `weights` by name override those of the fields."""
        images, mask = self.corrupted(batch.images)
        return self.of(model, batch, model.encode(images), step, mask, weights)

    def of(
        self,
        model: Autoencoder,
        batch: Batch,
        code: Code,
        step: int,
        mask: Bool[Tensor, "b #c h w"] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        params: Tensor | None = None,
    ) -> Loss:
        """The loss for a given code, and its decoded `params` if known, to which other objectives add their terms."""
        weight: dict[str, float | Tensor] = {
            **{name: self.weight(name, step) for name in vars(self.weight_schedule)},
            **(weights or {}),
        }
        total = at_least_float32(code.rate).new_zeros(())
        terms: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        count_weights: dict[str, float | Tensor] = {}
        if self.has("reconstruction"):
            likelihood = likelihood_of(model, in_nats=self.has("beta"))
            params = model.decode_params(code.z, batch.images.shape[-2:]) if params is None else params
            value = masked_mean(likelihood.nll(params, batch.images, mask))
            total, terms[likelihood.name] = total + weight["reconstruction"] * value, value.detach()
        if self.has("beta"):
            value = masked_mean(code.rate)
            cost = weight["beta"] * (self._free_rate(code) if self.free_bits else value)
            total, terms["rate"] = total + cost, value.detach()
        if self.has("aux"):
            for name, values in code.aux.items():
                value = masked_mean(values)
                total, terms[name] = total + weight["aux"] * value, value.detach()
        if self.has("classification"):
            heads_loss = loss_of_heads(model, code, batch, self.heads or {})
            total, counts = total + weight["classification"] * heads_loss.total, heads_loss.counts
            terms |= heads_loss.terms
            count_weights = {key: weight["classification"] * share for key, share in heads_loss.weights.items()}
        return Loss(total, {**code.stats, **terms}, counts, count_weights)

    def corrupted(
        self, images: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b c h w"], Bool[Tensor, "b #c h w"] | None]:
        """Corrupt images; returns the corrupted images and the mask of the pixels in the loss."""
        return (images, None) if self.corruption is None else self.corruption(images)

    def weight(self, name: str, step: int) -> float:
        """Weight of a term at `step`, counted from 0."""
        value, ramp = getattr(self, name), getattr(self.weight_schedule, name)
        if ramp is None:
            return value
        first, steps = ramp
        return first + (value - first) * min(1.0, (step + 1) / steps)

    def has(self, name: str) -> bool:
        """Whether the term has a weight above 0 at any step."""
        ramp = getattr(self.weight_schedule, name)
        return getattr(self, name) > 0 or (ramp is not None and ramp[0] > 0)

    def check_likelihood(self, name: str) -> None:
        """Raise InputError if the rate, in nats, would be added to a squared error; `name` is the likelihood's."""
        if self.has("beta") and name == "mse":
            choices = "bernoulli, gaussian, discretized-logistic or categorical"
            raise InputError(f"Joint.beta is in nats: choose the model's likelihood {choices}, not mse")

    def _free_rate(self, code: Code) -> Float[Tensor, ""]:
        if code.latent_rates is None:
            raise InputError("free_bits needs a rate of each latent: of Gaussian, with a prior that has kl(posterior)")
        return functional.free_bits(code.latent_rates, self.free_bits)


def likelihood_of(model: Autoencoder, in_nats: bool) -> Likelihood:
    """The likelihood of a model; with `in_nats`, raises InputError if its loss is not in nats, as a rate is."""
    likelihood: Any = model.likelihood
    if in_nats and not likelihood.in_nats:
        raise InputError(f"the rate is in nats, and the likelihood {likelihood.name} is not: choose bernoulli, say")
    return likelihood


def corruption_of(objective: Any) -> Corruption | None:
    """Corruption of an objective, or of its `joint`."""
    return getattr(getattr(objective, "joint", objective), "corruption", None)


def loss_of_heads(model: Autoencoder, code: Code, batch: Batch, weights: Mapping[str, float]) -> Loss:
    """The weighted sum of the losses of all heads, with their metrics as terms; `weights` by name, else 1.

    The terms of a model's only head have no prefix, of several heads that of their name, as in `digit/accuracy`. Raises
    InputError for a model without heads, a weight of an unknown head, and a target that the data lack.
    """
    heads = heads_of(model)
    if not len(model.heads):
        raise InputError("classification needs a model with a head, got none; else set its weight to 0")
    for name in weights:
        if name not in model.heads:
            raise InputError(f"Joint.heads has a weight of {name}; the model has the heads {', '.join(model.heads)}")
    for name in model.heads:
        if name not in heads:
            contract = "target, loss_name, loss and metrics, as Classifier has (ae.models.heads)"
            raise InputError(f"one of several heads needs {contract}: {name} is a {type(model.heads[name]).__name__}")
    outputs = model.predict(code)
    total: Tensor | None = None
    terms: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    term_weights: dict[str, float | Tensor] = {}
    for name, head in heads.items():
        target, prefix, weight = batch.target(head.target), prefix_of(name, model), weights.get(name, 1.0)
        if target.is_floating_point():  # a NaN would reach the gradient, where 0 times NaN is NaN
            missing = ~is_known(target).view(-1, *(1,) * (target.ndim - 1))
            target = torch.where(missing, 0.0, target)
        value = batch.mean(at_least_float32(head.loss(outputs[name], target)), head.target)
        metrics = {key: batch.mean(each, head.target) for key, each in head.metrics(outputs[name], target).items()}
        values = {f"{prefix}{key}": each.detach() for key, each in {head.loss_name: value, **metrics}.items()}
        terms |= values
        counts |= dict.fromkeys(values, batch.count(head.target))
        term_weights[f"{prefix}{head.loss_name}"] = weight
        total = weight * value if total is None else total + weight * value
    assert total is not None
    return Loss(total, terms, counts, term_weights)


def classification(logits: Float[Tensor, "b classes"], batch: Batch) -> Loss:
    """Cross-entropy in nats and accuracy, means over the labelled images of the batch."""
    labels = batch.labels
    value = batch.mean(functional.cross_entropy(logits, labels), LABEL)
    accuracy = batch.mean((logits.argmax(1) == labels).float(), LABEL)
    terms = {"cross_entropy": value.detach(), "accuracy": accuracy}
    counts = dict.fromkeys(terms, batch.count(LABEL))
    return Loss(value, terms, counts, {"cross_entropy": 1.0})


def only_head(logits: dict[str, Float[Tensor, "b classes"]]) -> Float[Tensor, "b classes"]:
    """The logits of the single head; raises InputError for any other number of heads or another shape."""
    if len(logits) != 1:
        heads = ", ".join(logits) or "none"
        raise InputError(f"this objective needs a model with exactly one head, a classifier, got {heads}")
    ((name, values),) = logits.items()
    if values.ndim != 2:
        raise InputError(f"the head {name} must give logits [b classes], gave {list(values.shape)}")
    return values
