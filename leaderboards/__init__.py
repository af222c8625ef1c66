"""Committed tables; `published/` holds the numbers that papers print, read by `xaibench leaderboard --published NAME`."""
