"""Named data sets, folders of images, and arrays in files."""

from ae.data.sources.arrays import read_arrays
from ae.data.sources.folder import read_folder
from ae.data.sources.hub import read_hub
from ae.data.sources.hub_stream import Streaming
from ae.data.sources.mnist import MNIST, read_idx_folder, read_mnist
from ae.data.sources.source import Source
from ae.data.sources.torchvision import read_torchvision

__all__ = [
    "MNIST",
    "Source",
    "Streaming",
    "read_arrays",
    "read_folder",
    "read_hub",
    "read_idx_folder",
    "read_mnist",
    "read_torchvision",
]
