"""Reads batches with nothing but what protoc makes of telemetry.proto and what its
comments say. Standard input: a line for each message, `topic payload-in-hexadecimal`.
Standard output: a JSON line for each record."""

import hashlib
import json
import struct
import subprocess
import sys

from purlin.v1 import telemetry_pb2 as pb

ZSTD = bytes.fromhex("28b52ffd")


def unpacked(payload):
    if not payload.startswith(ZSTD):
        return payload
    return subprocess.run(["zstd", "-dcq"], input=payload, stdout=subprocess.PIPE, check=True).stdout


def summed(deltas):
    total = 0
    for delta in deltas:
        total += delta
        yield total


def values(column, count):
    if column.raw:
        return list(column.raw) + [column.raw[-1]] * (count - len(column.raw))
    whole, found = column.first, []
    for n in range(count):
        if n:
            delta = column.deltas[n - 1] if n - 1 < len(column.deltas) else 0
            whole += max(column.step, 1) * (column.slope + delta)
        found.append(whole / 10**column.exponent)
    return found


def named(series):
    attributes = ",".join(f"{k}={v}" for k, v in sorted(series.attributes.items()))
    return f"{series.name}{{{attributes}}}"


def records(batch, dictionaries):
    for numbered in batch.records:
        record = numbered.record
        yield batch.first_seq + numbered.offset, record.unix_ms, record.WhichOneof("body"), {}
    for block in batch.blocks:
        dictionary = dictionaries[block.dictionary]
        names = [named(series) for series in [*dictionary.gauges, *dictionary.counters]]
        columns = [values(column, len(block.offsets)) for column in block.columns]
        assert len(names) == len(columns), "as many columns as names"
        for n, (offset, unix_ms) in enumerate(zip(summed(block.offsets), summed(block.unix_ms))):
            points = {name: struct.pack(">d", column[n]).hex() for name, column in zip(names, columns)}
            yield batch.first_seq + offset, unix_ms, "sample", points


dictionaries = {}
for line in sys.stdin:
    topic, payload = line.split()
    payload = unpacked(bytes.fromhex(payload))
    level = topic.split("/")[4:]
    if level[0] == "dict":
        assert hashlib.sha256(payload).hexdigest()[:16] == level[1], "a dictionary has its hash for a name"
        dictionaries[int(level[1], 16)] = pb.Dictionary.FromString(payload)
    elif level[0] in ("alarm", "event", "metric", "log"):
        batch = pb.Batch.FromString(payload)
        for seq, unix_ms, kind, points in records(batch, dictionaries):
            print(json.dumps({"class": level[0], "seq": seq, "unix_ms": unix_ms, "kind": kind, "points": points}))
