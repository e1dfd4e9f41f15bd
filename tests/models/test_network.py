"""The opaque operators are the functions they stand for."""

from __future__ import annotations

import torch

from rest_deploy.models import network

CHECKS = ("test_schema", "test_faketensor")  # the others are about autograd, which deploying does not use


def test_split_and_merge_heads() -> None:
    x = torch.randn(2, 5, 7, 12)
    heads = network.split_heads(x, 3)
    assert heads.shape == (2, 3, 35, 4)
    assert torch.equal(heads[1, 2, 8], x[1, 1, 1, 8:12])
    assert torch.equal(network.merge_heads(heads, x), x)
    torch.library.opcheck(network._split_heads, (x, 3), test_utils=CHECKS)
    torch.library.opcheck(network._merge_heads, (heads, x), test_utils=CHECKS)


def test_mix_heads_is_a_pointwise_convolution() -> None:
    x, weight = torch.randn(2, 4, 9, 6, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x, weight[:, :, None, None])
    torch.testing.assert_close(network.mix_heads(x, weight), expected)
    torch.library.opcheck(network._mix_heads, (x, weight), test_utils=CHECKS)


def test_subtract_uniform_centres_the_rows_of_a_softmax() -> None:
    x = torch.randn(2, 2, 5, 11, dtype=torch.float64).softmax(-1)
    assert network.subtract_uniform(x).sum(-1).abs().max() < 1e-15
    torch.library.opcheck(network._subtract_uniform, (x,), test_utils=CHECKS)
