"""Trained branches as folders that others read (Hugging Face, torch.export, ONNX), and the published layout read in."""
