"""Context managers that disable autocast's cache and reduce overhead during updates."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def update_context() -> Iterator[None]:
    """Enter all other context managers in this module, for a sequence of updates."""
    with ExitStack() as stack:
        for context in (uncached_autocast(), skip_nvml_check(), limit_blas_threads()):
            stack.enter_context(context)
        yield


@contextmanager
def uncached_autocast() -> Iterator[None]:
    """Disable autocast's cache of converted weights, which every update would make obsolete."""
    device = "cuda" if torch.is_autocast_enabled("cuda") else "cpu"
    if not torch.is_autocast_enabled(device):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, dtype=dtype, cache_enabled=False):
        yield


@contextmanager
def skip_nvml_check() -> Iterator[None]:
    """Unset the environment variable `PYTORCH_NVML_BASED_CUDA_CHECK` temporarily.

    Lightning sets the variable so that PyTorch can check for GPUs before a fork without
    initializing CUDA. However, every optimizer step then repeats the check, which takes 90 µs if
    there is no GPU driver.
    """
    value = os.environ.pop(_NVML_CHECK, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[_NVML_CHECK] = value


@contextmanager
def limit_blas_threads() -> Iterator[None]:
    """Limit NumPy's BLAS to PyTorch's number of threads within the context.

    When actions are selected, forward passes of small networks are computed with NumPy.
    """
    with _thread_pools().limit(limits=torch.get_num_threads(), user_api="blas"):
        yield


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()
