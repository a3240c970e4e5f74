"""One file for each loss: tensors in, scalars out, on any device and at any world size; none of them calls a network."""
