"""TFX's Trainer enters here: from its arguments to a trained, calibrated, exported model."""

import json
from typing import Any

import yaml
from tfx import v1 as tfx

from components.image_sources.config import InputConfig
from pipeline.digests import code_digest, library_versions, value_digest
from serving.export import export_model
from trainer import features
from trainer.config import ImageConfig, ModelConfig, TrainerConfig
from trainer.input_pipeline import load_images
from trainer.preprocessing import RecordTransform
from trainer.train import train
