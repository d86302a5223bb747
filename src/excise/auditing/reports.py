"""A gate's decisions as JUnit XML and as Markdown, for continuous integration."""

from __future__ import annotations

import xml.etree.ElementTree as tree

from excise.auditing.gate import Decision, Gate

_SIGNS = {"pass": "✔", "fail": "✘", "no evidence": "?"}


def junit(gate: Gate) -> str:
    """One test case for each decision, in the dialect that CI systems read.

    A decision that keeps the gate shut is a failure; one without evidence that may pass is skipped.
    """
    cases = gate.decisions
    failures = sum(gate.stops(decision) for decision in cases)
    quiet = sum(_skipped(gate, decision) for decision in cases)
    counts = {
        "tests": str(len(cases)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(quiet),
        "time": "0",
    }
    root = tree.Element("testsuites", {"name": "excise gate", **_without_skipped(counts)})
    suite = tree.SubElement(root, "testsuite", {"name": f"excise gate {gate.path.name}", **counts})
    for decision in cases:
        case = tree.SubElement(
            suite,
            "testcase",
            {"classname": f"excise.gate.{decision.task}", "name": decision.name, "time": "0"},
        )
        text = f"{decision.verdict}: {decision.reason}; change {_interval(decision)}"
        if gate.stops(decision):
            kind = decision.verdict.replace(" ", "-")
            tree.SubElement(case, "failure", {"message": text, "type": kind}).text = text
        elif _skipped(gate, decision):
            tree.SubElement(case, "skipped", {"message": text})
        else:
            tree.SubElement(case, "system-out").text = text
    tree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tree.tostring(root, "unicode") + "\n"


def markdown(gate: Gate) -> str:
    """A short table, as a summary of a job shows it."""
    said = "passed" if gate.passed else "did not pass"
    lines = [
        f"## excise gate: {_escaped(gate.path.name)} {said}",
        "",
        "| | condition | change | interval | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for decision in gate.decisions:
        change = "undefined" if decision.change is None else f"{decision.change:+.4f}"
        between = (
            "none"
            if decision.low is None or decision.high is None
            else f"{decision.low:+.4f} to {decision.high:+.4f}"
        )
        lines.append(
            f"| {_SIGNS[decision.verdict]} | {_escaped(decision.name)} | {change} | {between} "
            f"| {decision.verdict}: {decision.reason} |"
        )
    lines += [
        "",
        "A change is a gain (+) or a loss (-) of the patched model, seen from the metric's ideal; "
        "intervals are over question templates, and decisions rest on them. "
        f"Where there is no evidence, the gate counts it as a {gate.on_no_evidence}.",
        "",
    ]
    return "\n".join(lines)


def _skipped(gate: Gate, decision: Decision) -> bool:
    return decision.verdict == "no evidence" and not gate.stops(decision)


def _without_skipped(counts: dict[str, str]) -> dict[str, str]:
    """The root of a report has no such attribute in the schema that CI systems check."""
    return {name: count for name, count in counts.items() if name != "skipped"}


def _interval(decision: Decision) -> str:
    if decision.change is None:
        return "undefined"
    if decision.low is None or decision.high is None:
        return f"{decision.change:+.4f} (no interval)"
    return f"{decision.change:+.4f} ({decision.low:+.4f} to {decision.high:+.4f})"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
