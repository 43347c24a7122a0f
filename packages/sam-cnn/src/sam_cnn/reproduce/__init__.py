"""The paper's claims: `sam-cnn reproduce`."""

from sam_cnn.reproduce import data_model, real_images
from sam_cnn.reproduce.shared import claims

__all__ = ["claims", "data_model", "real_images"]
