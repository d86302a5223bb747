"""Token likelihoods of answers with a gradient, and what is minimised.

Prompts are masked: a position counts only if it predicts a token of the answer, or the end token
behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from excise.errors import ConfigError
from excise.methods.finetuning.examples import Example
from excise.models import LoadedModel
from excise.scoring import EncodedPrompt, encode
from excise.scoring.seq2seq import pad
from excise.types import Instance, Task

IGNORED = -100
"""Label of a position that is not trained on."""

_AS_IT_IS = Task("pairs", (), ("",), "{text}", "", "", "")

Row = tuple[tuple[int, ...], tuple[int, ...]]
"""Tokens of a prompt, and of the answer to it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded rows. R rows, W positions."""

    inputs: Mapping[str, torch.Tensor]
    """What the model is called with."""
    labels: torch.Tensor
    """[R, W] the token that each position shall predict, `IGNORED` elsewhere."""


def encode_examples(loaded: LoadedModel, examples: Sequence[Example]) -> list[EncodedPrompt]:
    """Tokens of examples; the options are the target and the other answer, end token included.

    Prompts are put as in `excise.scoring`: in the chat template where there is one. Lengths are
    checked after that.

    Raises:
        ConfigError: more tokens than the model has positions, or no end token.
    """
    prompted = [e for e in examples if e.prompt is not None]
    asked = iter(
        encode(
            loaded,
            _AS_IT_IS,
            "",
            [
                Instance(
                    id=f"pair ({e.target[:40]!r})",
                    fields={"text": e.prompt or ""},
                    options=(e.target, e.other),
                    gold=0,
                    template="",
                    block="",
                )
                for e in prompted
            ],
            end_token=True,
        )
        if prompted
        else ()
    )
    return [
        next(asked) if e.prompt is not None else encode_sentences(loaded, (e.target, e.other))
        for e in examples
    ]


def encode_sentences(loaded: LoadedModel, sentences: tuple[str, ...]) -> EncodedPrompt:
    """Sentences after nothing: the begin token, or the end token where there is none.

    Encoder-decoder models read the end token alone.
    """
    tokenizer = loaded.tokenizer
    start = tokenizer.bos_token_id
    if loaded.encoder_decoder or start is None:
        start = tokenizer.eos_token_id
    if start is None or tokenizer.eos_token_id is None:
        raise ConfigError(f"the tokenizer of {loaded.name!r} has no end token to train on.")
    ids = tokenizer(list(sentences), add_special_tokens=False).input_ids
    return EncodedPrompt((start,), tuple((*row, tokenizer.eos_token_id) for row in ids))


def collate(loaded: LoadedModel, rows: Sequence[Row]) -> Batch:
    """Rows as tensors: answers behind their prompts, or as labels of the decoder.

    Decoder-only models read prompt and answer in one sequence, so that the answer's first token is
    predicted by the prompt's last position.
    """
    device = loaded.device
    if loaded.encoder_decoder:
        ids, mask = pad([prompt for prompt, _ in rows])
        start = loaded.model.config.decoder_start_token_id
        decoder, kept = pad([(start, *answer[:-1]) for _, answer in rows])
        labels, _ = pad([answer for _, answer in rows])
        labels[kept == 0] = IGNORED
        inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder}
        return Batch({k: v.to(device) for k, v in inputs.items()}, labels.to(device))
    # The last token of an answer is only a label, never an input.
    ids, mask = pad([prompt + answer[:-1] for prompt, answer in rows])
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        labels[row, len(prompt) - 1 : len(prompt) - 1 + len(answer)] = torch.tensor(answer)
    # Logits are the larger part of the work where prompts are long and answers short.
    places = (labels != IGNORED).any(0).nonzero()[:, 0]
    inputs = {"input_ids": ids, "attention_mask": mask, "logits_to_keep": places}
    labels = labels[:, places]
    return Batch({k: v.to(device) for k, v in inputs.items()}, labels.to(device))


def logits(loaded: LoadedModel, batch: Batch) -> torch.Tensor:
    """[T, vocabulary] in float32 at the T positions that count, row by row."""
    found: torch.Tensor = loaded.model(**batch.inputs, use_cache=False).logits
    return found[batch.labels != IGNORED].float()


def likelihood_loss(loaded: LoadedModel, items: Sequence[EncodedPrompt]) -> torch.Tensor:
    """Mean negative log-likelihood of the targets' tokens, in nats."""
    batch = collate(loaded, [(item.prompt, item.options[0]) for item in items])
    return cross_entropy(logits(loaded, batch), batch.labels[batch.labels != IGNORED])


def equalised_loss(loaded: LoadedModel, items: Sequence[EncodedPrompt]) -> torch.Tensor:
    """Mean squared preference, in nats^2 per token^2: 0 where neither side is preferred."""
    return preferences(loaded, items).square().mean()


def preferences(loaded: LoadedModel, items: Sequence[EncodedPrompt]) -> torch.Tensor:
    """[items] log P(other) / its tokens - log P(target) / its tokens, in nats.

    Positive where the more stereotyped answer is the likelier one.
    """
    rows = [(item.prompt, answer) for item in items for answer in item.options]
    target, other = token_means(loaded, rows).view(-1, 2).unbind(1)
    return other - target


def token_means(loaded: LoadedModel, rows: Sequence[Row]) -> torch.Tensor:
    """[rows] mean log-likelihood of the answers' tokens, in nats."""
    batch = collate(loaded, rows)
    counted = batch.labels != IGNORED
    losses = cross_entropy(logits(loaded, batch), batch.labels[counted], reduction="none")
    return torch.stack([-part.mean() for part in torch.split(losses, counted.sum(1).tolist())])


def divergence(
    loaded: LoadedModel, rows: Sequence[Row], original: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Mean KL(original || now) of the token distributions at the answers' positions, in nats.

    Args:
        loaded: the model as it is now.
        rows: prompts and answers.
        original: for each row, [answer tokens, vocabulary] log-probabilities of the original.
    """
    now = logits(loaded, collate(loaded, rows)).log_softmax(-1)
    before = torch.cat(list(original)).to(now.device)
    return (before.exp() * (before - now)).sum(-1).mean()


@torch.no_grad()
def distributions(loaded: LoadedModel, rows: Sequence[Row]) -> list[torch.Tensor]:
    """For each row, [answer tokens, vocabulary] log-probabilities at its answer's positions."""
    found = logits(loaded, collate(loaded, rows)).log_softmax(-1)
    return [part.clone() for part in torch.split(found, [len(answer) for _, answer in rows])]
