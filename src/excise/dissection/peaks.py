"""At which items and tokens a neuron speaks most for the biased option."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from excise.models import LoadedModel
from excise.scoring.encoding import EncodedPrompt
from excise.types import Instance, Neuron

ITEMS = 5
"""Items and token texts listed for each neuron."""
WINDOW = 8
"""Tokens of context on each side."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The token of one prompt at which one neuron's bias attribution is highest."""

    neuron: Neuron
    instruction: int
    instance: int
    option: int
    """The biased option of the prompt (equation 3)."""
    column: int
    """Place in the module's input: among the tokens of the prompt and then the biased option, of
    the encoder's input, or of the decoder's, which begins with its start token."""
    value: float
    """Weighted attribution of the biased option at this token, minus the prompt's skill term; with
    the maximum over tokens this is the prompt's term of the score."""
    prompt: EncodedPrompt


def described(
    loaded: LoadedModel,
    peaks: Sequence[Peak],
    instances: Sequence[Instance],
    over_input: frozenset[str],
) -> dict[Neuron, dict[str, Any]]:
    """What drives each neuron, as JSON values; the texts are the dataset's, hence untrusted.

    Args:
        loaded: whose tokenizer.
        peaks: of one find sample.
        instances: that sample.
        over_input: modules whose positions are those of an encoder's input.

    Returns:
        Neuron -> `peaks`, at most one for each item, highest first; and `texts`, the tokens on
        which the maximum falls most, with their share of the sum of all positive values.
    """
    grouped: dict[Neuron, list[Peak]] = defaultdict(list)
    for peak in peaks:
        grouped[peak.neuron].append(peak)
    result = {}
    for neuron, own in grouped.items():
        own = sorted(own, key=lambda peak: -peak.value)
        best: dict[int, Peak] = {}
        for peak in own:
            best.setdefault(peak.instance, peak)
        encoder = neuron.module in over_input
        shown = [_shown(loaded, peak, instances, encoder) for peak in list(best.values())[:ITEMS]]
        weights: dict[str, float] = defaultdict(float)
        for peak in own:
            weights[_text(loaded, _placed(loaded, peak, encoder))] += max(peak.value, 0.0)
        whole = sum(weights.values())
        first = sorted(weights.items(), key=lambda pair: -pair[1])[:ITEMS]
        texts = [{"token": text, "share": value / whole} for text, value in first if value > 0]
        result[neuron] = {"peaks": shown, "texts": texts}
    return result


def token_text(loaded: LoadedModel, peak: Peak, over_input: frozenset[str]) -> str:
    """The text of a peak's token, untrusted; without white space around it where there is more.

    Args:
        loaded: whose tokenizer.
        peak: of any sample.
        over_input: modules whose positions are those of an encoder's input.
    """
    return _text(loaded, _placed(loaded, peak, peak.neuron.module in over_input))


def _shown(
    loaded: LoadedModel, peak: Peak, instances: Sequence[Instance], encoder: bool
) -> dict[str, Any]:
    placed = _placed(loaded, peak, encoder)
    before, token, after = _window(loaded, placed)
    instance = instances[peak.instance]
    return {
        "instance": instance.id,
        "condition": instance.condition,
        "instruction": peak.instruction,
        "biased_option": instance.options[peak.option],
        "reads": placed.reads,
        "position": placed.position,
        "token": token,
        "before": before,
        "after": after,
        "window": before + token + after,
        "value": peak.value,
    }


@dataclass(frozen=True, slots=True)
class _Placed:
    """A token among others."""

    ids: tuple[int, ...]
    place: int
    reads: str
    """What the token belongs to: `prompt`, `answer`, or `start` of a decoder's input."""
    position: int
    """Its place there, from 0."""


def _placed(loaded: LoadedModel, peak: Peak, encoder: bool) -> _Placed:
    prompt, answer = peak.prompt.prompt, peak.prompt.options[peak.option]
    if encoder:
        return _Placed(prompt, peak.column, "prompt", peak.column)
    if loaded.encoder_decoder:
        start = loaded.model.config.decoder_start_token_id
        reads = "answer" if peak.column else "start"
        return _Placed((start, *answer), peak.column, reads, max(peak.column - 1, 0))
    behind = peak.column - len(prompt)
    reads, position = ("prompt", peak.column) if behind < 0 else ("answer", behind)
    return _Placed(prompt + answer, peak.column, reads, position)


def _text(loaded: LoadedModel, placed: _Placed) -> str:
    """The token by itself, without white space around it where there is more to it."""
    text: str = loaded.tokenizer.decode([placed.ids[placed.place]])
    return text.strip() or text


def _window(loaded: LoadedModel, placed: _Placed) -> tuple[str, str, str]:
    """Text before the token, the token, and text after it, as they read together."""
    start, end = max(placed.place - WINDOW, 0), placed.place + 1 + WINDOW

    def decode(stop: int) -> str:
        text: str = loaded.tokenizer.decode(list(placed.ids[start:stop]))
        return text

    before, through, whole = decode(placed.place), decode(placed.place + 1), decode(end)
    if through.startswith(before) and whole.startswith(through):
        return before, through[len(before) :], whole[len(through) :]
    # A character of several tokens is not there before its last one.
    after: str = loaded.tokenizer.decode(list(placed.ids[placed.place + 1 : end]))
    return before, loaded.tokenizer.decode([placed.ids[placed.place]]), after
