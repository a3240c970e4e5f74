"""EgoAgent (arXiv 2502.05857): predictor and observer around one interleaved transformer; stages pretrain and joint."""
