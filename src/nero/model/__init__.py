"""From a model to parameter groups: which tensors hold neurons, along which axes, in which role."""
