// Reads Sparkplug B from standard input, `topic hex` a line, with the npm package
// sparkplug-payload that is in the directory given, and prints what it found, a line of
// JSON for each message of an edge node: kind, seq, values by name.
"use strict";

const { readFileSync } = require("fs");
const spb = require(process.argv[2]).get("spBv1.0");

const names = new Map();
for (const line of readFileSync(0, "utf8").split("\n").filter(Boolean)) {
  const [topic, hex] = line.split(" ");
  const kind = topic.split("/")[2];
  if (!["NBIRTH", "NDATA", "NDEATH"].includes(kind)) continue;
  const payload = spb.decodePayload(Buffer.from(hex, "hex"));
  const values = {};
  for (const metric of payload.metrics) {
    const alias = metric.alias === undefined ? undefined : Number(metric.alias);
    if (metric.name) names.set(alias, metric.name);
    values[metric.name || names.get(alias)] = Number(metric.value);
  }
  const seq = payload.seq === undefined || payload.seq === null ? -1 : Number(payload.seq);
  console.log(JSON.stringify([kind, seq, values]));
}
