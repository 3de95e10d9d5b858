"""Settings for all tests: no time limit per example (machines are shared), one compute thread per test process."""

import torch
from hypothesis import settings

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
torch.set_num_threads(1)
