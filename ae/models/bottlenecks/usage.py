"""Usage of a codebook: how often each code occurs."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ae.utils import global_batch


def code_usage(index: Int64[Tensor, "..."], codebook_size: int) -> dict[str, Tensor]:
    """Statistics of the code indices of a batch: `perplexity`, the exponential of their entropy, and `codes_used`.

    `codes_used` is the fraction of the codebook that occurs. In several processes, both are of the global batch.
    """
    count = global_batch.all_sum(code_counts(index.flatten(), codebook_size))
    frequency = count / count.sum().clamp(min=1)
    return {"perplexity": torch.special.entr(frequency).sum().exp(), "codes_used": (count > 0).float().mean()}


def code_counts(index: Int64[Tensor, " n"], codebook_size: int) -> Float[Tensor, " codes"]:
    """Count the occurrences of each code."""
    count = torch.zeros(codebook_size, device=index.device)
    return count.index_add_(0, index, torch.ones_like(index, dtype=count.dtype))
