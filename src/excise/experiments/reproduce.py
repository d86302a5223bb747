"""The line of a reproduction: load the model, carry out experiments, record what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from excise import __version__
from excise.config import RunConfig
from excise.errors import ConfigError, ExciseError
from excise.evaluation import ArrayJournal
from excise.evidence import code_digest, environment
from excise.experiments.catalogue import chosen, definition
from excise.experiments.definition import Definition, NotApplicableError, Options, Scale
from excise.experiments.findings import Findings, Table
from excise.experiments.fits import MemoryJournal
from excise.experiments.lab import Lab
from excise.experiments.published import beside, of_others, other_models
from excise.experiments.readings import reason
from excise.experiments.settings import ModelPreset, configure, preset_of
from excise.models import LoadedModel
from excise.pipeline import load_model
from excise.progress import Progress, Silent

Status = Literal["done", "not applicable", "failed"]


@dataclass(frozen=True)
class Outcome:
    """One experiment with what it found, or the reason why it found nothing."""

    definition: Definition
    config: RunConfig
    status: Status
    reason: str = ""
    findings: Findings = field(default_factory=lambda: Findings((), ()))
    published: Table | None = None
    """Ours beside theirs; None where nothing was published of this model."""
    elsewhere: tuple[Table, ...] = ()
    """What was published of other models."""


@dataclass(frozen=True)
class Reproduction:
    """Several experiments on one model."""

    model: str
    model_digest: str
    n_neurons: int
    preset: ModelPreset
    scale: Scale
    outcomes: tuple[Outcome, ...]

    @property
    def record(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "model_name": self.model,
            "model_digest": self.model_digest,
            "n_neurons": self.n_neurons,
            "model_note": self.preset.note,
            "replaced_tasks": dict(self.preset.replace),
            "scale": self.scale,
            "experiments": {o.definition.name: _record(o) for o in self.outcomes},
            "environment": environment(),
            "excise": __version__,
            "code": {"version": __version__, "digest": code_digest()},
        }


def reproduce(
    names: Sequence[str],
    *,
    model: str | None = None,
    scale: Scale = "small",
    options: Options | None = None,
    journal: ArrayJournal | None = None,
    progress: Progress | None = None,
    loaded: LoadedModel | None = None,
) -> Reproduction:
    """Carry out experiments; what several of them need is computed once.

    Where several experiments are asked for, one that cannot be done here is recorded with the
    reason and the others go on; a single one raises.

    Args:
        names: experiments, groups of them (`all`, `paper`, `uqac`), or files.
        model: Hub id, folder or file; None is the embedded default.
        scale: `small` finishes in hours on a laptop with the default model, `paper` measures as
            much as the publications.
        options: of the configuration, which win over the experiments' own.
        journal: keeps fits and answers; what it holds is not computed again.
        progress: who watches.
        loaded: the model, already loaded.

    Raises:
        ExciseError: see `excise.errors`.
    """
    progress = progress or Silent()
    wanted = [definition(name, scale) for name in chosen(names)]
    preset = preset_of(model)
    configs = [configure(entry, model, scale, options or {}) for entry in wanted]
    if any(config.gate.keep for config in configs):
        raise ConfigError(
            "gate.keep would teach items that experiments report of other tasks; leave it out."
        )
    progress.stage("loading the model")
    loaded = loaded or load_model(configs[0])
    loaded.refuse_offloaded("an experiment")
    lab = Lab(
        loaded,
        configs[0],
        MemoryJournal() if journal is None else journal,
        progress,
        preset.replace,
        preset.only,
    )
    outcomes = []
    for place, (entry, config) in enumerate(zip(wanted, configs, strict=True)):
        progress.stage(f"experiment {entry.name} ({place + 1}/{len(wanted)})")
        lab.config = config
        outcomes.append(_outcome(lab, entry, preset.names[0], alone=len(wanted) == 1))
    return Reproduction(
        loaded.name, loaded.digest, loaded.n_neurons, preset, scale, tuple(outcomes)
    )


def _outcome(lab: Lab, entry: Definition, model: str, *, alone: bool) -> Outcome:
    status: Status
    try:
        findings = entry.measure(lab)
    except ExciseError as error:
        if alone:
            raise
        status = "not applicable" if isinstance(error, NotApplicableError) else "failed"
        return Outcome(entry, lab.config, status, reason(error))
    return Outcome(
        entry,
        lab.config,
        "done",
        findings=findings,
        published=beside(entry.name, model, findings.readings),
        elsewhere=of_others(entry.name, model),
    )


def _record(outcome: Outcome) -> dict[str, Any]:
    findings = outcome.findings
    return {
        "title": outcome.definition.title,
        "question": outcome.definition.question,
        "source": outcome.definition.source,
        "kind": outcome.definition.kind,
        "status": outcome.status,
        "reason": outcome.reason,
        "answers": list(findings.answers),
        "readings": [reading.record for reading in findings.readings],
        "left_out": [{"what": what, "reason": why} for what, why in findings.left_out],
        "published": _table(outcome.published),
        "published_of_other_models": list(
            other_models(outcome.definition.name, outcome.config.model or "default")
        ),
        "tables": [_table(table) for table in findings.tables],
        "chart": None if findings.chart is None else asdict(findings.chart),
        "notes": list(outcome.definition.notes),
        "definition": outcome.definition.model_dump(mode="json"),
        "config": outcome.config.model_dump(mode="json"),
    }


def _table(table: Table | None) -> Mapping[str, Any] | None:
    return None if table is None else asdict(table)
