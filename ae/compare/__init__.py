"""Comparison of runs from folders or W&B, grouped by configuration, as a table, CSV or HTML page."""

from ae.compare.comparison import Comparison, compare
from ae.compare.groups import Group
from ae.compare.page import write_page
from ae.compare.records import Record, read_runs
from ae.compare.table import table, write_csv
from ae.compare.verdict import Verdict, verdict

__all__ = [
    "Comparison",
    "Group",
    "Record",
    "Verdict",
    "compare",
    "read_runs",
    "table",
    "verdict",
    "write_csv",
    "write_page",
]
