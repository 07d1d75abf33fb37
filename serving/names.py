"""Defines the names of the served signatures and of their inputs and outputs.

The export writes them; the evaluator, the bulk jobs and the clients read them.
"""

from typing import Final

# Signatures.
SERVING_DEFAULT: Final = "serving_default"
ANNOTATE: Final = "annotate"
ANNOTATE_PIXELS: Final = "annotate_pixels"
CLASSIFY_EXAMPLES: Final = "classify_examples"
TRANSFORM_LABELS: Final = "transform_labels"
EMBED: Final = "embed"
SCORE: Final = "score"
RECONSTRUCT: Final = "reconstruct"
GENERATE: Final = "generate"
SAMPLE: Final = "sample"
SERVING_DEFAULT_PIXELS: Final = "serving_default_pixels"
EMBED_PIXELS: Final = "embed_pixels"
SCORE_PIXELS: Final = "score_pixels"

# Inputs. TF Serving decodes {"b64": ...} in REST requests for names that end in `_bytes`.
IMAGE_BYTES: Final = "image_bytes"
PIXELS: Final = "pixels"
EXAMPLES: Final = "examples"
LATENT: Final = "latent"
CLASS_LABEL: Final = "class_label"
COUNT: Final = "count"
SEED: Final = "seed"

# Outputs.
LABEL: Final = "label"
LABEL_INDEX: Final = "label_index"
PROBABILITY: Final = "probability"
PROBABILITIES: Final = "probabilities"
TOP_K_LABELS: Final = "top_k_labels"
TOP_K_PROBABILITIES: Final = "top_k_probabilities"
EMBEDDING: Final = "embedding"
ELBO: Final = "elbo"
IMPORTANCE_BOUND: Final = "importance_bound"
IMPORTANCE_ELBO: Final = "importance_elbo"
RECONSTRUCTION_ERROR: Final = "reconstruction_error"
OUTLIER_SCORE: Final = "outlier_score"
VERDICT: Final = "verdict"
IMAGE: Final = "image"

# Files of a SavedModel under assets.extra/.
EXTRA_ASSETS: Final = "assets.extra"
CONFIG: Final = "config.yaml"
PUSH_RECORD: Final = "push.json"
WARM_UP: Final = "tf_serving_warmup_requests"
GOLDEN: Final = "golden.npz"
