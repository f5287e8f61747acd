"""Blocks of transformers against timm's, attention against a loop, positions against the published code."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from ae import InputError, ViTDecoder, ViTEncoder
from ae.models.residual import PixelAttention, group_norm
from ae.models.transformer import (
    Attention,
    Positions,
    TransformerBlock,
    images_of,
    pad_to_multiple,
    patches_of,
    sinusoidal_positions,
)


def test_block_equals_timms() -> None:
    ours, theirs = TransformerBlock(24, 3), Block(24, 3, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))  # type: ignore[arg-type]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 7, 24, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    torch.testing.assert_close(ours(x), theirs(y))
    ours(x).square().sum().backward()
    theirs(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_attention_equals_a_loop_in_float64() -> None:
    attention = Attention(6, 2).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    q, k, v = attention.qkv(x).unflatten(-1, (3, 2, 3)).unbind(2)  # [b n heads 3]
    mixed = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for b in range(2):
        for head in range(2):
            for i in range(5):
                scores = torch.stack([q[b, i, head] @ k[b, j, head] / math.sqrt(3) for j in range(5)])
                mixed[b, i, head] = sum((w * v[b, j, head] for j, w in enumerate(scores.softmax(0))), torch.zeros(3))
    torch.testing.assert_close(attention(x), attention.proj(mixed.flatten(2)))


def test_pixel_attention_equals_attention_of_tokens() -> None:
    pixels, tokens = PixelAttention(8).double(), Attention(8, 1).double()
    tokens.load_state_dict({key: value.squeeze() for key, value in pixels.state_dict().items() if "norm" not in key})
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    expected = tokens(pixels.norm(x).flatten(2).mT).mT.reshape(x.shape)
    torch.testing.assert_close(pixels(x), x + expected)


def test_sinusoidal_positions_equal_the_code_of_mae() -> None:
    """Written after `get_2d_sincos_pos_embed` of facebookresearch/mae, whose grid has the columns first."""

    def of_one_axis(width: int, positions: np.ndarray) -> np.ndarray:
        omega = 1.0 / 10000 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
        out = np.einsum("m,d->md", positions.reshape(-1), omega)
        return np.concatenate([np.sin(out), np.cos(out)], axis=1)

    columns, rows = np.meshgrid(np.arange(5, dtype=np.float32), np.arange(3, dtype=np.float32))
    expected = np.concatenate([of_one_axis(8, columns), of_one_axis(8, rows)], axis=1)
    np.testing.assert_allclose(sinusoidal_positions(3, 5, 16).numpy(), expected, atol=1e-6)


def test_learned_positions_are_interpolated_smoothly() -> None:
    positions = Positions(1, "learned", (4, 6))
    with torch.no_grad():
        positions.embedding[0, 0] = torch.arange(6.0).expand(4, 6)  # the column
    assert torch.equal(positions(4, 6), torch.arange(6.0).repeat(4)[:, None])
    finer = positions(8, 12).reshape(8, 12)
    assert torch.allclose(finer, finer[:1].expand(8, 12), atol=1e-5)
    assert (finer[0].diff() > 0).all()
    assert finer.mean().item() == pytest.approx(2.5, abs=1e-3)


def test_patches_are_in_order_and_images_come_back() -> None:
    images = torch.arange(2 * 3 * 8 * 12.0).reshape(2, 3, 8, 12)
    patches = patches_of(images, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].reshape(4, 4, 3), images[1, :, 4:8, 4:8].permute(1, 2, 0))  # second row, column 1
    assert torch.equal(images_of(patches, 4, rows=2), images)


def test_padding_repeats_the_last_pixels() -> None:
    images = torch.rand(1, 2, 5, 8)
    padded = pad_to_multiple(images, 4)
    assert padded.shape == (1, 2, 8, 8)
    assert torch.equal(padded[..., :5, :], images)
    assert torch.equal(padded[..., 5:, :], images[..., 4:, :].expand(1, 2, 3, 8))
    assert pad_to_multiple(images[..., :4, :], 4) is not None


def test_tokens_of_some_patches_do_not_depend_on_the_others() -> None:
    encoder = ViTEncoder(1, patch=4, width=8, depth=2, heads=2)
    images = torch.rand(2, 1, 12, 12, requires_grad=True)
    keep = torch.tensor([[8, 0, 5], [1, 2, 3]])
    encoder.tokens(images, keep).square().sum().backward()
    assert images.grad is not None
    reached = patches_of(images.grad, 4).abs().sum(-1) > 0
    assert [row.nonzero().flatten().tolist() for row in reached] == [[0, 5, 8], [1, 2, 3]]


def test_tokens_of_all_patches_in_any_order_are_those_of_the_image() -> None:
    encoder = ViTEncoder(1, patch=4, width=8, depth=2, heads=2)
    images, order = torch.rand(1, 1, 12, 8), torch.randperm(6)[None]
    torch.testing.assert_close(encoder.tokens(images, order), encoder.tokens(images)[:, order[0]])
    torch.testing.assert_close(encoder(images), encoder.tokens(images).mT.reshape(1, 8, 3, 2))


def test_fill_of_all_tokens_equals_the_decoder_in_any_order() -> None:
    decoder = ViTDecoder(2, in_channels=5, patch=4, width=8, depth=2, heads=2)
    features, order = torch.randn(1, 5, 3, 2), torch.randperm(6)[None]
    tokens = features.flatten(2).mT
    torch.testing.assert_close(decoder.fill(tokens[:, order[0]], order, 3, 2), decoder(features))


def test_fill_puts_the_mask_token_where_patches_are_missing() -> None:
    decoder = ViTDecoder(1, in_channels=5, patch=2, width=8, depth=1, heads=2)
    tokens, keep = torch.randn(1, 2, 5), torch.tensor([[3, 1]])
    whole = decoder.mask_token.repeat(1, 4, 1)
    whole[0, [3, 1]] = decoder.stem(tokens)[0]
    torch.testing.assert_close(decoder.fill(tokens, keep, 2, 2), decoder._images(whole, 2, 2))


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (3, 1), (4, 1), (6, 1), (8, 2), (64, 16), (128, 32), (512, 32)]
)
def test_group_norm_has_at_least_4_channels_a_group(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups


def test_transformer_refuses_widths_that_can_not_be_divided() -> None:
    with pytest.raises(InputError, match="the width, 10, must be a multiple of the number of heads, 4"):
        ViTEncoder(width=10, heads=4, positions="learned")
    with pytest.raises(InputError, match="sinusoidal positions need a width that is a multiple of 4, got 10"):
        ViTDecoder(width=10, heads=2)
