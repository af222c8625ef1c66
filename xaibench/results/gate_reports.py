"""A comparison as Markdown for a pull request, as JSON, and as JUnit XML."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from xaibench.results.gate import Gate, Row
from xaibench.results.leaderboard import ARROWS, plural

MOST_ROWS = 100  # of a Markdown table: a comment has a largest size
BASIS = {"paired": "", "intervals": "by intervals", "values": "not tested"}
QUIET = ("same", "new", "missing")  # verdicts that are counted, and listed only where they fail


def number(value: float) -> str:
    """At most eight characters: four decimals, fewer for large values; – where undefined."""
    if math.isnan(value):
        return "–"
    size = abs(value)
    return f"{value:.4f}" if size < 100 else f"{value:.2f}" if size < 10_000 else f"{value:.1e}"


def p_text(value: float) -> str:
    """A p value with four decimals, or its bound."""
    return "–" if math.isnan(value) else "<0.0001" if value < 0.0001 else f"{value:.4f}"


def summary(gate: Gate) -> str:
    """One sentence: cells by verdict."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(gate.counts.items()))
    return f"{plural(len(gate.rows), 'cell')}: {counts}."


def listed(gate: Gate, everything: bool = False) -> list[Row]:
    """The rows to show: those that fail first, without those that say nothing."""
    rows = [row for row in gate.rows if everything or row.fails or row.verdict not in QUIET]
    return rows if everything else sorted(rows, key=lambda row: not row.fails)


def remark(row: Row) -> str:
    """The reason, and how the cell was compared where that is not by pairs."""
    basis = "" if row.evidence is None else BASIS[row.evidence.basis]
    return "; ".join(filter(None, [row.reason, basis if not row.evidence or not row.evidence.equal else ""]))


def numbers(row: Row) -> list[str]:
    """Texts of base, new, difference, interval and adjusted p value."""
    if row.evidence is None:
        values = [math.nan if cell is None else cell.value for cell in (row.base, row.new)]
        return [*map(number, values), "–", "–", "–"]
    found = row.evidence
    interval = "–" if math.isnan(found.ci_low) else f"[{number(found.ci_low)}, {number(found.ci_high)}]"
    difference = number(found.difference)
    signed = f"+{difference}" if found.difference > 0 else difference
    return [number(found.base), number(found.new), signed, interval, p_text(row.p_adjusted)]


# -- Markdown -----------------------------------------------------------------------------------------------------


def markdown(gate: Gate) -> str:
    """A heading with the answer, the notes, and a table of the rows that say something; long ones are cut, with a count."""
    verdict = "passed" if gate.passed else f"failed: {plural(len(gate.failing), 'cell')}"
    blocks = [f"### Comparison {verdict}", f"`{_plain(gate.base)}` → `{_plain(gate.new)}`. {summary(gate)}"]
    blocks += [f"> {_plain(note)}" for note in gate.notes]
    rows = listed(gate)
    if rows:
        interval = f"{100 * (1 - gate.rules.alpha):g} % interval"
        header = ["", "model", "method", "metric", "base", "new", "difference", interval, "p (Holm)", ""]
        lines = [header, ["---", "---", "---", "---", *["---:"] * 5, "---"], *map(_line, rows[:MOST_ROWS])]
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if len(rows) > MOST_ROWS:
        blocks.append(f"... and {plural(len(rows) - MOST_ROWS, 'row')} more.")
    return "\n\n".join(blocks) + "\n"


def _line(row: Row) -> list[str]:
    verdict = f"**{row.verdict}**" if row.fails else row.verdict
    metric = f"{row.key.metric} {ARROWS.get(row.direction, '')}".strip()
    return [verdict, *map(_plain, (row.key.model, row.key.method, metric)), *numbers(row), _plain(remark(row))]


def _plain(text: str) -> str:
    """Text that cannot end a cell, a line or a code span, and cannot begin an HTML tag."""
    return text.replace("\n", " ").replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


# -- JSON ---------------------------------------------------------------------------------------------------------


def as_json(gate: Gate) -> dict[str, Any]:
    """Everything: passed, counts, notes, rules, and a row per cell. What is not a finite number is null."""
    return {
        "base": gate.base,
        "new": gate.new,
        "passed": gate.passed,
        "counts": dict(gate.counts),
        "notes": list(gate.notes),
        "rules": vars(gate.rules),
        "rows": [_row(row) for row in gate.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    found = row.evidence
    table = {"base": row.base.value if row.base else math.nan, "new": row.new.value if row.new else math.nan}
    values = table if found is None else {key: value for key, value in vars(found).items() if key != "basis"}
    facts = {
        **row.key._asdict(),
        "verdict": row.verdict,
        "fails": row.fails,
        "reason": row.reason,
        "direction": row.direction,
        "minimum_effect": row.minimum_effect,
        "p_adjusted": row.p_adjusted,
        "basis": found.basis if found else None,
        **values,
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}


# -- JUnit --------------------------------------------------------------------------------------------------------


def junit(gate: Gate) -> str:
    """JUnit XML: a suite of tests for each data set and model, a test for each cell."""
    root = ET.Element("testsuites", name="xaibench compare")
    groups: dict[str, list[Row]] = {}
    for row in gate.rows:
        groups.setdefault(" / ".join(filter(None, row.key[:2])), []).append(row)
    for name, rows in groups.items():
        _suite(root, name, rows)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(root: ET.Element, name: str, rows: Sequence[Row]) -> None:
    skipped = [row for row in rows if row.verdict == "missing" and not row.fails]
    counts = {"tests": len(rows), "failures": sum(row.fails for row in rows), "skipped": len(skipped)}
    suite = ET.SubElement(root, "testsuite", {"name": name} | {key: str(count) for key, count in counts.items()})
    for row in rows:
        case = ET.SubElement(suite, "testcase", classname=f"{name} / {row.key.method}", name=row.key.metric)
        if row.fails:
            base, new, difference, interval, p = numbers(row)
            text = f"{row.verdict}: {base} -> {new}, difference {difference} {interval}, p {p}"
            ET.SubElement(case, "failure", message="; ".join(filter(None, [text, remark(row)])))
        elif row in skipped:
            ET.SubElement(case, "skipped", message="not in NEW")
