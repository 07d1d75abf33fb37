"""Keeps the values of secrets out of compiled, sent and recorded texts."""

import re
from collections.abc import Mapping

from pipeline.config import ConfigError

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.I)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
# Shorter values could occur in any text by chance.
_SHORTEST = 8


def refuse_secrets(text: str, environment: Mapping[str, str], *, what: str) -> None:
    """Rejects a text that contains the value of a secret.

    Args:
        text: The text to be written or sent.
        environment: Environment variables; the text must not contain the value of any whose name
            suggests a secret.
        what: Name of the text, for the message.

    Raises:
        ConfigError: The text contains a secret; the message names the variable but not its value.
    """
    if _PRIVATE_KEY.search(text):
        raise ConfigError(f"{what} holds a private key; give the name of a secret in its place")
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST and value in text:
            raise ConfigError(
                f"{what} holds the value of ${name}; name it in cluster.secrets, and keep the "
                "value out of the configuration"
            )
