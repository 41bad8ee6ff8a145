"""The Triton kernel for CUDA devices, and what launches it."""
