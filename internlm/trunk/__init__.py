"""The shared transformer: tokens and layouts in, hidden states out. It knows no modality."""
