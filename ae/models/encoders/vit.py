"""Vision transformer as an encoder."""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ae.models.decoders import ViTDecoder
from ae.models.encoders.base import ImageEncoder, Stage
from ae.models.transformer import Embedding, Positions, TransformerBlock, pad_to_multiple
from ae.utils.errors import InputError
from ae.utils.validation import Positive, checked_arguments


class ViTEncoder(ImageEncoder):
    """Vision transformer: patches are tokens, which attend to each other (Dosovitskiy et al. 2021).

    Images [b in_channels h w] in [0, 1] -> features [b width ceil(h/patch) ceil(w/patch)], the tokens in their grid, so
    that any bottleneck, head and decoder of features takes them. `tokens` gives them as [b n width], of all patches or
    of some. Images of any size are taken: the last row and column of pixels are repeated up to whole patches.

    positions  sinusoidal, or learned for `grid` = (rows, columns) and interpolated for another grid

    Raises InputError for images of another shape, dtype or range.
    """

    @checked_arguments
    def __init__(
        self,
        in_channels: Positive[int] = 1,
        patch: Positive[int] = 4,
        width: Positive[int] = 64,
        depth: Positive[int] = 4,
        heads: Positive[int] = 4,
        positions: Embedding = "sinusoidal",
        grid: Sequence[Positive[int]] = (7, 7),
        mean: float | Sequence[float] = 0.5,
        std: Positive[float] | Sequence[Positive[float]] = 0.5,
    ) -> None:
        super().__init__(in_channels, mean, std)
        self.feature_info = [Stage(width, patch)]
        self.patch, self.width, self.depth, self.heads = patch, width, depth, heads
        self.positions, self.grid = positions, tuple(grid)
        self.embed = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.embed_positions = Positions(width, positions, self.grid)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    @classmethod
    def of_stages(
        cls, in_channels: int, channels: Sequence[int], depth: int | None = None, norm: bool = False
    ) -> "ViTEncoder":
        """Build a transformer of width channels[-1] and `depth` blocks (default: 4) on patches of 2**len(channels)."""
        if not channels:
            raise InputError("an encoder needs at least one stage, got channels=()")
        return cls(in_channels, 2 ** len(channels), channels[-1], depth or 4)

    def mirror(self, out_channels: int = 1) -> ViTDecoder:
        """Build the transformer from these features to patches."""
        sizes = self.patch, self.width, self.depth, self.heads
        return ViTDecoder(out_channels, self.width, *sizes, self.positions, self.grid)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b features fh fw"]:
        """Images [b c h w] in [0, 1] -> tokens in their grid."""
        tokens = self.tokens(images)
        return rearrange(tokens, "b (h w) d -> b d h w", h=-(-images.shape[-2] // self.patch))

    def features(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """The features of `forward`, in a list: a transformer has one resolution."""
        return [self(images)]

    def tokens(
        self, images: Float[Tensor, "b c h w"], keep: Int64[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """Images [b c h w] in [0, 1] -> tokens [b n d], row by row; of the patches `keep` only, if given.

        Patches that are not kept reach no token.
        """
        x = self.embed(pad_to_multiple(self.normalised(images), self.patch))  # 28x28: [b 64 7 7]
        rows, columns = x.shape[-2:]
        x = rearrange(x, "b d h w -> b (h w) d") + self.embed_positions(rows, columns).to(x)
        if keep is not None:
            x = x.take_along_dim(keep[:, :, None], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
