"""In which layers and modules the excised neurons lie."""

from __future__ import annotations

from typing import Any

from excise.attribution import competing_sites
from excise.dissection.places import where
from excise.experiments.definition import Definition
from excise.experiments.findings import Chart, Findings, Series, Table
from excise.experiments.lab import Lab
from excise.experiments.readings import neurons
from excise.experiments.words import named

THIRDS = ("lower", "middle", "upper")
"""Parts of each stack by depth."""


class Places(Definition):
    """Counts by layer and by sublayer, beside those of as many random neurons."""

    tasks: tuple[str, ...]
    method: str = "crispr"

    def measure(self, lab: Lab) -> Findings:
        """Take the neurons of all trials of all tasks."""
        sites = competing_sites(lab.loaded, lab.config.attribution)
        readings, tables, maps = [], [], []
        for name in lab.tasks(self.tasks):
            fits = lab.fits(self.method, name)
            excised = [neuron for fit in fits for neuron in lab.patch(fit).neurons]
            found = where(sites, excised)
            maps.append(found)
            entry = neurons(lab, fits, target=name, where=found, thirds=_thirds(found["layers"]))
            readings.append(entry.reading)
            told = f"{named([entry.reading], name)}: {len(excised)} neurons"
            tables.append(_table(f"{told} of {len(fits)} trials by sublayer", found["sublayers"]))
            tables.append(_table(f"{told} by depth", entry.reading.facts["thirds"]))
        answers = tuple(
            f"{reading.target}: {_share(reading.facts['thirds'])}" for reading in readings
        )
        return Findings(tuple(readings), tuple(tables), _chart(maps), answers)


def _thirds(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The layers of each stack in three parts, summed over the stacks."""
    parts = [{"third": name, "neurons": 0, "excised": 0, "expected": 0.0} for name in THIRDS]
    for stack in dict.fromkeys(row["stack"] for row in layers):
        own = sorted((r for r in layers if r["stack"] == stack), key=lambda r: r["layer"])
        for place, row in enumerate(own):
            # Two layers are a lower and an upper one.
            part = parts[place * len(THIRDS) // len(own) if len(own) > 2 else 2 * place]
            for key in ("neurons", "excised", "expected"):
                part[key] += row[key]
    return parts


def _share(thirds: list[dict[str, Any]]) -> str:
    total = sum(part["excised"] for part in thirds)
    if not total:
        return "no neurons were excised."
    upper, size = thirds[-1]["excised"], sum(part["neurons"] for part in thirds)
    return (
        f"{upper} of {total} excised neurons ({100 * upper / total:.0f} %) lie in the upper "
        f"{'third' if thirds[1]['neurons'] else 'half'} "
        f"of the layers, which holds {100 * thirds[-1]['neurons'] / size:.0f} % of all neurons."
    )


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    first = next(iter(rows[0]))
    if first not in ("sublayer", "third"):
        first = "sublayer"
    return Table(
        title,
        (first, "neurons", "excised", "expected by chance"),
        tuple(
            (str(row[first]), f"{row['neurons']:,}", str(row["excised"]), f"{row['expected']:.1f}")
            for row in rows
        ),
    )


def _chart(maps: list[dict[str, Any]]) -> Chart:
    """Excised neurons by layer, all tasks together, beside what chance would give."""
    places = [f"{row['stack']} {row['layer']}".strip() for row in maps[0]["layers"]]
    sums = [
        tuple(float(sum(found["layers"][i][key] for found in maps)) for i in range(len(places)))
        for key in ("excised", "expected")
    ]
    series = (Series("excised", sums[0]), Series("expected by chance", sums[1]))
    return Chart("bars", "Excised neurons by layer", tuple(places), series, "neurons", "layer")
