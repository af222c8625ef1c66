"""The wide view: order, best values, notes, and formats that read back."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from xaibench.core.errors import UsageError
from xaibench.results.leaderboard import COLUMNS, Leaderboard


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
    for words in ("mean nothing", "Partial run", "undefined for up to 3 pairs", "2 samples could not be read"):
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
