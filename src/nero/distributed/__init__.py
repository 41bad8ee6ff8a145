"""Parameters that are spread over processes: `torch.distributed.tensor.DTensor`.

`shards` says which part of which neurons a process holds, `sums` forms a neuron's sums from its
parts, and `update` steps by them. The user's side of it is in docs/how-to/distributed.md.
"""
