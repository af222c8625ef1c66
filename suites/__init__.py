"""Suites shipped with xaibench; `xaibench run NAME` finds them here."""
