"""The run report and the archive report: one self-contained HTML page each."""
