"""On the path of an example's processes: has torchvision's CUDA wheel imported on a CPU build of torch (components.py)."""

import components

components.import_torchvision()
