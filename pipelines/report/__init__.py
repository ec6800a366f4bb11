"""The report: one self-contained HTML page on what a workspace holds and how it was made."""
