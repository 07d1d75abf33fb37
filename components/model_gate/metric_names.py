"""Defines the names of slices and of metrics that TFMA writes and the gate reads."""

from typing import Final

EXAMPLE_COUNT: Final = "example_count"
ACCURACY: Final = "accuracy"
TOP_K: Final = "top_k_accuracy"
LOG_LOSS: Final = "log_loss"
CONFUSION: Final = "confusion"

CALIBRATION_ERROR: Final = "calibration_error"
CALIBRATION_CHANCE: Final = "calibration_error_by_chance"
CALIBRATION_CHANCE_HIGH: Final = "calibration_error_by_chance_q95"
BRIER: Final = "brier_score"

ELBO: Final = "elbo"
BITS: Final = "bits_per_dimension"
IMPORTANCE_BOUND: Final = "importance_bound"
IMPORTANCE_ERROR: Final = "importance_bound_standard_error"
IMPORTANCE_ELBO: Final = "importance_elbo"
IMPORTANCE_BITS: Final = "importance_bits_per_dimension"
IMPORTANCE_SAMPLES: Final = "importance_samples"
IMPORTANCE_IMAGES: Final = "importance_images"
OUTLIER_QUANTILES: Final = {
    0.05: "outlier_score_q05",
    0.5: "outlier_score_q50",
    0.95: "outlier_score_q95",
    0.99: "outlier_score_q99",
}

# Metrics of both models on the same images: counts, except for the last five, which are in nats.
PAIRED_IMAGES: Final = "paired_images"
PAIRED_BOTH: Final = "paired_both_right"
PAIRED_GAINED: Final = "paired_gained"
PAIRED_LOST: Final = "paired_lost"
PAIRED_FLIPS: Final = "paired_flips"
PAIRED_LOG_LOSS: Final = "paired_baseline_log_loss"
PAIRED_RISE: Final = "paired_log_loss_rise"
PAIRED_RISE_DEVIATION: Final = "paired_log_loss_rise_deviation"
PAIRED_MISTAKE: Final = "paired_cost_of_mistake"
PAIRED_BASELINE_MISTAKE: Final = "paired_baseline_cost_of_mistake"

CLASS_SLICE: Final = "class"
ARCHIVE_SLICE: Final = "archive"
SIZE_SLICE: Final = "size"
