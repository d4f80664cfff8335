"""Pictures to images in [-1, 1] and back: square crops of photographs, folders and datasets."""

from deco_lab.data.crops import Batch, Crops, to_picture
from deco_lab.data.dataset import read_dataset
from deco_lab.data.decoding import UnknownRangeError, UnreadablePictureError, is_deep, open_picture
from deco_lab.data.fields import FieldSampler, field_power, optimal_velocity
from deco_lab.data.folder import read_folder
from deco_lab.data.metadata import pixels_alone
from deco_lab.data.photographs import SCALE_RANGE, CropSampler, bundled_crops, load_photograph
from deco_lab.data.picture_crops import PictureCrops
from deco_lab.data.pictures import Folder, Pictures
from deco_lab.data.source import Source, SourceConfig, open_source

__all__ = [
    "SCALE_RANGE",
    "Batch",
    "CropSampler",
    "Crops",
    "FieldSampler",
    "Folder",
    "PictureCrops",
    "Pictures",
    "Source",
    "SourceConfig",
    "UnknownRangeError",
    "UnreadablePictureError",
    "bundled_crops",
    "field_power",
    "is_deep",
    "load_photograph",
    "open_picture",
    "open_source",
    "optimal_velocity",
    "pixels_alone",
    "read_dataset",
    "read_folder",
    "to_picture",
]
