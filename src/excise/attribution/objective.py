"""P(y) of an answer text and the weight of its gradient.

Gradients are taken of log P, which is well scaled, and multiplied by P afterwards: the maximum over
tokens commutes with a positive factor, and P itself may be as small as 1e-30.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from excise.config import AttributionConfig
from excise.types import Instance


@dataclass(frozen=True)
class Objectives:
    """Log P of every option of a batch, with its graph, and what follows from it."""

    log_p: list[torch.Tensor]
    """Per prompt, log P of each option."""
    biased: list[int]
    """Per prompt, the biased option (equation 3)."""
    gold: list[int]

    def factor(self, chosen: Sequence[int], config: AttributionConfig) -> torch.Tensor:
        """[prompts] what turns a gradient of log P into the wanted one: P, or 1 for log P."""
        values = self.chosen(chosen).detach().double().cpu()
        return values.exp() if config.differentiate == "P" else torch.ones_like(values)

    def weight(self, config: AttributionConfig) -> torch.Tensor:
        """[prompts] the confusion score P(biased option), or 1 (equation 5)."""
        values = self.chosen(self.biased).detach().double().cpu()
        return values.exp() if config.instance_weight == "confusion" else torch.ones_like(values)

    def chosen(self, options: Sequence[int]) -> torch.Tensor:
        """[prompts] log P of one option of each prompt, with its graph."""
        return torch.stack([row[o] for row, o in zip(self.log_p, options, strict=True)])


def objectives(
    token_log_likelihoods: Sequence[torch.Tensor],
    lengths: Sequence[Sequence[int]],
    instances: Sequence[Instance],
    config: AttributionConfig,
) -> Objectives:
    """Log P of all options and the biased one of each prompt.

    Args:
        token_log_likelihoods: per prompt [options, longest option], zero-padded, in nats.
        lengths: per prompt, number of tokens of each option.
        instances: the items asked.
        config: what P is, and which option is the biased one.
    """
    log_p = [
        log_probability(tokens, torch.tensor(list(sizes), device=tokens.device), config.probability)
        for tokens, sizes in zip(token_log_likelihoods, lengths, strict=True)
    ]
    biased = [
        _biased(row.detach(), instance, config)
        for row, instance in zip(log_p, instances, strict=True)
    ]
    return Objectives(log_p, biased, [instance.gold for instance in instances])


def log_probability(tokens: torch.Tensor, lengths: torch.Tensor, kind: str) -> torch.Tensor:
    """[options] log P of each option from its token log-likelihoods [options, longest option]."""
    total = tokens.sum(dim=-1)
    if kind == "geometric_mean":
        return total / lengths
    if kind == "first_token":
        return tokens[:, 0]
    if kind == "option_softmax":
        return total.log_softmax(dim=-1)
    return total


def counts(instance: Instance, log_p: torch.Tensor, config: AttributionConfig) -> bool:
    """Whether an instance takes part (ambiguity 9 of the method)."""
    if config.biased_option == "ambiguous":
        return instance.condition == "ambiguous"
    if config.biased_option == "wrong":
        return int(log_p.argmax()) != instance.gold
    if config.biased_option == "stereotyped":
        return instance.stereotyped is not None and instance.stereotyped != instance.gold
    return True


def _biased(log_p: torch.Tensor, instance: Instance, config: AttributionConfig) -> int:
    if config.biased_option == "stereotyped" and instance.stereotyped is not None:
        return instance.stereotyped
    others = log_p.clone()
    others[instance.gold] = float("-inf")
    return int(others.argmax())
