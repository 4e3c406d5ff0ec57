"""One thread a process: tiny tensors gain nothing from more, and processes of a parallel run do not fight.

Set in the environment too, for the processes that tests start: sums depend on the number of threads in their last
bits, and some of those runs must equal one made here bit for bit.
"""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
