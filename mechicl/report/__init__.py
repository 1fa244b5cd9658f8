"""Results to one self-contained HTML page that opens offline."""

from mechicl.report.page import write_report

__all__ = ["write_report"]
