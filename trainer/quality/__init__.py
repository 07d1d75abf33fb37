"""What a trained model is worth: calibration, outlier scores, evaluation, pictures."""
