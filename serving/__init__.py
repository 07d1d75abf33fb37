"""What the pushed model is: its signatures, its export and its clients."""
