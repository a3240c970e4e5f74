"""Exact kNN search beside DINO's chunked reference, in one run on one thread: python benchmarks/knn.py [--rows 200000 --dim 1024]

The reference is the usual evaluation code: chunks of 1/100 of the queries, one product with the whole gallery, `topk`, votes
over a one-hot tensor; once for the largest k ("single") and, as that code runs it, once for each of the four k ("four").
Times are processor seconds of this process. Memory is the peak resident set during the search less that before it.
"""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from internlm.eval.tasks.knn import search
from internlm.eval.tasks.knn import vote as knn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="gallery features")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--no-reference", action="store_true", help="only our search (for its memory)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(args.classes, args.dim, generator=generator)
    train_labels = torch.arange(args.rows) * args.classes // args.rows  # in order of classes, as in a folder
    test_labels = torch.randint(args.classes, (args.queries,), generator=generator)
    train = torch.empty(args.rows, args.dim)
    for start in range(0, args.rows, 10_000):
        part = slice(start, start + 10_000)
        train[part] = centres[train_labels[part]] + 2 * torch.randn(len(train_labels[part]), args.dim, generator=generator)
    test = centres[test_labels] + 2 * torch.randn(args.queries, args.dim, generator=generator)
    figures = {"rows": args.rows, "queries": args.queries, "dim": args.dim}
    before = resident("VmRSS", reset=True)
    start = time.process_time()
    top = knn.decide(train, train_labels, test, args.classes).scores(test_labels)
    ours = time.process_time() - start
    figures |= {"extra_MiB": round((resident("VmHWM") - before) / 1024, 1), "seconds": round(ours, 2)}
    if not args.no_reference:
        for backend in ("torch", "faiss"):
            start = time.process_time()
            search.search(test, train, 200, backend=backend)
            figures[f"search_{backend}_seconds"] = round(time.process_time() - start, 2)
        unit_train, unit_test = F.normalize(train, dim=1), F.normalize(test, dim=1)
        del train
        for name, ks in (("single", (200,)), ("four", knn.KS)):
            start = time.process_time()
            accuracy = [reference(unit_train, train_labels, unit_test, test_labels, k, args.classes) for k in ks]
            figures[f"reference_{name}_seconds"] = round(time.process_time() - start, 2)
            figures[f"ratio_to_{name}"] = round(ours / (time.process_time() - start), 3)
        figures["same_top1"] = [round(top[k]["top1"], 2) for k in knn.KS] == [round(a, 2) for a in accuracy]
    print(json.dumps(figures, indent=1))


def reference(train, train_labels, test, test_labels, k: int, classes: int) -> float:
    """Top-1 in per cent by full rows of similarities and one-hot votes."""
    right, chunk = 0, max(1, len(test) // 100)
    for start in range(0, len(test), chunk):
        similarity = test[start : start + chunk] @ train.T
        value, index = similarity.topk(k, largest=True, sorted=True)
        labels = train_labels[index]
        one_hot = torch.zeros(labels.numel(), classes).scatter_(1, labels.view(-1, 1), 1)
        votes = (one_hot.view(*labels.shape, classes) * value.div(0.07).exp()[..., None]).sum(1)
        right += int((votes.argmax(1) == test_labels[start : start + chunk]).sum())
    return 100 * right / len(test)


def resident(field: str, *, reset: bool = False) -> int:
    """Resident memory of this process in KiB, now (VmRSS) or at its highest (VmHWM) since the last reset. Linux only."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


if __name__ == "__main__":
    main()
