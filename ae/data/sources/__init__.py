"""Named data sets, and folders of images."""

from ae.data.sources.folder import read_folder
from ae.data.sources.mnist import MNIST, read_idx_folder, read_mnist
from ae.data.sources.source import Source
from ae.data.sources.torchvision import read_torchvision

__all__ = ["MNIST", "Source", "read_folder", "read_idx_folder", "read_mnist", "read_torchvision"]
