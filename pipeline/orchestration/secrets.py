"""Keeps the values of secrets out of what is compiled, sent and recorded."""

import re
from collections.abc import Mapping

from pipeline.config import ConfigError

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_KEY", re.I)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
# Shorter ones would be found in any text.
_SHORTEST = 8


def refuse_secrets(text: str, environment: Mapping[str, str], *, what: str) -> None:
    """Refuses a text that holds the value of a secret.

    Args:
        text: What would be written or sent.
        environment: Variables whose name tells a secret are looked for by their value.
        what: The text's name, for the message.

    Raises:
        ConfigError: It holds one; the message names the variable and not its value.
    """
    if _PRIVATE_KEY.search(text):
        raise ConfigError(f"{what} holds a private key; give the name of a secret in its place")
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST and value in text:
            raise ConfigError(
                f"{what} holds the value of ${name}; name it in cluster.secrets, and keep the "
                "value out of the configuration"
            )
