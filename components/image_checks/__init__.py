"""Validates that a file is a usable image, by its header and by decoding its pixels.

It imports neither TensorFlow nor TFX; ingest and the bulk job call it for every member.
"""

from components.image_checks.checking import check as check
from components.image_checks.header import ImageHeader as ImageHeader
from components.image_checks.model_pixels import decode_reduced as decode_reduced
from components.image_checks.model_pixels import fit as fit
from components.image_checks.model_pixels import jpeg_ratio as jpeg_ratio
from components.image_checks.model_pixels import model_pixels as model_pixels
from components.image_checks.model_pixels import to_servable as to_servable
from components.image_checks.model_pixels import to_signature as to_signature
from components.image_checks.pixel_decoding import decode as decode
from components.image_checks.pixel_decoding import encode_png as encode_png
from components.image_checks.pixel_decoding import verify as verify
from components.image_checks.reject_reasons import REASONS as REASONS
from components.image_checks.reject_reasons import ImageFaultError as ImageFaultError
