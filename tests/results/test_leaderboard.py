"""The wide view: order, best values, notes, and formats that read back."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from xaibench.core.errors import UsageError
from xaibench.results.leaderboard import COLUMNS, Leaderboard, read_leaderboard
from xaibench.results.scores import TEXT


def scores(**changes: Any) -> pd.DataFrame:
    rows = []
    for model in ("b-net", "a-net"):
        for method, control, values in (
            ("cam", False, (0.1, 0.7)),
            ("minmax", False, (0.3, 0.9)),
            ("oracle", True, (0, 1)),
        ):
            for metric, direction, value in zip(("drop", "energy"), ("lower", "higher"), values, strict=True):
                rows.append(
                    {
                        **dict.fromkeys(COLUMNS, 0),
                        **dict.fromkeys(TEXT, "text"),
                        "suite": "s",
                        "model": model,
                        "method": method,
                        "metric": metric,
                        "direction": direction,
                        "value": value,
                        "partial": False,
                        "untrained": False,
                        "control": control,
                        **changes,
                    }
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def test_wide_in_the_order_of_the_suite() -> None:
    table = Leaderboard(scores()).wide()
    assert list(table.columns) == ["model", "method", "drop", "energy"]
    assert list(table["model"]) == ["b-net"] * 3 + ["a-net"] * 3
    assert list(table["method"][:3]) == ["cam", "minmax", "oracle"]


def test_csv_reads_back() -> None:
    board = Leaderboard(scores())
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(board.csv())), board.wide(), check_dtype=False)
    assert "0.1000" in board.csv()


def test_the_best_is_bold_controls_aside() -> None:
    text = Leaderboard(scores(), "A title").markdown()
    assert text.startswith("# A title")
    assert "| cam | **0.1000** | 0.7000 |" in text
    assert "| minmax | 0.3000 | **0.9000** |" in text
    assert "| _oracle_ | 0.0000 | 1.0000 |" in text
    assert "drop ↓" in text
    assert "energy ↑" in text


def test_notes() -> None:
    assert Leaderboard(scores()).notes == []
    board = Leaderboard(scores(untrained=True, partial=True, n_undefined=3, n_error=2))
    notes = " ".join(board.notes)
    for words in ("mean nothing", "Partial run", "undefined for up to 3 of ", "2 samples could not be read"):
        assert words in notes
    assert board.wide()["note"].str.contains("untrained").all()


def test_undefined_values_are_a_dash() -> None:
    board = Leaderboard(scores(value=float("nan")))
    assert "–" in board.markdown()
    assert "**" not in board.markdown()
    assert board.tables()[0].row_count == 3


def test_another_table_is_refused() -> None:
    with pytest.raises(UsageError, match="not a table of scores: the columns suite"):
        Leaderboard(pd.DataFrame({"model": []}))


def wide(metrics: int) -> pd.DataFrame:
    """Two models of two methods, with long names."""
    names = [f"a_metric_of_a_long_name_{number}" for number in range(metrics)]
    tables = [scores(metric=name, direction="lower", ci_low=0.01, ci_high=0.99) for name in names]
    return pd.concat([table.drop_duplicates(["model", "method"]) for table in tables], ignore_index=True)


def printed(board: Leaderboard, width: int, intervals: bool = False) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    for table in board.tables(width, intervals):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 80, 130])
@pytest.mark.parametrize("intervals", [False, True])
def test_no_number_and_no_name_is_cut(width: int, intervals: bool) -> None:
    board = Leaderboard(wide(12))
    text = printed(board, width, intervals)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for model, method in board.rows:
        assert model in text
        shown = [line for line in text.splitlines() if line.startswith(f"{method} ")]
        assert shown
    values = re.findall(r"\d\.\d{4}", text)
    assert len(values) == len(board.scores) * (3 if intervals else 1)


def test_runs_of_one_suite_become_one_table(tmp_path: Path) -> None:
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    table = scores()
    table.iloc[:2].to_csv(first, index=False)
    table.iloc[1:].to_csv(second, index=False)
    pd.testing.assert_frame_equal(read_leaderboard([first, second]).scores, table, check_dtype=False)
    table.assign(suite="other").to_csv(second, index=False)
    both = read_leaderboard([first, second])
    assert set(both.scores["model"].str.partition(" / ")[0]) == {"other", table["suite"][0]}
    table.assign(fingerprint="another").to_csv(second, index=False)
    with pytest.raises(UsageError, match="two runs have different scores for"):
        read_leaderboard([first, second])
