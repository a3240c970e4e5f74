"""``egoagent export``: a trained branch as a Hugging Face folder, a ``torch.export`` program or an ONNX graph."""

import argparse
from pathlib import Path

from internlm.core.errors import UserError
from internlm.export.formats import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command, upstream's names of the two folders included."""
    parser.add_argument("source", type=Path, nargs="?", metavar="RUN_OR_CHECKPOINT", help="or a folder in upstream's layout")
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="folder to write")
    parser.add_argument("--format", nargs="+", choices=(*FORMATS, "all"), default=["hf"], help="one or more (default hf)")
    parser.add_argument("--network", metavar="NAME", help="default: a run's usual one for features, an upstream folder's own")
    parser.add_argument("--results", nargs="+", type=Path, default=[], metavar="JSON", help="results for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    add_rename(parser)
    upstream = parser.add_argument_group("upstream's arguments")
    upstream.add_argument("--src_folder", type=Path, metavar="FOLDER", help="RUN_OR_CHECKPOINT")
    upstream.add_argument("--tgt_folder", type=Path, metavar="FOLDER", help="OUT (default: hf_models beside save_ckpt)")
    upstream.add_argument("--remove_vq_embed", action="store_true", help="accepted; a VQ embedding is never exported")


def add_rename(parser: argparse.ArgumentParser) -> None:
    """The option that gives upstream's tensors other names."""
    parser.add_argument(
        "--rename", nargs="+", default=[], metavar="PATTERN=NAME", help="upstream tensors under other names; empty NAME drops"
    )


def parse_rename(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """``PATTERN=NAME`` texts as pairs. Raises UserError for one without '=' or with a wrong pattern."""
    import re

    pairs = []
    for text in texts:
        pattern, equals, name = text.rpartition("=")
        if not equals:
            raise UserError(f"--rename {text!r} is not of the form PATTERN=NAME")
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"--rename {text!r}: {pattern!r} is not a regular expression: {error}") from error
        pairs.append((pattern, name))
    return tuple(pairs)


def run(args: argparse.Namespace) -> int:
    """Export, check, say what was found; returns 0."""
    source, out = _folders(args)
    formats = tuple(FORMATS) if "all" in args.format else tuple(dict.fromkeys(args.format))

    from internlm.export.write import export_model

    options = {"results": args.results, "overwrite": args.overwrite, "rename": parse_rename(args.rename)}
    done = export_model(source, out, formats=formats, branch=args.network, **options)
    for name, differences in done.differences.items():
        print(f"{name}: largest difference from the network {max(differences.values()):.1e}")
    print(f"{len(done.results)} results on the model card")
    print(f"written to {done.path}")
    return 0


def _folders(args: argparse.Namespace) -> tuple[Path, Path]:
    if args.source and args.src_folder:
        raise UserError(f"the source is given twice: {args.source} and --src_folder {args.src_folder}")
    if args.out and args.tgt_folder:
        raise UserError(f"the target is given twice: {args.out} and --tgt_folder {args.tgt_folder}")
    source, out = args.source or args.src_folder, args.out or args.tgt_folder
    if source is None:
        raise UserError("nothing to export: give RUN_OR_CHECKPOINT and OUT, or --src_folder")
    if out is None and args.src_folder:
        out = hf_models_folder(args.src_folder)
    if out is None:
        raise UserError(f"give the folder to write {source} to: egoagent export {source} OUT")
    return source, out


def hf_models_folder(source: Path) -> Path:
    """Where upstream's evaluation looks: ``../save_ckpt/<model>`` becomes ``../hf_models/<model>``."""
    parts = source.absolute().parts
    if "save_ckpt" in parts:
        place = len(parts) - 1 - parts[::-1].index("save_ckpt")
        return Path(*parts[:place], "hf_models", *parts[place + 1 :])
    return source.absolute().parent.parent / "hf_models" / source.name
