"""Data sets, held on the device as uint8 or streamed, and the batches made of them."""

from ae.data.augment import Augment
from ae.data.batch import Batch
from ae.data.batches import Batches
from ae.data.images import Images, ImageSet
from ae.data.options import Data
from ae.data.splits import Splits
from ae.data.streamed import Streamed
from ae.data.targets import Target

__all__ = ["Augment", "Batch", "Batches", "Data", "ImageSet", "Images", "Splits", "Streamed", "Target"]
