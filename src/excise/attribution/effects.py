"""First-order effects: what scaling any neuron would change, from backward passes alone.

Multiplying an output feature h by a factor f moves an objective O, to first order in f - 1, by
(f - 1) times the sum over all tokens of h * dO/dh (Molchanov et al., ICLR 2017, equation 8, use the
size of this number to prune). Zeroing is f = 0. One backward pass gives it for every neuron of the
model at once; what it leaves out is curvature, so a proposal made from it has to be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from excise.attribution.layouts import layout_for
from excise.attribution.recorder import Recorder, recording
from excise.config import AttributionConfig
from excise.errors import ConfigError, NonFiniteError
from excise.models import LoadedModel, Site, packed_linears
from excise.scoring.encoding import EncodedPrompt, encode
from excise.types import FloatArray, Instance, Normalisation, Task

Objective = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""From what the options are compared by [options], their mean log-likelihoods per token [options]
and the gold option to one number, with its graph."""


def log_share(compared: torch.Tensor, per_token: torch.Tensor, gold: int) -> torch.Tensor:
    """Log of the gold option's share in a softmax of what options are compared by, in nats."""
    return compared.log_softmax(dim=-1)[gold]


def share(compared: torch.Tensor, per_token: torch.Tensor, gold: int) -> torch.Tensor:
    """The gold option's share in that softmax: an accuracy without jumps, 0..1."""
    return compared.softmax(dim=-1)[gold]


def gold_log_likelihood(compared: torch.Tensor, per_token: torch.Tensor, gold: int) -> torch.Tensor:
    """Log-likelihood of the gold option per token, in nats."""
    return per_token[gold]


@dataclass(frozen=True, slots=True)
class Question:
    """An instance under an instruction."""

    instance: Instance
    instruction: str
    group: int
    """Effects are averaged within a group, from 0."""


@dataclass(frozen=True)
class Effects:
    """Derivatives of objectives by the factors of all neurons."""

    by_module: Mapping[str, FloatArray]
    """Module -> [objectives, groups, neurons], means over a group's questions: the change per unit
    of the factor. Zeroing changes the objective by about minus this."""


def effects(
    loaded: LoadedModel,
    task: Task,
    questions: Sequence[Question],
    objectives: Sequence[Objective],
    sites: Sequence[Site],
    *,
    normalisation: Normalisation,
    end_token: bool = False,
    batch_size: int = 4,
    advance: Callable[[int], None] | None = None,
) -> Effects:
    """Derivatives of objectives by the factor of every neuron, at factor 1.

    Exact: all tokens of all options count, the first token too. One forward pass a batch and one
    backward pass an objective.

    Args:
        loaded: the model, in the state to be changed; float32 or bfloat16.
        task: the prompt format.
        questions: what is asked; groups are numbered without gaps.
        objectives: what is differentiated.
        sites: whose neurons.
        normalisation: how options are compared.
        end_token: as in scoring.
        batch_size: questions forwarded at once; changes nothing else.
        advance: called with the number of questions just finished.

    Raises:
        ConfigError: float16, or no question.
        NonFiniteError: NaN or infinity; names module and instance.
    """
    if loaded.model.dtype == torch.float16:
        raise ConfigError("float16 gradients underflow; attribute with --dtype float32.")
    if not questions:
        raise ConfigError("there is no question to attribute.")
    groups = np.array([question.group for question in questions])
    size = int(groups.max()) + 1
    total = {site.module: np.zeros((len(objectives), size, site.size)) for site in sites}
    # Every token counts, whatever the method's own options say.
    config = AttributionConfig(tokens="sum", skip_first_token=False)
    recorder = _Totals(config)
    with (
        packed_linears(loaded.model, gradients=True),
        recording(loaded, sites, config, recorder),
    ):
        for batch in batched(loaded, task, questions, batch_size, end_token):
            with torch.enable_grad():
                layout = layout_for(loaded, [item for _, item in batch], config)
                answers = compared(layout.log_likelihoods(), batch, normalisation)
                for place, objective in enumerate(objectives):
                    recorder.clear()
                    # Questions do not see each other: the gradient of the sum is that of each.
                    value = torch.stack([objective(*answer) for answer in answers]).sum()
                    torch.autograd.backward(value, retain_graph=place < len(objectives) - 1)
                    for module, rows in recorder.reduced.items():
                        _add(total[module][place], module, rows, batch)
            if advance:
                advance(len(batch))
    counts = np.bincount(groups, minlength=size)[:, None]
    return Effects({module: values / counts for module, values in total.items()})


class _Totals(Recorder):
    """Sums activation x gradient over all tokens of each row."""

    def record(self, site: Site, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """[rows, neurons]; what does not matter to the objective has no gradient."""
        self.reduced[site.module] = torch.einsum("rtn,rtn->rn", activation, gradient)


_Batch = list[tuple[Question, EncodedPrompt]]


def batched(
    loaded: LoadedModel, task: Task, questions: Sequence[Question], size: int, end_token: bool
) -> list[_Batch]:
    """Questions of similar length together: padding costs as much as text."""
    pairs: _Batch = []
    for instruction in dict.fromkeys(question.instruction for question in questions):
        asked = [question for question in questions if question.instruction == instruction]
        instances = [question.instance for question in asked]
        encoded = encode(loaded, task, instruction, instances, end_token=end_token)
        pairs += zip(asked, encoded, strict=True)
    pairs.sort(key=lambda pair: len(pair[1].prompt))
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def compared(
    likelihoods: Sequence[torch.Tensor], batch: _Batch, normalisation: Normalisation
) -> list[tuple[torch.Tensor, torch.Tensor, int]]:
    """Per question: what options are compared by, log-likelihoods per token, the gold option."""
    result = []
    for tokens, (question, item) in zip(likelihoods, batch, strict=True):
        totals = tokens.sum(dim=-1)
        lengths = totals.new_tensor([len(option) for option in item.options])
        divisor = {
            "total": torch.ones_like(lengths),
            "per_token": lengths,
            "per_byte": totals.new_tensor(
                [len(option.encode()) for option in question.instance.options]
            ),
        }[normalisation]
        result.append((totals / divisor, totals / lengths, question.instance.gold))
    return result


def _add(total: FloatArray, module: str, rows: torch.Tensor, batch: _Batch) -> None:
    """Add the rows of a batch to the groups of their questions."""
    finite = rows.isfinite().all(dim=1)
    # Either one row a question, or one for each of its options.
    owners = list(range(len(batch)))
    if len(rows) != len(batch):
        owners = [n for n, (_, item) in enumerate(batch) for _ in item.options]
    if not bool(finite.all()):
        culprit = batch[owners[int((~finite).nonzero()[0])]][0].instance.id
        raise NonFiniteError(
            f"activation x gradient of module {module!r} is not finite for instance "
            f"{culprit!r}; use --dtype float32, or check the checkpoint for NaN weights."
        )
    groups = [batch[owner][0].group for owner in owners]
    np.add.at(total, groups, rows.double().cpu().numpy())
