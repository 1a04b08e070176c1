"""Reads Sparkplug B from standard input, `topic hex` a line, with pysparkplug, and prints
what it found, a line of JSON for each message of an edge node: kind, seq, values by name."""

import json
import sys

import pysparkplug as spb

KINDS = {"NBIRTH": spb.NBirth, "NDATA": spb.NData, "NDEATH": spb.NDeath}

birth = None
for line in sys.stdin:
    topic, payload = line.split()
    kind = topic.split("/")[2]
    if kind not in KINDS:
        continue
    message = KINDS[kind].decode(bytes.fromhex(payload), birth=birth if kind == "NDATA" else None)
    if kind == "NBIRTH":
        birth = message
    metrics = getattr(message, "metrics", None)
    if metrics is None:
        values = {"bdSeq": float(message.bd_seq_metric.value)}
    else:
        values = {metric.name: float(metric.value) for metric in metrics}
    print(json.dumps([kind, getattr(message, "seq", -1), values]))
