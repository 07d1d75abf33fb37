"""Push: blessed models become versions that TF Serving serves, and versions are managed."""
