"""Packed linear maps compute what plain ones do."""

import pytest
import torch
from torch import nn

from excise.models import packed
from excise.models.packed import packed_linears


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 12), nn.GELU(), nn.Linear(12, 5, bias=False))


def test_values_and_gradients_equal_the_plain_maps():
    network = _network()
    inputs = torch.randn(2, 3, 7)
    plain_inputs = inputs.clone().requires_grad_(True)
    plain = network(plain_inputs)
    plain.pow(2).sum().backward()
    packed_inputs = inputs.clone().requires_grad_(True)
    with packed_linears(network, gradients=True):
        assert "forward" in network[0].__dict__, "packing must be available where tests run"
        output = network(packed_inputs)
        output.pow(2).sum().backward()
    torch.testing.assert_close(output, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(packed_inputs.grad, plain_inputs.grad, rtol=1e-5, atol=1e-5)


def test_hooks_see_the_outputs_and_forward_comes_back_after_an_error():
    network, seen = _network(), []
    handle = network[0].register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    with packed_linears(network):
        network(torch.randn(1, 7))
    handle.remove()
    with pytest.raises(RuntimeError), packed_linears(network):
        network(torch.randn(1, 6))  # a wrong width
    assert seen == [torch.Size([1, 12])]
    assert all("forward" not in module.__dict__ for module in network)


def test_other_types_and_large_models_are_left_alone(monkeypatch):
    network = _network().to(torch.bfloat16)
    with packed_linears(network):
        assert all("forward" not in module.__dict__ for module in network)
    monkeypatch.setattr(packed, "MAX_BYTES", 10)
    network = _network()
    with packed_linears(network):
        assert all("forward" not in module.__dict__ for module in network)


def test_a_forward_that_somebody_else_replaced_is_kept():
    network = _network()
    own = network[0].forward
    network[0].forward = lambda inputs: own(inputs) + 1.0
    with packed_linears(network), packed_linears(network):
        network(torch.randn(1, 7))
    assert "forward" in vars(network[0])
    assert "forward" not in vars(network[2])


def test_an_edit_between_two_blocks_is_seen():
    network, inputs = _network(), torch.randn(1, 7)
    with packed_linears(network):
        before = network(inputs)
    with torch.no_grad():
        network[2].weight[1] = 0.0
    with packed_linears(network):
        after = network(inputs)
    assert after[0, 1] == 0.0
    assert before[0, 1] != 0.0
