"""Ports for the servers that tests start."""

import socket


def free_port() -> int:
    """A port of this machine on which nothing listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
