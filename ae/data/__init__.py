"""Data sets held as uint8 on the device, and the batches made of them."""

from ae.data.augment import Augment
from ae.data.images import Batch, Batches, Images, ImageSet
from ae.data.splits import Data, Splits
from ae.data.streamed import Streamed

__all__ = ["Augment", "Batch", "Batches", "Data", "ImageSet", "Images", "Splits", "Streamed"]
