"""The pushed model: its signatures, its export and its clients."""
