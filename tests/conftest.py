"""One thread a process: tiny tensors gain nothing from more, and processes of a parallel run do not fight."""

import torch

torch.set_num_threads(1)
