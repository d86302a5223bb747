"""How a batch of prompts with options is laid out for one forward pass that keeps gradients.

A layout knows the log-likelihood of every option (with its graph), and which rows and positions of
each module's output count for a chosen option of each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from excise.attribution.attention import kept_probabilities
from excise.config import AttributionConfig
from excise.models import LoadedModel, Site
from excise.scoring.encoding import EncodedPrompt
from excise.scoring.rows import widened
from excise.scoring.seq2seq import pad, token_log_likelihoods


class Layout(Protocol):
    """One batch, forwarded once."""

    def log_likelihoods(self) -> list[torch.Tensor]:
        """Per prompt, token log-likelihoods [options, longest option], zero where there is none."""
        ...

    def positions(self, site: Site, chosen: Sequence[int]) -> torch.Tensor:
        """Bool [rows, tokens] of a module's output: True where a token counts for the options.

        Exactly one row of each prompt has True entries, in the order of the prompts; or none has,
        where the module does not count.
        """
        ...

    def merged(self, site: Site, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient of a module's output, summed over the copies of each input token.

        An input token is one token, however many rows repeat it for their options. It matters where
        P(y) depends on several options (`option_softmax`).
        """
        ...


def layout_for(
    loaded: LoadedModel, batch: Sequence[EncodedPrompt], config: AttributionConfig
) -> Layout:
    """The layout that shares most for this model."""
    if loaded.encoder_decoder:
        return Seq2SeqLayout(loaded, batch, config)
    if loaded.branches and takes_masks(loaded):
        return BranchLayout(loaded, batch, config)
    return RowLayout(loaded, batch, config)


def takes_masks(loaded: LoadedModel) -> bool:
    """Whether a mask of ours alone decides what is attended to.

    Flash kernels take no mask, eager ones add what they are given, so that a boolean mask would
    forbid nothing; and our mask would replace a model's windows.
    """
    config = loaded.model.config
    windows = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    layers = set(getattr(config, "layer_types", None) or ())
    kernel = getattr(config, "_attn_implementation", "eager")
    return kernel == "sdpa" and not windows and layers <= {"full_attention"}


