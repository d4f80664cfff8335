"""Pictures to images in [-1, 1] and back: square crops of photographs, folders and datasets."""

from deco_lab.data.crops import CropSampler, CropSource, ImageBatch, PictureCrops, to_picture
from deco_lab.data.dataset import read_dataset
from deco_lab.data.decoding import (
    UnknownRangeError,
    UnreadablePictureError,
    open_picture,
    without_metadata,
)
from deco_lab.data.fields import FieldSampler, field_power, optimal_velocity
from deco_lab.data.photographs import bundled_crops, load_photograph
from deco_lab.data.pictures import PictureDataset, PictureSplits, read_folder
from deco_lab.data.source import Source, SourceConfig, open_source

__all__ = [
    "CropSampler", "CropSource", "FieldSampler", "ImageBatch", "PictureCrops", "PictureDataset",
    "PictureSplits", "Source", "SourceConfig", "UnknownRangeError", "UnreadablePictureError",
    "bundled_crops", "field_power", "load_photograph", "open_picture", "open_source",
    "optimal_velocity", "read_dataset", "read_folder", "to_picture", "without_metadata",
]  # fmt: skip
