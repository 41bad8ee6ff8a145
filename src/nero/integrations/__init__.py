"""Nero where people train: thin adapters for other libraries, each with a page in docs/how-to.

What is here needs torch alone. `nero.integrations.transformers`, `.lightning` and `.timm` import
their library, and so have to be imported themselves.
"""

from nero.integrations.clipping import clip_grad_norm_
from nero.integrations.wrapped import unwrap

__all__ = ["clip_grad_norm_", "unwrap"]