class BranchLayout:
    """Decoder-only: one row a prompt, its options as branches behind it.

    Prompts are padded on the left, so that the last prompt token of every row stands in the same
    column and only the columns from there on need the language-model head.
    """

    def __init__(
        self, loaded: LoadedModel, batch: Sequence[EncodedPrompt], config: AttributionConfig
    ) -> None:
        self._loaded, self._batch, self._config = loaded, batch, config
        self._prompt = max(len(item.prompt) for item in batch)
        branch = max(sum(len(option) - 1 for option in item.options) for item in batch)
        self._width = self._prompt + branch

    def _starts(self, item: EncodedPrompt) -> list[int]:
        """First column of each option's branch."""
        starts, column = [], self._prompt
        for option in item.options:
            starts.append(column)
            column += len(option) - 1
        return starts

    def log_likelihoods(self) -> list[torch.Tensor]:
        """Token log-likelihoods of all options from one forward pass."""
        rows, width, device = len(self._batch), self._width, self._loaded.device
        ids = torch.zeros(rows, width, dtype=torch.long)
        positions = torch.zeros(rows, width, dtype=torch.long)
        # Padding attends to itself only: a row without any key would be undefined.
        mask = torch.eye(width, dtype=torch.bool).repeat(rows, 1, 1)
        for row, item in enumerate(self._batch):
            length, first = len(item.prompt), self._prompt - len(item.prompt)
            ids[row, first : self._prompt] = torch.tensor(item.prompt)
            positions[row, first : self._prompt] = torch.arange(length)
            mask[row, first : self._prompt, first : self._prompt] = torch.ones(
                length, length, dtype=torch.bool
            ).tril()
            for start, option in zip(self._starts(item), item.options, strict=True):
                size = len(option) - 1
                end = start + size
                ids[row, start:end] = torch.tensor(option[:-1], dtype=torch.long)
                positions[row, start:end] = torch.arange(length, length + size)
                mask[row, start:end, first : self._prompt] = True
                mask[row, start:end, start:end] = torch.ones(size, size, dtype=torch.bool).tril()
        with kept_probabilities(self._loaded.model):
            logits = self._loaded.model(
                input_ids=ids.to(device),
                position_ids=positions.to(device),
                attention_mask=mask[:, None].to(device),
                use_cache=False,
                # A number, not places: these would have to be on the device of the last layer.
                logits_to_keep=width - self._prompt + 1,
            ).logits
        scored = widened(logits).log_softmax(-1)
        # One look-up for all rows: each would write a gradient of the whole tensor.
        owners: list[int] = []
        columns: list[int] = []
        targets: list[int] = []
        sizes: list[int] = []
        for row, item in enumerate(self._batch):
            for start, option in zip(self._starts(item), item.options, strict=True):
                first = start - self._prompt + 1
                # The last prompt token predicts the first option token, the branch the others.
                columns += [0, *range(first, first + len(option) - 1)]
                owners += [row] * len(option)
                targets += option
                sizes.append(len(option))
        values = iter(torch.split(scored[owners, columns, targets], sizes))
        return [stacked([next(values) for _ in item.options]) for item in self._batch]

    def positions(self, site: Site, chosen: Sequence[int]) -> torch.Tensor:
        """Prompt and answer tokens that count, [prompts, tokens]."""
        keep = torch.zeros(len(self._batch), self._width, dtype=torch.bool)
        for row, (item, option) in enumerate(zip(self._batch, chosen, strict=True)):
            first, start = self._prompt - len(item.prompt), self._starts(item)[option]
            branch = slice(start, start + len(item.options[option]) - 1)
            _mark(keep[row], first, self._prompt, branch, self._config)
        return keep.to(self._loaded.device)

    def merged(self, site: Site, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient as it is: a prompt stands here once."""
        return gradient


class RowLayout:
    """Decoder-only, nothing shared: one row for each option of each prompt (ALiBi models)."""

    def __init__(
        self, loaded: LoadedModel, batch: Sequence[EncodedPrompt], config: AttributionConfig
    ) -> None:
        self._loaded, self._batch, self._config = loaded, batch, config
        self._rows = [item.prompt + option[:-1] for item in batch for option in item.options]

    def log_likelihoods(self) -> list[torch.Tensor]:
        """Token log-likelihoods of all options from one forward pass."""
        device = self._loaded.device
        ids, mask = pad(self._rows)
        logits = self._loaded.model(
            input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        ).logits
        result, row = [], 0
        for item in self._batch:
            longest = max(map(len, item.options))
            values = []
            for option in item.options:
                first = len(item.prompt) - 1
                scored = widened(logits[row, first : first + len(option)]).log_softmax(-1)
                value = scored[range(len(option)), list(option)]
                values.append(torch.nn.functional.pad(value, (0, longest - len(option))))
                row += 1
            result.append(torch.stack(values))
        return result

    def positions(self, site: Site, chosen: Sequence[int]) -> torch.Tensor:
        """Prompt and answer tokens that count, in the row of the chosen option only."""
        keep = torch.zeros(len(self._rows), max(map(len, self._rows)), dtype=torch.bool)
        row = 0
        for item, option in zip(self._batch, chosen, strict=True):
            length = len(item.prompt)
            branch = slice(length, length + len(item.options[option]) - 1)
            _mark(keep[row + option], 0, length, branch, self._config)
            row += len(item.options)
        return keep.to(self._loaded.device)

    def merged(self, site: Site, gradient: torch.Tensor) -> torch.Tensor:
        """Prompt tokens summed over the options' rows."""
        gradient = gradient.clone()
        row = 0
        for item in self._batch:
            copies = gradient[row : row + len(item.options), : len(item.prompt)]
            copies[:] = copies.sum(dim=0, keepdim=True)
            row += len(item.options)
        return gradient


class Seq2SeqLayout:
    """Encoder-decoder: the encoder once a prompt, one decoder row for each option."""

    def __init__(
        self, loaded: LoadedModel, batch: Sequence[EncodedPrompt], config: AttributionConfig
    ) -> None:
        self._loaded, self._batch, self._config = loaded, batch, config
        self._options = [option for item in batch for option in item.options]
        _, self._input_mask = pad([item.prompt for item in batch])

    def log_likelihoods(self) -> list[torch.Tensor]:
        """Token log-likelihoods of all options, end token included."""
        return token_log_likelihoods(self._loaded, self._batch)

    def positions(self, site: Site, chosen: Sequence[int]) -> torch.Tensor:
        """Input tokens for encoder-side modules, the option's label tokens for the others."""
        every = self._config.input_positions == "all"
        if site.over_input and site.sublayer != "cross-attention":
            mask = self._input_mask.bool()
            return (torch.ones_like(mask) if every else mask).to(self._loaded.device)
        width = self._input_mask.shape[1] if site.over_input else max(map(len, self._options))
        keep = torch.zeros(len(self._options), width, dtype=torch.bool)
        if self._config.input_positions == "encoder_only" and not site.over_input:
            return keep.to(self._loaded.device)
        row = 0
        for number, (item, option) in enumerate(zip(self._batch, chosen, strict=True)):
            if every:
                keep[row + option] = True
            elif site.over_input:
                keep[row + option] = self._input_mask[number].bool()
            else:
                keep[row + option, : len(item.options[option])] = True
            row += len(item.options)
        return keep.to(self._loaded.device)

    def merged(self, site: Site, gradient: torch.Tensor) -> torch.Tensor:
        """Keys and values of cross-attention summed over the options' rows."""
        if not (site.over_input and site.sublayer == "cross-attention"):
            return gradient
        gradient = gradient.clone()
        row = 0
        for item in self._batch:
            copies = gradient[row : row + len(item.options)]
            copies[:] = copies.sum(dim=0, keepdim=True)
            row += len(item.options)
        return gradient


def stacked(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """[options, longest option], zero where an option has no token."""
    longest = max(map(len, values))
    return torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in values])


def _mark(
    keep: torch.Tensor, first: int, prompt_end: int, branch: slice, config: AttributionConfig
) -> None:
    """Set the columns of one decoder-only row that count."""
    if config.positions in ("prompt", "both"):
        keep[first + int(config.skip_first_token) : prompt_end] = True
    if config.positions in ("answer", "both", "last"):
        keep[branch] = True
    if config.positions == "last" or not keep.any():
        # An answer of one token has no branch: the token that predicts it stands for it.
        keep[prompt_end - 1] = True
