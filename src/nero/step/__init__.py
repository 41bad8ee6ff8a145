"""One step: which path each parameter takes, its gradients, and the paths in torch's operators."""
