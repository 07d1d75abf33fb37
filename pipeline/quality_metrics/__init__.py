"""TFMA metrics for what TFMA itself does not measure; `pipeline/evaluation.py` names them."""
