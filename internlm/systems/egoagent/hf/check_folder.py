"""Loads an exported folder as a stranger would, without this project, and compares it with what the network gave.

Run as a program in a process of its own: ``python -I check_folder.py FOLDER PROBE.safetensors`` prints the largest
difference of every output as JSON. Not part of the exported folder.
"""

import json
import sys


def main(folder: str, probe: str) -> None:
    for name in ("internlm", "dataset_preprocess"):
        sys.modules[name] = None  # an import of it now fails, wherever it is installed
    import torch
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModel

    given = load_file(probe)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    if model.training:
        raise SystemExit("the model is in training mode after from_pretrained")
    images = [given[name].numpy() for name in sorted(given) if name.startswith("image.")]
    found = dict(AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)(images))
    with torch.no_grad():
        found |= dict(model(found["pixel_values"]))
        clip = {name.removeprefix("clip."): tensor for name, tensor in given.items() if name.startswith("clip.")}
        if clip:
            found |= {f"predict.{name}": value for name, value in vars(model.predict(**clip)).items()}
    compared = [name for name in given if not name.startswith(("image.", "clip."))]
    print(json.dumps({name: (found[name] - given[name]).abs().max().item() for name in compared}))


if __name__ == "__main__":
    main(*sys.argv[1:])
