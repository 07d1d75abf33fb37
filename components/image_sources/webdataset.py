"""placeholder."""

from components.image_sources.config import InputConfig


def has_side_files(path: str, config: InputConfig) -> bool:
    """."""
    return False
