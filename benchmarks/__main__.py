"""`python -m benchmarks [NAME ...]`: measure, write benchmarks/latest.json and docs/benchmarks.md.

Every measurement runs in a process of its own, so that none warms up or fills the memory of the
next. Named ones replace their part of the last results; without names all run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks import page

HERE = Path(__file__).parent
MEASUREMENTS = ("scoring", "seq2seq", "growth", "attribution", "curve", "processes")
"""Modules of this folder: `measure()` returns `{"keys": {...}, "details": {...}}`."""
SETTINGS = ("items", "rounds", "every")
"""Numbers that a measurement may take, for shorter or longer runs."""


def main(names: list[str], settings: dict[str, int]) -> None:
    """Measure and write."""
    file = HERE / "latest.json"
    results = read(file)
    for name in names or MEASUREMENTS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "benchmarks", "--one", name]
        command += [f"--{setting}={value}" for setting, value in settings.items()]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=HERE.parent)
        found = json.loads(done.stdout.splitlines()[-1])
        results = merged(results, found, machine(load))
        # Written each time: an interrupted run keeps what it has measured.
        file.write_text(json.dumps(flat(results), indent=2) + "\n", encoding="utf-8")
        page.write(results, HERE.parent / "docs")


def read(file: Path) -> dict[str, Any]:
    """The last results, or empty ones."""
    if not file.exists():
        return {"keys": {}, "details": {}, "machine": {}, "versions": {}}
    held = json.loads(file.read_text(encoding="utf-8"))
    parts = {name: held.pop(name) for name in ("details", "machine", "versions")}
    return {"keys": held, **parts}


def merged(
    results: dict[str, Any], found: dict[str, Any], described: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Results with a measurement in place of its older self."""
    return {
        "keys": results["keys"] | found["keys"],
        "details": results["details"] | found["details"],
        **described,
    }


def flat(results: dict[str, Any]) -> dict[str, Any]:
    """What is written: the ratios on top, then how they came about."""
    return {**results["keys"], **{k: results[k] for k in ("details", "machine", "versions")}}


def machine(load: float) -> dict[str, dict[str, Any]]:
    """What the numbers were measured on."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(load, 1),
            "system": platform.system(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "lm-eval")},
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def measured(name: str, settings: dict[str, int]) -> dict[str, Any]:
    """One measurement in this process, with those settings that it has."""
    measure = import_module(f"benchmarks.{name}").measure
    known = inspect.signature(measure).parameters
    found: dict[str, Any] = measure(**{k: v for k, v in settings.items() if k in known})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--one", metavar="NAME", help="measure in this process and print JSON")
    for setting in SETTINGS:
        parser.add_argument(f"--{setting}", type=int, metavar="N")
    options = parser.parse_args()
    chosen = {k: v for k, v in vars(options).items() if k in SETTINGS and v is not None}
    if options.one:
        print(json.dumps(measured(options.one, chosen)))
    else:
        main(options.names, chosen)
