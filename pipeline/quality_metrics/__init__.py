"""TFMA metrics for quantities that TFMA itself lacks; `pipeline/evaluation.py` names them."""
